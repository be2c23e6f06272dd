"""Public models: torchvision, timm and RobustBench. The libraries are imported when a model of theirs is listed or loaded.

    load_model("torchvision/resnet50.IMAGENET1K_V1")
    load_model("timm/vit_base_patch16_224")
    load_model("robustbench/cifar10/L2/Engstrom2019Robustness")

Files are looked for and kept where the library itself has them: `torch.hub`'s checkpoints, Hugging Face's cache, and for
RobustBench `./models` if the file is there, else `robustbench` in `METALIB_DATA` (default `~/.cache/metalib`).
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
from importlib import resources
from pathlib import Path
from urllib.parse import urlparse

import torch
import torchvision
from torch import nn

from metalib import classes
from metalib.models import SOURCES, Source, full_name, list_models, missing_files, wrap_model

IMAGENET = tuple(torchvision.models.ResNet50_Weights.DEFAULT.meta["categories"])


def _import(name):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ImportError(f"these models need the package {name}: pip install 'metalib[zoos]', or pip install {name}") from error


def _is_web_page(path):
    with open(path, "rb") as file:
        return file.read(200).lstrip().lower().startswith((b"<!doctype", b"<html"))


def _hub(url):
    """Where torch.hub keeps the file of a URL."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name


def _described(count):
    """Class names, and for ImageNet the coarse classes, of a model with so many classes."""
    names = {10: classes.CIFAR10, 100: classes.CIFAR100, 1000: IMAGENET}.get(count, ())
    return {"class_names": names, "coarse": classes.IMAGENET16 if count == 1000 else None}


@contextlib.contextmanager
def _loading(prefix, name, allow_pickle):
    """Checkpoints are read as tensors only, unless pickles are allowed; what goes wrong is said in terms of files."""
    source = SOURCES[prefix]
    missing = missing_files(source, name)
    for path in source.files(name):
        if path.is_file() and _is_web_page(path):
            raise ValueError(f"{path} is a web page, left by a download that failed; delete it and load the model again")
    settings = ("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")  # torch refuses both together
    before = {setting: os.environ.pop(setting, None) for setting in settings}
    os.environ[settings[allow_pickle]] = "1"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="torch|torchvision|timm|robustbench")
            warnings.filterwarnings("ignore", message="Environment variable TORCH_FORCE")
            yield
    except pickle.UnpicklingError as error:
        files = ", ".join(map(str, source.files(name)))
        raise ValueError(f"{files} holds more than tensors, or is damaged ({str(error).splitlines()[0]}). If you trust where it "
                         f"comes from: load_model('{prefix}/{name}', allow_pickle=True) unpickles it, which runs the code in "
                         "it. Otherwise delete it.") from error
    except (OSError, RuntimeError, EOFError) as error:
        still = [path for path in missing if not path.is_file()]
        if still:
            here = list_models(f"{prefix}/*", offline=True) + list_models("zoo/*")
            raise FileNotFoundError(
                f"the weights of {prefix}/{name} are not on this machine and could not be downloaded "
                f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}). With a network, load the model "
                f"there and copy {_and(still)} to the same place here. Available without a network: {', '.join(here)}") from error
        raise ValueError(f"{_and(source.files(name))} cannot be read as the weights of {prefix}/{name} ({error}); if the "
                         "file is damaged, delete it and load the model again") from error
    finally:
        del os.environ[settings[allow_pickle]]
        os.environ.update({setting: value for setting, value in before.items() if value is not None})


def _and(paths):
    return " and ".join(map(str, paths))


# --- torchvision ------------------------------------------------------------------------------------------------------

def _torchvision_names():
    models = torchvision.models
    names = models.list_models(module=models)
    return names + [f"{name}.{weights.name}" for name in names for weights in models.get_model_weights(name)]


def _torchvision_weights(name):
    architecture, _, weights = name.partition(".")
    enum = torchvision.models.get_model_weights(architecture)
    return architecture, enum[weights] if weights else enum.DEFAULT


