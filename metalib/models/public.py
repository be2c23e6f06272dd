"""Public models: torchvision, timm and RobustBench.

    load_model("torchvision/resnet50.IMAGENET1K_V1")
    load_model("timm/vit_base_patch16_224")
    load_model("robustbench/cifar10/L2/Engstrom2019Robustness")

timm and RobustBench are imported only when one of their models is listed or loaded. Files are
looked for and kept where the library itself keeps them: in `torch.hub`'s checkpoints, in Hugging
Face's cache, and for RobustBench in `./models` if the file is there, otherwise in `robustbench`
in `METALIB_DATA` (default `~/.cache/metalib`).
"""

import contextlib
import functools
import importlib.util
import os
import pickle
import sys
import tempfile
import types
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
import torchvision
from torch import nn

from metalib import labels
from metalib.folders import data_folder
from metalib.models.model import Model
from metalib.models.registry import list_models, missing_files
from metalib.models.sources import SOURCES, Source, full_name
from metalib.models.weights import (
    PACKAGED,
    PACKAGES,
    bare,
    load_packaged,
    load_weights,
    packaged_file,
)
from metalib.models.wrap import wrap_model


def _import(name: str) -> types.ModuleType:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ImportError(f"these models need the package {name}: "
                          f"pip install 'metalib[zoos]', or pip install {name}") from error


def _is_web_page(path: str | Path) -> bool:
    with open(path, "rb") as file:
        return file.read(200).lstrip().lower().startswith((b"<!doctype", b"<html"))


