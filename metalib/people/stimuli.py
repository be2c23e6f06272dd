"""What an experiment shows: conditions, natural images, and the right answers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metalib.data import ImageSet, to_bytes
from metalib.generation.metamers import Metamers
from metalib.people.design import Design

KEYS = "1234567890qwertyuiopasdfghjklzxcvbnm"  # of the answers, in their order
Conditions = Metamers | Mapping[str, Metamers] | Sequence[Metamers]
Classes = Sequence[str] | Mapping[str, Iterable[str]]


@dataclass(frozen=True)
class Condition:
    """A condition of the test.

    Attributes:
        about: its name, and the networks, stages and seed behind it; columns of the data.
        images: (B, 3, H, W), one for each reference.
        replaced: (B,) bool, those that are the reference, since the metamer was none.
    """

    about: dict[str, Any]
    images: Tensor
    replaced: Tensor


@dataclass(frozen=True)
class Stimuli:
    """All that is shown.

    Attributes:
        answers: the classes that each answer stands for.
        conditions: what a reference may be shown as.
        kept: the references of the test, by their numbers, those of a class together.
        right: the right answer of every reference.
        natural: images of practice and screening.
        right_natural: their right answers.
    """

    answers: dict[str, set[str]]
    conditions: list[Condition]
    kept: list[int]
    right: list[str]
    natural: ImageSet
    right_natural: list[str]


def stimuli(
    metamers: Conditions, references: ImageSet, classes: Classes | None, design: Design,
    practice: ImageSet | None, passed: Mapping[str, Sequence[bool]],
) -> Stimuli:
    """Put together what an experiment shows; arguments and errors as in `experiment`."""
    answers = _answers(references, classes)
    right = _right(references, answers, "references")
    conditions = _conditions(metamers, references, passed)
    if design.natural:
        original = {"condition": "natural", "generator": "", "stage": "", "seed": ""}
        none = torch.zeros(len(references), dtype=torch.bool)
        conditions.append(Condition(original, references.images, none))
    wanted = design.practice + design.screening
    by_class = sorted(range(len(right)), key=lambda k: (list(answers).index(right[k]), k))
    if practice is not None:
        if len(practice) < wanted:
            raise ValueError(f"practice and screening take {wanted} images, and practice= has "
                             f"{len(practice)}; give more, or lower both in design=")
        natural, kept = practice[:wanted], by_class
        right_natural = _right(natural, answers, "practice")
    else:
        if len(references) <= wanted:
            raise ValueError(
                f"practice and screening take {wanted} of the {len(references)} references, which "
                "leaves none: pass other natural images as practice=, or lower both in design=")
        turns = _class_by_class(by_class, right)
        natural, kept = references[turns[:wanted]], [k for k in by_class if k in turns[wanted:]]
        right_natural = [right[k] for k in turns[:wanted]]
    if design.trials is not None and design.trials > len(kept):
        raise ValueError(f"a participant is to see {design.trials} references, but there are "
                         f"{len(kept)}")
    return Stimuli(answers, conditions, kept, right, natural, right_natural)


def _class_by_class(by_class: list[int], right: list[str]) -> list[int]:
    """Images in turns: the first of each class, then the second of each, and so on."""
    before: dict[str, int] = {}
    turn = {}
    for k in by_class:
        turn[k] = before[right[k]] = before.get(right[k], -1) + 1
    return sorted(by_class, key=turn.__getitem__)


def _answers(references: ImageSet, classes: Classes | None) -> dict[str, set[str]]:
    """The classes that each answer stands for."""
    if classes is None:
        present = {references.class_names[k] for k in references.labels.tolist()
                   if 0 <= k < len(references.class_names)}
        classes = [name for name in references.class_names if name in present]
    found = ({name: set(members) for name, members in classes.items()}
             if isinstance(classes, Mapping) else {name: {name} for name in classes})
    if not 2 <= len(found) <= len(KEYS):
        raise ValueError(f"there are {len(found)} answers; a grid has 2 to {len(KEYS)}: pass "
                         "classes=, names or a dict from answers to the classes they stand for")
    return found


def _right(images: ImageSet, answers: Mapping[str, set[str]], what: str) -> list[str]:
    """The right answer of each image."""
    found = []
    for label in images.labels.tolist():
        if not 0 <= label < len(images.class_names):
            raise ValueError(f"{what}: the class of an image is not known")
        name = images.class_names[label]
        right = [answer for answer, members in answers.items() if name in members]
        if len(right) != 1:
            raise ValueError(f"{what}: the class {name} is {'several answers' if right else ''}"
                             f"{'' if right else 'no answer'}; the answers are "
                             f"{', '.join(answers)}")
        found.append(right[0])
    return found


def _conditions(
    metamers: Conditions, references: ImageSet, passed: Mapping[str, Sequence[bool]],
) -> list[Condition]:
    """The conditions that are made of metamers."""
    named = _named(metamers)
    if not named or "natural" in named:
        raise ValueError("there have to be conditions, with other names than 'natural', which is "
                         "that of the references")
    if unknown := passed.keys() - named.keys():
        raise ValueError(f"passed= names {', '.join(unknown)}; the conditions are "
                         f"{', '.join(named)}")
    found = []
    for name, made in named.items():
        if made.images.shape != references.images.shape or not torch.equal(
                to_bytes(made.references), to_bytes(references.images)):
            raise ValueError(f"the metamers of the condition {name!r} are of other references")
        fine = torch.as_tensor(np.asarray(passed.get(name, [True] * len(references)), dtype=bool))
        if len(fine) != len(references):
            raise ValueError(f"passed[{name!r}] has {len(fine)} values for {len(references)} "
                             "images")
        about = {"condition": name, "generator": " + ".join(made.recipe.get("models", ())),
                 "stage": " + ".join(made.recipe.get("stages", ())),
                 "seed": made.recipe.get("seed", "")}
        images = torch.where(fine.view(-1, 1, 1, 1), made.images, references.images)
        found.append(Condition(about, images, ~fine))
    return found


def _named(metamers: Conditions) -> Mapping[str, Metamers]:
    """Metamers by the names of their conditions: those given, or what made them.

    Raises:
        ValueError: two of one name.
    """
    if isinstance(metamers, Mapping):
        return metamers
    named: dict[str, Metamers] = {}
    for each in [metamers] if isinstance(metamers, Metamers) else metamers:
        pairs = zip(each.recipe.get("models", ()), each.recipe.get("stages", ()))
        name = " + ".join(f"{model}, {stage}" for model, stage in pairs) or "metamers"
        if name in named:
            raise ValueError(f"two conditions are called {name!r}: give them names, as in "
                             "{'name': metamers}")
        named[name] = each
    return named