def _torchvision_load(name, *, stages=None, allow_pickle=False, pretrained=True):
    architecture, weights = _torchvision_weights(name)
    with _loading("torchvision", name, allow_pickle) if pretrained else contextlib.nullcontext():
        network = torchvision.models.get_model(architecture, weights=weights if pretrained else None)
    transform = weights.transforms()
    return wrap_model(network, stages=stages, mean=transform.mean, std=transform.std, input_size=transform.crop_size[0],
                      name=full_name("torchvision", name, pretrained),
                      card={"weights": str(weights), "url": weights.url} if pretrained else {},
                      **_described(len(weights.meta["categories"])))


# --- timm -------------------------------------------------------------------------------------------------------------

@functools.cache
def _timm_names():
    tagged = [name for name in _import("timm").list_models(pretrained=True) if "." in name]
    return sorted({*tagged, *(name.partition(".")[0] for name in tagged)})


def _timm_files(name):
    """The file of a model in Hugging Face's cache (which names it by a hash once it is there), or in torch.hub's."""
    import huggingface_hub
    config = _import("timm").get_pretrained_cfg(name)
    if not config.hf_hub_id:
        return [_hub(config.url)]
    for file in ("model.safetensors", "pytorch_model.bin", config.hf_hub_filename):
        found = file and huggingface_hub.try_to_load_from_cache(config.hf_hub_id, file)
        if isinstance(found, str):
            return [Path(found)]
    cache = Path(huggingface_hub.constants.HF_HUB_CACHE)
    return [cache / f"models--{config.hf_hub_id.replace('/', '--')}" / (config.hf_hub_filename or "model.safetensors")]


def _timm_load(name, *, stages=None, allow_pickle=False, pretrained=True):
    timm = _import("timm")
    network = _timm_pretrained(timm, name, allow_pickle) if pretrained else timm.create_model(name)
    config = timm.data.resolve_model_data_config(network)
    return wrap_model(network, stages=stages, mean=config["mean"], std=config["std"], input_size=config["input_size"][-1],
                      name=full_name("timm", name, pretrained), card=dict(network.pretrained_cfg) if pretrained else {},
                      **_described(network.num_classes))


def _timm_pretrained(timm, name, allow_pickle):
    from_hub = timm.get_pretrained_cfg(name).hf_hub_id
    if from_hub and not _import("timm.models._hub").has_hf_hub():
        raise ImportError(f"timm {timm.__version__} cannot use the installed huggingface_hub: pip install 'huggingface_hub<1'")
    file, = _timm_files(name)
    here = {"pretrained_cfg_overlay": {"file": str(file)}} if file.is_file() else {}  # else timm asks the network about it
    with _loading("timm", name, allow_pickle):
        if from_hub and not here:  # one question, where a download would ask a dozen times
            hub = _import("huggingface_hub")
            hub.utils.get_session().head(hub.constants.ENDPOINT, timeout=10)
        return timm.create_model(name, pretrained=True, **here)


# --- RobustBench ------------------------------------------------------------------------------------------------------

ROBUSTBENCH_CLASSES = {"cifar10": 10, "cifar100": 100, "imagenet": 1000}


@functools.cache
def _robustbench():
    """The package robustbench 1.1, whose imports are broken in two places that are mended while it is imported.

    It asks for `autoattack`, which its own dependency now calls `pyautoattack`, and for `pkg_resources`, which setuptools no
    longer has; of that it needs one function, to find a file of its own.
    """
    stand_in = types.ModuleType("pkg_resources")
    stand_in.resource_filename = lambda package, path: str(resources.files(package.rpartition(".")[0]) / path)
    missing = {}
    for name, module in (("pkg_resources", lambda: stand_in), ("autoattack", lambda: _import("pyautoattack"))):
        if importlib.util.find_spec(name) is None:
            missing[name] = module()
    sys.modules.update(missing)
    try:
        _import("robustbench")
        return _import("robustbench.utils")
    finally:
        for name in missing:
            del sys.modules[name]