def _hub(url: str) -> Path:
    """Where torch.hub keeps the file of a URL."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name


def _described(count: int) -> dict[str, Any]:
    """Class names, and for ImageNet the coarse classes, of a model with `count` classes."""
    names = {10: labels.CIFAR10, 100: labels.CIFAR100, 1000: labels.IMAGENET}.get(count, ())
    return {"class_names": names, "coarse": labels.IMAGENET16 if count == 1000 else None}


@contextlib.contextmanager
def _loading(prefix: str, name: str, allow_pickle: bool) -> Iterator[None]:
    """While this lasts, checkpoints are read as tensors only, unless pickles are allowed.

    A library's error is raised again as one that names the files and says what to do.
    """
    source = SOURCES[prefix]
    missing = missing_files(source, name)
    for path in source.files(name):
        if path.is_file() and _is_web_page(path):
            raise ValueError(f"{path} is a web page, left by a failed download; "
                             "delete it and load the model again")
    # torch refuses to have both of these set
    settings = ("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
    before = {setting: os.environ.pop(setting, None) for setting in settings}
    os.environ[settings[allow_pickle]] = "1"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="torch|torchvision|timm|robustbench")
            warnings.filterwarnings("ignore", message="Environment variable TORCH_FORCE")
            yield
    except pickle.UnpicklingError as error:
        files = ", ".join(map(str, source.files(name)))
        raise ValueError(
            f"{files} holds more than tensors, or is damaged ({str(error).splitlines()[0]}). "
            f"If you trust its origin, load_model('{prefix}/{name}', allow_pickle=True) unpickles "
            "it, which runs the code in it. Otherwise delete it.") from error
    except (OSError, RuntimeError, EOFError) as error:
        still_missing = [path for path in missing if not path.is_file()]
        if still_missing:
            available = list_models(f"{prefix}/*", offline=True) + list_models("zoo/*")
            raise FileNotFoundError(
                f"the weights of {prefix}/{name} are not on this machine and could not be "
                f"downloaded ({type(error).__name__}: "
                f"{str(error).splitlines()[0] if str(error) else ''}). Load the model on a machine "
                f"with a connection and copy {_and(still_missing)} to the same place on this one. "
                f"Available without a connection: {', '.join(available)}") from error
        raise ValueError(
            f"{_and(source.files(name))} cannot be read as the weights of {prefix}/{name} "
            f"({error}); if the file is damaged, delete it and load the model again") from error
    finally:
        del os.environ[settings[allow_pickle]]
        os.environ.update(
            {setting: value for setting, value in before.items() if value is not None})


def _and(paths: Iterable[Path]) -> str:
    return " and ".join(map(str, paths))


def _card(
    network: nn.Module, weights: str | Path | None, name: str, allow_pickle: bool,
    own: dict[str, Any],
) -> dict[str, Any]:
    """Load the user's weights, if there are any, and give the card: theirs or the library's `own`.
    """
    if weights is None:
        return own
    load_weights(network, weights, name, allow_pickle)
    return {"weights": str(weights)}


# --- torchvision ----------------------------------------------------------------------------------

def _torchvision_names() -> list[str]:
    models = torchvision.models
    names = models.list_models(module=models)
    return names + [f"{name}.{weights.name}"
                    for name in names for weights in models.get_model_weights(name)]


def _torchvision_weights(name: str) -> tuple[str, Any]:
    """The architecture of a model and its weights, a member of a torchvision WeightsEnum."""
    architecture, _, weights = name.partition(".")
    enum: Any = torchvision.models.get_model_weights(architecture)
    return architecture, enum[weights] if weights else enum.DEFAULT


def _torchvision_load(
    name: str, *, stages: Sequence[str] | None = None, allow_pickle: bool = False,
    pretrained: bool = True, weights: str | Path | None = None,
) -> Model:
    architecture, own = _torchvision_weights(name)
    if pretrained and weights is None:
        with _loading("torchvision", name, allow_pickle):
            network = torchvision.models.get_model(architecture, weights=own)
    else:
        network = torchvision.models.get_model(architecture)
    transform = own.transforms()
    about = {"weights": str(own), "url": own.url} if pretrained else {}
    return wrap_model(
        network, stages=stages, mean=transform.mean, std=transform.std,
        input_size=transform.crop_size[0], name=full_name("torchvision", name, pretrained, weights),
        card=_card(network, weights, f"torchvision/{name}", allow_pickle, about),
        **_described(len(own.meta["categories"])))


# --- timm -----------------------------------------------------------------------------------------

@functools.cache
def _timm_names() -> list[str]:
    tagged = [name for name in _import("timm").list_models(pretrained=True) if "." in name]
    return sorted({*tagged, *(name.partition(".")[0] for name in tagged)})


def _timm_files(name: str) -> list[Path]:
    """The file of a model in torch.hub's checkpoints, in Hugging Face's cache, or in a package.

    Hugging Face names a file by a hash once it is there.
    """
    import huggingface_hub
    config = _import("timm").get_pretrained_cfg(name)
    if not config.hf_hub_id:
        return [_hub(config.url)]
    for file in ("model.safetensors", "pytorch_model.bin", config.hf_hub_filename):
        found = file and huggingface_hub.try_to_load_from_cache(config.hf_hub_id, file)
        if isinstance(found, str):
            return [Path(found)]
    if packaged := packaged_file(name):
        return [packaged]
    cache = Path(huggingface_hub.constants.HF_HUB_CACHE)
    return [cache / f"models--{config.hf_hub_id.replace('/', '--')}"
            / (config.hf_hub_filename or "model.safetensors")]


def _timm_load(
    name: str, *, stages: Sequence[str] | None = None, allow_pickle: bool = False,
    pretrained: bool = True, weights: str | Path | None = None,
) -> Model:
    timm = _import("timm")
    file = _timm_files(name)[0] if pretrained and weights is None else None
    packaged = file if file == packaged_file(name) else None
    network = (timm.create_model(name) if file is None or packaged
               else _timm_pretrained(timm, name, file, allow_pickle))
    config = timm.data.resolve_model_data_config(network)
    about = dict(network.pretrained_cfg) if pretrained else {}
    if packaged is not None:
        load_packaged(network, packaged)
        config, about = config | PACKAGED, {"weights": f"of the package {PACKAGES[bare(name)]}"}
    return wrap_model(
        network, stages=stages, mean=config["mean"], std=config["std"],
        input_size=config["input_size"][1:], name=full_name("timm", name, pretrained, weights),
        card=_card(network, weights, f"timm/{name}", allow_pickle, about),
        **_described(network.num_classes))


def _timm_pretrained(
    timm: types.ModuleType, name: str, file: Path, allow_pickle: bool,
) -> Any:
    from_hub = timm.get_pretrained_cfg(name).hf_hub_id
    if from_hub and not _import("timm.models._hub").has_hf_hub():
        raise ImportError(f"timm {timm.__version__} cannot use the installed huggingface_hub: "
                          "pip install 'huggingface_hub<1'")
    # without this overlay timm asks the hub, even if the file is on this machine
    overlay = {"pretrained_cfg_overlay": {"file": str(file)}} if file.is_file() else {}
    with _loading("timm", name, allow_pickle):
        if from_hub and not overlay:  # one try, where a download would make a dozen
            hub = _import("huggingface_hub")
            hub.utils.get_session().head(hub.constants.ENDPOINT, timeout=10)
        return timm.create_model(name, pretrained=True, **overlay)


# --- RobustBench ----------------------------------------------------------------------------------

ROBUSTBENCH_CLASSES: dict[str, int] = {"cifar10": 10, "cifar100": 100, "imagenet": 1000}


@functools.cache
def _robustbench() -> types.ModuleType:
    """robustbench.utils of robustbench 1.1, imported with stand-ins for two modules it lacks.

    It imports `autoattack`, which its dependency now calls `pyautoattack`, and `pkg_resources`,
    which setuptools no longer has, for one function that finds a file of its own. The stand-ins
    are removed after the import.
    """
    pkg_resources: Any = types.ModuleType("pkg_resources")
    pkg_resources.resource_filename = lambda package, path: str(
        resources.files(package.rpartition(".")[0]) / path)
    missing = {}
    for name, module in (("pkg_resources", lambda: pkg_resources),
                         ("autoattack", lambda: _import("pyautoattack"))):
        if importlib.util.find_spec(name) is None:
            missing[name] = module()
    sys.modules.update(missing)
    try:
        _import("robustbench")
        return _import("robustbench.utils")
    finally:
        for name in missing:
            del sys.modules[name]


def _robustbench_entries() -> dict[str, dict[str, Any]]:
    """RobustBench's own entries, by "<dataset>/<threat model>/<name>"."""
    return {f"{dataset.value}/{threat.value}/{name}": entry
            for dataset, threats in _robustbench().all_models.items()
            for threat, models in threats.items() for name, entry in models.items()}


