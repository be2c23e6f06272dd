"""Networks take the same test: the same images, the same set of answers, rows of the same table."""

from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor

from metalib.data import ImageSet
from metalib.labels import places
from metalib.models import Model, load_model
from metalib.people.design import Design
from metalib.people.reading import TABLE
from metalib.people.stimuli import Classes, Conditions, stimuli


def take(
    networks: Model | str | Sequence[Model | str], metamers: Conditions, references: ImageSet, *,
    classes: Classes | None = None, natural: bool = True,
    passed: Mapping[str, Sequence[bool]] | None = None, batch_size: int = 100,
) -> pd.DataFrame:
    """Let networks answer what people are asked: every reference in every condition.

    A network chooses among the answers, not among all of its classes: the answer whose classes have
    the largest probability together (softmax of the logits), as for the sixteen classes of Geirhos
    et al. 2018 (arXiv:1808.08750).

    Args:
        networks: one or several, by name or as a Model, that know the classes by name.
        metamers, references, classes, passed: as in `experiment`.
        natural: whether the references themselves are a condition.
        batch_size: images that go through a network together.

    Returns:
        pandas.DataFrame: the columns of `read`; `observer` is the network, `rt` is missing, and
        `agrees` compares with its answer to the reference.

    Raises:
        ValueError: a network without class names, or without one of the classes; or as
            `experiment`.
    """
    shown = stimuli(metamers, references, classes, Design(
        practice=0, screening=0, pass_mark=0, natural=natural), None, passed or {})
    names = list(shown.answers)
    tables = []
    for given in [networks] if isinstance(networks, (str, Model)) else networks:
        model = load_model(given) if isinstance(given, str) else given
        members = _members(model, shown.answers)
        to_reference = _answers(model, references.images, members, batch_size)
        for condition in shown.conditions:
            chosen = _answers(model, condition.images, members, batch_size)
            tables.append(pd.DataFrame({
                "observer": model.name, **{key: condition.about[key] for key in (
                    "generator", "stage", "condition")},
                "image": range(len(references)), "category": shown.right,
                "answer": [names[k] for k in chosen], "replaced": condition.replaced.numpy(),
                "recognised": [names[k] == right for k, right in zip(chosen, shown.right)],
                "agrees": pd.array((chosen == to_reference).numpy(), dtype="boolean"),
                "rt": float("nan"), "kind": "test"}))
    return pd.concat(tables, ignore_index=True).reindex(columns=list(TABLE))


def _members(model: Model, answers: Mapping[str, set[str]]) -> list[list[int]]:
    """The classes of a model that each answer stands for."""
    if not model.has_classes or not model.class_names:
        raise ValueError(f"{model.name} has no class names, so that it cannot be asked for them")
    found = []
    for answer, classes in answers.items():
        where = places(sorted(classes), model.class_names)
        if not (known := [place for place in where if place >= 0]):
            raise ValueError(f"{model.name} has no class {answer}; its classes are "
                             f"{', '.join(model.class_names[:10])}...")
        found.append(known)
    return found


@torch.no_grad()
def _answers(
    model: Model, images: Tensor, members: Sequence[Sequence[int]], batch_size: int,
) -> Tensor:
    """Which answer (B,) a model gives to images."""
    found = []
    for batch in images.split(batch_size):
        probabilities = model(model.fitted(batch).to(model.device)).softmax(1).cpu()
        found.append(torch.stack([probabilities[:, list(some)].sum(1) for some in members],
                                 1).argmax(1))
    return torch.cat(found)
