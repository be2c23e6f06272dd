"""Make the data of the page "See a metamer emerge": book/_static/explore/data.js, one constant.

    python book/explore.py      # minutes; a file that the present code and weights made is kept

Pictures are kept without loss: of each image the differences from the picture before it, pixel by
pixel and modulo 256, deflated. The first of a run differs from the start, which all runs of a
photograph share.
"""

import base64
import hashlib
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import metalib
from metalib import (
    Metamers,
    Model,
    generate,
    judge,
    list_models,
    load_images,
    load_model,
    load_null,
    zoo,
)

PLACE = Path(__file__).parent / "_static" / "explore" / "data.js"
LIMIT = 3_000_000  # bytes
MEASURES = ("pearson", "spearman", "snr_db")

NETWORKS = ("zoo/resnet-standard-0", "zoo/resnet-robust-0", "zoo/cct-standard-0",
            "zoo/cct-robust-0")  # whose metamers are watched
STAGES = ("group1", "group3", "features")  # at which metamers are shown to others
PHOTOGRAPHS = (0, 5, 6, 17)  # of cifar10-samples
EVALUATIONS = (1, 2, 4, 8, 12, 16, 24, 32, 64)  # at which a picture is kept


def main() -> None:
    """Make the file, unless it is there and was made by the present code and weights."""
    if PLACE.is_file() and PLACE.read_text().startswith(_head(present_hash())):
        PLACE.touch()  # for make, which compares dates
        print(f"{PLACE.name} is as the present code makes it")
        return
    content = script(data())
    PLACE.parent.mkdir(parents=True, exist_ok=True)
    with metalib.store.atomic_write(PLACE) as temporary:
        Path(temporary).write_text(content)
    print(f"{PLACE.name}: {len(content) / 1e6:.2f} MB")


def data(
    networks: Sequence[str] = NETWORKS, generators: Sequence[str] | None = None,
    observers: Sequence[str] | None = None, stages: Sequence[str] = STAGES,
    photographs: Sequence[int] = PHOTOGRAPHS, evaluations: Sequence[int] = EVALUATIONS,
    watched: Sequence[str] | None = None,
) -> dict[str, Any]:
    """All that the page shows, as plain values.

    Args:
        networks: whose metamers are watched on their way, at the stages `watched` (None: all).
        generators, observers: rows and columns of the matrix; None takes the first seed of each
            kind of bundled network, and all bundled networks. Generators are observers, too.
        stages: at which the matrix is made.
        photographs: the references, by their numbers in cifar10-samples.
        evaluations: after how many evaluations a picture is kept; the last is that of the metamer.
    """
    images = load_images("cifar10-samples")[list(photographs)]
    observers = list_models(zoo.SMALL) if observers is None else observers
    generators = list_models(f"{zoo.SMALL}-0") if generators is None else generators
    models = {name: load_model(name) for name in dict.fromkeys([*networks, *observers])}
    seen = [(name, stage) for name in networks for stage in watched or models[name].stages]
    shown = [(name, stage) for name in generators for stage in stages]
    made = {(name, stage): generate(models[name], images, stage, steps=evaluations[-1],
                                    store_every=1, progress=False)
            for name, stage in dict.fromkeys([*seen, *shown])}
    starts = _bytes(made[seen[0]].starts)
    marked = dict.fromkeys([*seen, *((name, stage) for name in observers for stage in stages)])
    return {
        "classes": list(images.class_names),
        "photographs": [{"number": number, "label": images.class_names[label]}
                        for number, label in zip(photographs, images.labels.tolist())],
        "evaluations": [0, *evaluations],
        "networks": _described(models),
        "references": _packed(_bytes(images.images)[:, None]),
        "starts": _packed(starts[:, None]),
        "watched": list(networks),
        "runs": {f"{name} {stage}": _watched(models[name], stage, made[name, stage], evaluations)
                 for name, stage in seen},
        "ends": {f"{name} {stage}": _packed(_bytes(made[name, stage].images)[:, None], starts)
                 for name, stage in shown if (name, stage) not in seen},
        "thresholds": {f"{name} {stage}": _thresholds(models[name], stage)
                       for name, stage in marked},
        "generators": list(generators), "observers": list(observers), "stages": list(stages),
        "shown": {stage: [_shown(models[name], stage, [made[each, stage] for each in generators])
                          for name in observers] for stage in stages},
        "pairs": load_null(models[networks[0]], seen[0][1]).pairs}