def _robustbench_entries():
    return {f"{dataset.value}/{threat.value}/{name}": entry for dataset, threats in _robustbench().all_models.items()
            for threat, models in threats.items() for name, entry in models.items()}


def _robustbench_timm(name):
    """RobustBench's transformers are registered with timm, under this name."""
    dataset, threat, entry = name.split("/")
    return f"{entry}_{dataset}_{threat}".lower().replace("-", "_")


def _robustbench_folder(name):
    """RobustBench's model directory: ./models where this model is already there, else one folder for all."""
    here = Path("models")
    if any((here / name).parent.glob(f"{Path(name).name}.pt*")):
        return here
    return Path(os.environ.get("METALIB_DATA") or Path.home() / ".cache" / "metalib").expanduser() / "robustbench"


def _robustbench_downloads(name):
    """The files of a model, each with its identifier on Google Drive, or None where robustbench fetches it by another way."""
    entry, timm_name = _robustbench_entries()[name], _robustbench_timm(name)
    drive, config = entry["gdrive_id"], _import("timm").get_pretrained_cfg(timm_name)
    path = _robustbench_folder(name) / f"{name}.pt"
    if config is not None:
        return {_hub(config.url): None}
    if isinstance(drive, list):
        return {path.with_name(f"{path.name}_m{number}.pt"): identifier for number, identifier in enumerate(drive)}
    if not drive:  # the standard ResNet-50 of torchvision
        return {_hub(torchvision.models.ResNet50_Weights.IMAGENET1K_V1.url): None}
    return {path: drive}


def _download_from_drive(identifier, path):
    """Fetch a file to its place, or leave nothing."""
    import gdown
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        file = gdown.download(id=identifier, output=str(Path(folder) / path.name))
        if file is None or _is_web_page(file):
            raise OSError(f"Google Drive did not give the file {identifier}; it may limit downloads of it for some hours")
        os.replace(file, path)


def _robustbench_load(name, *, stages=None, allow_pickle=False, pretrained=True):
    entry, dataset = _robustbench_entries()[name], name.split("/")[0]
    network = _robustbench_pretrained(name, allow_pickle) if pretrained else _robustbench_untrained(name)
    if isinstance(entry["gdrive_id"], list):  # an ensemble averages outside any submodule: one around it makes its logits a stage
        network = nn.Sequential(OrderedDict(ensemble=network))
    side = 32 if dataset != "imagenet" else 288 if entry.get("preprocessing") == "Crop288" else 224
    return wrap_model(network, stages=stages, input_size=side,  # normalisation is in the network
                      name=full_name("robustbench", name, pretrained),
                      card={"dataset": dataset, "threat_model": name.split("/")[1]} if pretrained else {},
                      **_described(ROBUSTBENCH_CLASSES[dataset]))


def _robustbench_pretrained(name, allow_pickle):
    dataset, threat, model_name = name.split("/")
    with _loading("robustbench", name, allow_pickle):
        for path, identifier in _robustbench_downloads(name).items():
            if identifier and not path.is_file():
                _download_from_drive(identifier, path)
        return _robustbench().load_model(model_name, model_dir=_robustbench_folder(name), dataset=dataset, threat_model=threat)


def _robustbench_untrained(name):
    timm, timm_name = _import("timm"), _robustbench_timm(name)
    if timm.is_model(timm_name):
        return timm.create_model(timm_name, num_classes=ROBUSTBENCH_CLASSES[name.split("/")[0]])
    if not _robustbench_entries()[name]["gdrive_id"]:
        library = _import("robustbench.model_zoo.imagenet")
        return library.normalize_model(torchvision.models.resnet50(), library.mu, library.sigma)
    return _robustbench_entries()[name]["model"]()


SOURCES["torchvision"] = Source(_torchvision_names, _torchvision_load, lambda name: [_hub(_torchvision_weights(name)[1].url)])
SOURCES["timm"] = Source(_timm_names, _timm_load, _timm_files)
SOURCES["robustbench"] = Source(lambda: list(_robustbench_entries()), _robustbench_load,
                                lambda name: list(_robustbench_downloads(name)))