def _robustbench_timm(name: str) -> str:
    """The name under which RobustBench registers a transformer with timm."""
    dataset, threat, entry = name.split("/")
    return f"{entry}_{dataset}_{threat}".lower().replace("-", "_")


def _robustbench_folder(name: str) -> Path:
    """RobustBench's model directory: ./models if it has the model, otherwise one for all."""
    local = Path("models")
    if any((local / name).parent.glob(f"{Path(name).name}.pt*")):
        return local
    return data_folder() / "robustbench"


def _robustbench_downloads(name: str) -> dict[Path, str | None]:
    """The files of a model, each with its identifier on Google Drive.

    None stands for a file that robustbench fetches from elsewhere.
    """
    entry, timm_name = _robustbench_entries()[name], _robustbench_timm(name)
    drive, config = entry["gdrive_id"], _import("timm").get_pretrained_cfg(timm_name)
    path = _robustbench_folder(name) / f"{name}.pt"
    if config is not None:
        return {_hub(config.url): None}
    if isinstance(drive, list):
        return {path.with_name(f"{path.name}_m{number}.pt"): identifier
                for number, identifier in enumerate(drive)}
    if not drive:  # the standard ResNet-50 of torchvision
        return {_hub(torchvision.models.ResNet50_Weights.IMAGENET1K_V1.url): None}
    return {path: drive}


def _download_from_drive(identifier: str, path: Path) -> None:
    """Fetch a file to its place, or leave nothing."""
    import gdown
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        file = gdown.download(id=identifier, output=str(Path(folder) / path.name))
        if file is None or _is_web_page(file):
            raise OSError(f"Google Drive did not give the file {identifier}; "
                          "it may limit downloads of it for some hours")
        os.replace(file, path)


def _robustbench_load(
    name: str, *, stages: Sequence[str] | None = None, allow_pickle: bool = False,
    pretrained: bool = True, weights: str | Path | None = None,
) -> Model:
    entry, dataset = _robustbench_entries()[name], name.split("/")[0]
    network = (_robustbench_pretrained(name, allow_pickle) if pretrained and weights is None
               else _robustbench_untrained(name))
    about = {"dataset": dataset, "threat_model": name.split("/")[1]} if pretrained else {}
    card = _card(network, weights, f"robustbench/{name}", allow_pickle, about)
    # An ensemble averages outside any submodule: as a submodule itself, its logits are a stage.
    if isinstance(entry["gdrive_id"], list):
        network = nn.Sequential(OrderedDict(ensemble=network))
    side = 32 if dataset != "imagenet" else 288 if entry.get("preprocessing") == "Crop288" else 224
    return wrap_model(
        network, stages=stages, input_size=side, mean=(0,) * 3,  # normalisation is in the network
        name=full_name("robustbench", name, pretrained, weights), card=card,
        **_described(ROBUSTBENCH_CLASSES[dataset]))


def _robustbench_pretrained(name: str, allow_pickle: bool) -> nn.Module:
    dataset, threat, model_name = name.split("/")
    with _loading("robustbench", name, allow_pickle):
        for path, identifier in _robustbench_downloads(name).items():
            if identifier and not path.is_file():
                _download_from_drive(identifier, path)
        return _robustbench().load_model(
            model_name, model_dir=_robustbench_folder(name), dataset=dataset, threat_model=threat)


def _robustbench_untrained(name: str) -> nn.Module:
    timm, timm_name = _import("timm"), _robustbench_timm(name)
    if timm.is_model(timm_name):
        return timm.create_model(timm_name, num_classes=ROBUSTBENCH_CLASSES[name.split("/")[0]])
    if not _robustbench_entries()[name]["gdrive_id"]:
        library = _import("robustbench.model_zoo.imagenet")
        return library.normalize_model(torchvision.models.resnet50(), library.mu, library.sigma)
    return _robustbench_entries()[name]["model"]()


SOURCES["torchvision"] = Source(
    _torchvision_names, _torchvision_load, lambda name: [_hub(_torchvision_weights(name)[1].url)])
SOURCES["timm"] = Source(_timm_names, _timm_load, _timm_files)
SOURCES["robustbench"] = Source(
    lambda: list(_robustbench_entries()), _robustbench_load,
    lambda name: list(_robustbench_downloads(name)))
