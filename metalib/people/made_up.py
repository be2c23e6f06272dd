"""Made-up participants: for tests of the analysis, and to plan how many real ones are needed.

Whatever rests on them has to be called simulated wherever it is shown.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import optimize, special

from metalib.evaluation.participants import accuracy, contrasts
from metalib.people.reading import TABLE

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(40)


def simulated(
    accuracies: Mapping[str, float], participants: int, images: int, *, spread_people: float = 0.5,
    spread_images: float = 1.0, spread_cells: float = 0.5, answers: int = 10, seed: int = 0,
) -> pd.DataFrame:
    """Answers of made-up participants in the design of `experiment`: each image once, conditions in
    a Latin square.

    The log odds of a right answer are those of the condition, plus normal deviations of the
    participant, the image, and the image in that condition.

    Args:
        accuracies: by condition, the share of right answers in the population, from 0 to 1.
        participants, images: how many.
        spread_people, spread_images, spread_cells: standard deviations of these, in log odds.
        answers: how many there are to choose from; a wrong answer is any other.
        seed: of all that is drawn.

    Returns:
        pandas.DataFrame with the columns of `read`; `observer` begins with "simulated".

    Raises:
        ValueError: accuracies outside of 0 and 1, or fewer than two participants or images.
    """
    if not accuracies or not all(0 < share < 1 for share in accuracies.values()):
        raise ValueError("accuracies lie between 0 and 1, by condition")
    if participants < 2 or images < 2:
        raise ValueError("there are at least two participants and two images")
    random = np.random.default_rng(seed)
    names, spread = list(accuracies), np.hypot.reduce([spread_people, spread_images, spread_cells])
    levels = np.array([_log_odds(accuracies[name], spread) for name in names])
    people, shown = (random.normal(0, s, n) for s, n in (
        (spread_people, participants), (spread_images, images)))
    cells = random.normal(0, spread_cells, (images, len(names)))
    person, image = np.divmod(np.arange(participants * images), images)
    condition = (image + person) % len(names)
    odds = levels[condition] + people[person] + shown[image] + cells[image, condition]
    right = random.random(len(odds)) < special.expit(odds)
    category = image % answers
    other = (category + random.integers(1, answers, len(odds))) % answers
    return pd.DataFrame({
        "observer": [f"simulated {k + 1:03}" for k in person], "generator": "", "stage": "",
        "condition": np.array(names)[condition], "image": image, "category": category.astype(str),
        "answer": np.where(right, category, other).astype(str), "recognised": right,
        "agrees": pd.NA, "rt": 0.5 + random.exponential(0.5, len(odds)), "replaced": False,
        "kind": "test"}, columns=list(TABLE))


def _log_odds(share: float, spread: float) -> float:
    """The mean log odds at which a share is right, where they spread normally."""
    def missing(level: float) -> float:
        right = special.expit(level + spread * NODES)
        return float(WEIGHTS @ right / WEIGHTS.sum() - share)

    found: Any = optimize.brentq(missing, -50, 50)
    return found


def precision(
    accuracies: Mapping[str, float], participants: Iterable[int], images: int, *,
    against: str | None = None, studies: int = 100, level: float = 0.95, seed: int = 0,
    **spreads: Any,
) -> pd.DataFrame:
    """What studies with so many participants can tell, by simulation.

    Args:
        accuracies, images, spreads: as in `simulated`.
        participants: numbers of them to compare.
        against: the condition with which the others are compared; None takes the first.
        studies: how many are made up for each number.
        level: of intervals and tests.
        seed: of the draws.

    Returns:
        A row for each number of participants: `half_width`, the mean half of the interval of an
        accuracy, `difference_half_width`, that of a difference, `power`, the mean share of
        differences that are found (Holm), and `coverage`, of the intervals of accuracies.
    """
    against = next(iter(accuracies)) if against is None else against
    truth = pd.Series(accuracies)
    found = []
    for count in participants:
        rows = []
        for study in range(studies):
            table = simulated(accuracies, count, images, seed=1000 * seed + study, **spreads)
            shares = accuracy(table, level=level)
            gaps = contrasts(table, against=against, level=level)
            held = shares["low"].le(truth[shares.index]) & shares["high"].ge(truth[shares.index])
            rows.append([(shares["high"] - shares["low"]).mean() / 2,
                         (gaps["high"] - gaps["low"]).mean() / 2,
                         (gaps["p_corrected"] < 1 - level).mean(), held.mean()])
        found.append([count, *np.mean(rows, axis=0)])
    return pd.DataFrame(found, columns=["participants", "half_width", "difference_half_width",
                                        "power", "coverage"]).set_index("participants")
