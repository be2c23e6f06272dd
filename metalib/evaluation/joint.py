"""Metamers of several networks at once: how they are seen, and what they cost.

    look(network, "group3", null, references, pictures)  # what one network makes of many pictures
"""

from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor

from metalib.evaluation.criterion import Evoked, NullDistribution, answers, published
from metalib.evaluation.transfer import RELATIONS, relation
from metalib.metrics import rms_distance
from metalib.models import Model


def look(
    network: Model, stage: str, null: NullDistribution, references: Tensor, pictures: Tensor, *,
    batch_size: int = 200,
) -> pd.DataFrame:
    """What a network makes of several pictures of each reference.

    The verdicts are those of `judge`. The references are shown to the network once, and Spearman's
    correlation is computed only for what passes the rest, so that this is much faster.

    Args:
        network, stage, null: who looks where, and the null of that stage.
        references: (B, 3, H, W) in [0, 1].
        pictures: (K, B, 3, H, W) in [0, 1], rounded to 8 bits.
        batch_size: pictures that go through the network together.

    Returns:
        pandas.DataFrame, K x B rows, the pictures of one kind after those of another: `picture`
        (0 to K - 1), `image` (0 to B - 1), `class_match`, `passed`, `match` (Pearson's
        correlation) and `distance` (root mean square, pixels in [0, 1]).
    """
    criterion, count = published(null).on(network), len(references)
    criterion.check(network, stage)
    evoked, parts = Evoked.of(network, stage, references), []
    for number in torch.arange(pictures.shape[0] * count).split(batch_size):
        shown, rows = pictures.flatten(0, 1)[number], number % count
        with torch.no_grad():
            activations, given = network.activations(shown, stage), answers(network, shown)
        passed, _ = criterion.verdicts(
            evoked, rows, activations, given,
            lambda metric, some, a=activations, r=rows: evoked.similarity(metric, a[some], r[some]))
        parts.append(pd.DataFrame({
            "picture": number // count, "image": rows,
            "class_match": evoked.agrees(given, rows), "passed": passed,
            "match": evoked.similarity("pearson", activations, rows),
            "distance": rms_distance(shown, references[rows])}))
    return pd.concat(parts, ignore_index=True)


def nearest(observer: Mapping, members: Sequence[Mapping]) -> str:
    """The closest of an observer's relations to members, all of them by their cards.

    One of `RELATIONS`, from "itself" (the closest) to "both differ".

    Raises:
        ValueError: a card that does not tell architecture and training.

    >>> nearest({"architecture": "vgg", "training": "robust"},
    ...         [{"architecture": "cct", "training": "robust"},
    ...          {"architecture": "vgg", "training": "standard"}])
    'other training'
    """
    found = [relation(observer, member) for member in members]
    if None in found:
        raise ValueError("networks are compared by their architecture and training, which a card "
                         "does not tell")
    return min((kind for kind in found if kind), key=RELATIONS.index)