def script(values: dict[str, Any], limit: int = LIMIT) -> str:
    """The content of the file: the values as one constant.

    Raises:
        ValueError: it has more than `limit` bytes.
    """
    content = (_head(present_hash()) + ", "
               + json.dumps(values, separators=(",", ":"), allow_nan=False)[1:] + ";\n")
    if len(content) > limit:
        raise ValueError(f"{PLACE.name} would have {len(content)} bytes, more than {limit}")
    return content


def present_hash() -> str:
    """Hash of what the data depend on: this file, and metalib with its weights.

    Code of figures and of long runs does not count.
    """
    package, digest = Path(metalib.__file__).parent, hashlib.sha256(Path(__file__).read_bytes())
    for path in sorted([*package.rglob("*.py"), *package.rglob("weights/*")]):
        name = path.relative_to(package)
        if name.parts[0] not in ("plots", "runs"):
            digest.update(name.as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:20]


def _head(code: str) -> str:
    return f'const EXPLORE = {{"hash": "{code}"'


# --- Numbers ------------------------------------------------------------------------------------

def _watched(
    model: Model, stage: str, made: Metamers, evaluations: Sequence[int],
) -> dict[str, Any]:
    """A run on its way: for each photograph a list over the start and the kept evaluations."""
    assert made.frames is not None and made.history_steps is not None
    places = [made.history_steps.tolist().index(step) for step in evaluations]
    starts, frames = _bytes(made.starts), made.frames[places].transpose(0, 1)
    shape = len(made), 1 + len(evaluations)
    pictures = torch.cat([starts[:, None], frames], 1).flatten(0, 1).float() / 255
    references = made.references.repeat_interleave(shape[1], 0)
    verdict = judge(model, stage, Metamers(pictures, references), load_null(model, stage))
    return {**_numbers(verdict, shape), "said": _said(model, pictures, shape),
            "reference_said": _said(model, made.references, (-1,)),
            "pixels": _packed(frames, starts)}


def _shown(model: Model, stage: str, parts: Sequence[Metamers]) -> dict[str, Any]:
    """What an observer makes of the metamers of all generators: [generator][photograph]."""
    together = Metamers(torch.cat([part.images for part in parts]),
                        torch.cat([part.references for part in parts]))
    verdict, shape = judge(model, stage, together, load_null(model, stage)), (len(parts), -1)
    return {**_numbers(verdict, shape), "said": _said(model, together.images, shape),
            "reference_said": _said(model, parts[0].references, (-1,))}


def _numbers(verdict: Any, shape: tuple[int, ...]) -> dict[str, list]:
    values = {name: verdict[name].to_numpy(float).round(5).reshape(shape) for name in MEASURES}
    plain = {name: np.where(np.isnan(value), None, value).tolist()
             for name, value in values.items()}
    return {**plain, "passed": verdict["passed"].to_numpy(int).reshape(shape).tolist()}


def _said(model: Model, images: torch.Tensor, shape: tuple[int, ...]) -> list:
    with torch.no_grad():
        return model.answer(images).reshape(shape).tolist()


def _thresholds(model: Model, stage: str) -> dict[str, float]:
    """The pass mark of a stage: for each measure that it asks for the null's maximum."""
    null = load_null(model, stage)
    return {name: round(null.maximum[name], 5) for name in null.gates}


def _described(models: dict[str, Model]) -> dict[str, dict]:
    return {name: {**{key: model.card[key] for key in ("architecture", "training", "seed")},
                   "stages": list(model.stages)} for name, model in models.items()}


# --- Pictures -----------------------------------------------------------------------------------

def _bytes(images: torch.Tensor | None) -> torch.Tensor:
    assert images is not None
    return (images * 255).round().to(torch.uint8)


def _packed(pictures: torch.Tensor, before: torch.Tensor | None = None) -> str:
    """Pictures (B, F, 3, H, W) of 8 bits as differences, deflated, in base 64.

    Each of the F differs from the one before it, the first from `before` (B, 3, H, W), black if
    None. Order: photograph, picture, row, column, colour. Each difference has a code of its own.
    """
    first = torch.zeros_like(pictures[:, :1]) if before is None else before[:, None]
    chain = torch.cat([first, pictures], 1).movedim(2, -1).numpy()
    coder = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_HUFFMAN_ONLY)
    parts = [coder.compress(change.tobytes()) + coder.flush(zlib.Z_FULL_FLUSH)
             for change in np.diff(chain, axis=1).reshape(-1, *chain.shape[2:])]
    return base64.b64encode(b"".join([*parts, coder.flush()])).decode()


if __name__ == "__main__":
    main()
