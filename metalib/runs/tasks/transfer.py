"""Metamers of one model, shown to others."""

import json
from collections.abc import Sequence
from typing import Any

import pandas as pd

from metalib.data import load_images
from metalib.evaluation.correspondence import CKA_IMAGES, Correspondence
from metalib.evaluation.coverage import covered
from metalib.evaluation.inventory import Nulls
from metalib.evaluation.nulls import shipped_stages
from metalib.evaluation.shown import positive_controls
from metalib.evaluation.transfer import Plan, transfer_study
from metalib.generation.arguments import optimizer_of
from metalib.models import zoo
from metalib.models.registry import list_models
from metalib.plain import whole
from metalib.runs.tasks.checks import check_stage, checked_by, known, only
from metalib.runs.tasks.generation import references

ROW = ("generator", "stage", "observer", "image")  # what names a row of the study


def check_transfer(
    *, generator: str, stage: str | float, observers: Sequence[str], image_set: str,
    split: str | None, n_images: int, size: int, null_set: str | None, null_images: int,
    steps: int, correspondences: Sequence[str], correspondence_set: str | None,
    correspondence_images: int, cards: dict[str, dict[str, Any]] | None, allow_pickle: bool,
    generation: dict[str, Any] | None, **_: Any,
) -> None:
    """Raise a ValueError unless there are such models, stages, nulls, optimizer and images."""
    images, load = known(image_set, split, n_images, size, allow_pickle, json.dumps(cards or {}))
    few = min(whole("null_images", null_images, 2), 20)
    natural = known(null_set, None, few, size)[0] if null_set else None
    whole("correspondence_images", correspondence_images, CKA_IMAGES)
    others = known(correspondence_set, None, CKA_IMAGES, size)[0] if correspondence_set else None
    Correspondence(load, others, images[:0]).check(correspondences)
    Plan.of(load.entries([generator], images, "generators"),
            load.entries(list(observers) or list_models(zoo.SMALL), images, "observers"), images,
            [stage], Nulls({}, natural), Correspondence(load, None, images), ["name"], False, {},
            True, 1)
    if generation and "optimizer" in generation:
        optimizer_of(generation["optimizer"], generation.get("jitter", 0))
    whole("steps", steps, 1)


@checked_by(check_transfer, sized_by="generator")
def transfer(
    generator: str, stage: str | float, observers: Sequence[str] = (),
    image_set: str = "cifar10-samples", split: str | None = None, n_images: int = 20,
    size: int | None = None, null_set: str | None = None, null_images: int = 2000, steps: int = 60,
    seed: int = 0, cards: dict[str, dict[str, Any]] | None = None, allow_pickle: bool = False,
    device: str = "cpu", generation: dict[str, Any] | None = None, controls: bool = True,
    correspondences: Sequence[str] = ("name",), correspondence_set: str | None = None,
    correspondence_images: int = 200, columns: Sequence[str] = (), first: int = 0,
) -> pd.DataFrame:
    """The transfer study of one generator at one stage; a grid of these is the whole study.

    Args:
        generator, stage: names; a stage may be a relative depth instead.
        observers: names; without any, all bundled networks of CIFAR-10.
        image_set, split, n_images, size: the references, as in `load_images`.
        null_set, null_images: source and number of the natural images for models that ship no
            null.
        steps, seed, cards, allow_pickle, device, generation, controls: as in `transfer_study`.
        correspondences: as in `transfer_study`.
        correspondence_set, correspondence_images: source and number of the natural images for
            "cka".
        columns: those of its table to keep, in single precision, beside those that name a row;
            without any, the whole table.
        first: only so many of the references, each row as with all of them; 0 takes all.

    Returns:
        pandas.DataFrame: the rows of `metalib.transfer_study`.

    Raises:
        ValueError: a column that the table does not have.
    """
    images = references(image_set, split, n_images, size, seed, whole("first", first, 0))
    natural = load_images(null_set, n=null_images, seed=seed + 1, size=size) if null_set else None
    others = load_images(correspondence_set, n=correspondence_images, seed=seed + 1, size=size
                         ) if correspondence_set else None
    table = transfer_study(
        [generator], list(observers) or list_models(zoo.SMALL), images, stages=[stage],
        null_images=natural, steps=steps, seed=seed, cards=cards, allow_pickle=allow_pickle,
        device=device, generation=generation, controls=controls, correspondences=correspondences,
        correspondence_images=others)
    return only(table, ROW, columns) if columns else table


def check_copies(
    *, observer: str, stages: Sequence[str], image_set: str, split: str | None, n_images: int,
    size: int, first: int, **_: Any,
) -> None:
    """Raise a ValueError unless there are such a network, stages, nulls and images."""
    images, load = known(image_set, split, n_images, size)
    entry, = load.entries([observer], images, "observers")
    for stage in stages or entry.stages:
        check_stage(entry, stage)
        if stage not in shipped_stages(observer):
            raise ValueError(f"no null ships for {observer}, {stage}")
    whole("first", first, 0, n_images)


@checked_by(check_copies, sized_by="observer")
def copies(
    observer: str, stages: Sequence[str] = (), image_set: str = "cifar10-samples",
    split: str | None = None, n_images: int = 20, size: int | None = None, seed: int = 0,
    first: int = 0,
) -> pd.DataFrame:
    """Positive controls of a transfer study: what an observer makes of copies of the references.

    Args:
        observer: the name of a network that comes with nulls.
        stages: some of its stages; without any, all of them.
        image_set, split, n_images, size, seed, first: the references, as in `transfer`.

    Returns:
        pandas.DataFrame: the rows of `metalib.evaluation.shown.positive_controls`, with numbers in
        single precision.
    """
    images = references(image_set, split, n_images, size, seed, first)
    table = positive_controls([observer], images, stages=list(stages) or None)
    return table.astype(dict.fromkeys(table.select_dtypes("float64"), "float32"))


def coverage(
    share: float, boolean: bool = False, seed: int = 0, studies: int = 100, architectures: int = 4,
    trainings: int = 3, seeds: int = 2, images: int = 30, dropped: float = 0.0,
) -> pd.DataFrame:
    """How often contrasts of made-up transfer studies are found to differ, though they do not.

    The arguments and the rows are those of `metalib.evaluation.coverage.covered`; the studies of
    one `seed` have the seeds from `seed` times `studies` on.
    """
    return covered(studies, share=share, boolean=boolean, seed=seed * studies,
                   architectures=architectures, trainings=trainings, seeds=seeds, images=images,
                   dropped=dropped)
