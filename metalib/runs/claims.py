"""Claims as data: what each rests on, when it holds, and how it is then worded.

    claims.sentence("published-over-default")           # from the committed tables
    claims.sentence("published-over-default", {"criterion": table})     # from these
    claims.verdicts()                                   # all of them, for the conclusion
    claims.again({"32 px": tables, "ImageNet": others})    # some of them, of other networks, too

A file of `book/claims` is a list of claims::

    - id: published-over-default
      question: generation              # generation, evaluation, transfer or seeing
      measure: evaluations              # what is counted or compared, see `MEASURES`
      study: criterion                  # or a list of studies
      estimate: metalib.evaluation.costs:lowest_ratio      # called with their tables
      arguments: {rule: published}      # its keywords
      direction: above                  # or below
      threshold: 3
      digits: 1                         # of {number}, which is "4.4 (3.6 to 5.1)"
      supported: The published procedure needs at least {number} times the evaluations.
      unsupported: That the published procedure needs more evaluations is not supported, {number}.
      opposite: The published procedure needs fewer evaluations, {number}.
      scope: "{networks} networks, {images} images"
      record: ""                        # what else it rests on, or in place of a study
      figure: 01_generation_ablations.ipynb#fig-cost       # where to see it
      asked: The published procedure needs more evaluations    # of other networks, too (`again`)

What estimates returns is a dict of numbers: `estimate`, `low` and `high` (its 95 % interval), and
whatever else the wordings name. A claim is *supported* if the whole interval lies beyond the
threshold, *opposite* if all of it lies on the other side, else *unsupported*. Nothing else decides
which wording a page shows. A `limit` is what makes up the largest share of the interval's variance.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import yaml

from metalib.evaluation.kept import NoRows
from metalib.plain import plain
from metalib.runs import studies, study
from metalib.runs.documents import PlainLoader
from metalib.runs.sweep import function_of

QUESTIONS = ("generation", "evaluation", "transfer", "seeing")
FOUND = {"supported": "holds", "unsupported": "cannot tell", "opposite": "does not hold"}
WORDS = {"supported": "supported", "unsupported": "**not supported**", "opposite": "**opposite**"}
MEASURES = {
    "evaluations": "gradient evaluations of an image",
    "hours": "machine hours, extrapolated",
    "criterion": "whether an image is a metamer for a network: activations and class answer",
    "class answers": "what networks answer, compared with the reference or the label",
    "representations": "similarity of activations",
    "scaled match": "similarity of activations, from unrelated images (0) to copies (1)",
    "rejections": "how often a test rejects",
    "pixels": "similarity or statistics of images",
    "confidence": "the largest softmax probability",
}


@dataclass(frozen=True)
class Claim:
    """A claim, see the module's text."""

    id: str
    question: str
    measure: str
    study: str | list[str]
    estimate: str
    direction: str
    threshold: float
    supported: str
    unsupported: str
    opposite: str
    scope: str
    figure: str
    record: str = ""
    asked: str = ""
    digits: int = 2
    arguments: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        if self.question not in QUESTIONS or self.direction not in ("above", "below"):
            raise ValueError(f"the claim {self.id} needs a question of {', '.join(QUESTIONS)}, and "
                             "a direction, above or below")
        if unknown := set(self.measure.split(" and ")) - set(MEASURES):
            raise ValueError(f"the claim {self.id} measures {', '.join(sorted(unknown))}; there "
                             f"are {', '.join(MEASURES)}, joined by ' and '")
        if not (self.studies or self.record):
            raise ValueError(f"the claim {self.id} needs a study or a record")

    @property
    def studies(self) -> list[str]:
        return [self.study] if isinstance(self.study, str) else list(self.study)


@dataclass(frozen=True)
class Verdict:
    """What the data say of a claim.

    Attributes:
        claim: of which.
        word: "supported", "unsupported" or "opposite".
        numbers: what the claim's estimate returned.
        number: the estimate with its interval, as it is written.
        sentence: the claim in the wording that fits.
        scope: for how many networks and images, and what limits the interval, if `numbers` have it.
        made: the studies, with the dates of their cells, and the record.
    """

    claim: Claim
    word: str
    numbers: dict[str, Any]
    number: str
    sentence: str
    scope: str
    made: str


def load_claims() -> dict[str, Claim]:
    """All claims by their ids, in the order of the files.

    Raises:
        ValueError: a file that is no list of claims, or an id that is given twice.
    """
    found: dict[str, Claim] = {}
    for path in sorted((study.ROOT / "book" / "claims").glob("*.yml")):
        for entry in yaml.load(path.read_text(), PlainLoader) or []:  # a safe one
            try:
                claim = Claim(**entry)
            except TypeError as error:
                raise ValueError(f"{path.name}: {entry.get('id', entry)}: {error}") from error
            if claim.id in found:
                raise ValueError(f"{path.name}: the claim {claim.id} is there twice")
            found[claim.id] = claim
    return found


def of_page(page: str) -> dict[str, Claim]:
    """The claims whose figures are on pages with names that begin so, such as "04_"."""
    return {name: claim for name, claim in load_claims().items() if claim.figure.startswith(page)}


def judged(claim: Claim, tables: Mapping[str, pd.DataFrame] | None = None) -> Verdict:
    """What the tables say of a claim.

    Args:
        claim: of `load_claims`.
        tables: by study; None reads the committed ones.

    Raises:
        ValueError: a stale table; or a wording that names a number that there is not.
    """
    used = [tables[name] if tables is not None else studies.table(name) for name in claim.studies]
    numbers = plain(claim.id, dict(function_of(claim.estimate)(*used, **claim.arguments)))
    word = verdict_of(claim, **{name: numbers[name] for name in ("low", "high")})
    number = "{estimate:.{d}f} ({low:.{d}f} to {high:.{d}f})".format(d=claim.digits, **{
        name: _value(numbers[name]) for name in ("estimate", "low", "high")}).replace("-", "−")
    try:
        sentence, scope = (text.format(**numbers, number=number)
                           for text in (getattr(claim, word), claim.scope))
    except KeyError as error:
        raise ValueError(f"the claim {claim.id} is worded with {error}, which its estimate does "
                         f"not give; there are {', '.join(numbers)}") from error
    scope += f"; limited by {numbers['limit']}" if numbers.get("limit") else ""
    made = [*map(_dated, claim.studies, used), *filter(None, [claim.record])]
    return Verdict(claim, word, numbers, number, sentence, scope, ", ".join(made))


def _dated(name: str, table: pd.DataFrame) -> str:
    """A study with the dates of its cells."""
    about = table.attrs.get("provenance")
    return f"{name} ({studies.dates(about)})" if about else name


def verdict_of(claim: Claim, low: float | None, high: float | None) -> str:
    """Which wording an interval calls for.

    >>> claim = Claim("a", "seeing", "pixels", "s", "m:f", "above", 1, "", "", "", "", "")
    >>> [verdict_of(claim, *ends) for ends in ((1.1, 2), (0.9, 2), (0.2, 0.8), (None, None))]
    ['supported', 'unsupported', 'opposite', 'unsupported']
    """
    if None in (low, high) or math.isnan(_value(low) + _value(high)):
        return "unsupported"
    sign = 1 if claim.direction == "above" else -1
    ends = sorted(sign * (_value(end) - claim.threshold) for end in (low, high))
    return "supported" if ends[0] > 0 else "opposite" if ends[1] < 0 else "unsupported"


def _value(number: float | None) -> float:
    return math.nan if number is None else float(number)


def sentence(name: str, tables: Mapping[str, pd.DataFrame] | None = None) -> str:
    """A claim in the wording that the tables call for, see `judged`.

    Raises:
        ValueError: there is no such claim; and as `judged`.
    """
    known = load_claims()
    if name not in known:
        raise ValueError(f"there is no claim {name}; there are {', '.join(known)}")
    return judged(known[name], tables).sentence


def verdicts(names: Sequence[str] = ()) -> list[Verdict]:
    """The verdicts on all claims, or on these, from the committed tables."""
    known = load_claims()
    read = {study: studies.table(study) for study in dict.fromkeys(
        study for name in names or known for study in known[name].studies)}
    return [judged(known[name], read) for name in names or known]


def again(
    sets: Mapping[str, Mapping[str, pd.DataFrame]], only: Mapping[str, Sequence[str]] | None = None,
) -> pd.DataFrame:
    """The claims that are asked of other networks and images, too: what each set says of them.

    Thresholds and directions are those of the claims, whatever the set.

    Args:
        sets: by name, tables by the studies of the claims. A claim is not asked of a set that lacks
            one of its tables, or the networks that it compares.
        only: by name of a set, the ids of those that are asked of it; of others, all are.

    Returns:
        pandas.DataFrame, one row per claim and set that it was asked of: `claim`, its id, `asked`
        in words, `set`, `found` ("holds", "does not hold" or "cannot tell"), `number` with its
        interval, and `scope`.
    """
    rows = []
    for claim in load_claims().values():
        for name, tables in sets.items() if claim.asked else ():
            some = (only or {}).get(name, [claim.id])
            if set(claim.studies) <= set(tables) and claim.id in some:
                try:
                    verdict = judged(claim, tables)
                except NoRows:
                    continue
                if math.isnan(_value(verdict.numbers["estimate"])):
                    continue
                rows.append({"claim": claim.id, "asked": claim.asked, "set": name,
                             "found": FOUND[verdict.word], "number": verdict.number,
                             "scope": verdict.scope})
    return pd.DataFrame(rows, columns=["claim", "asked", "set", "found", "number", "scope"])


def tally(found: pd.DataFrame, name: str) -> str:
    """How many claims a set has, and how many of them hold there, do not, and cannot be told.

    Args:
        found: as `again` gives it.
        name: of the set.

    Returns:
        A sentence.
    """
    counts = found.loc[found["set"] == name, "found"].value_counts().to_dict()
    words = {"holds": ("holds", "hold"), "does not hold": ("is ruled out", "are ruled out"),
             "cannot tell": ("stays open", "stay open")}
    told = [(counts.get(word, 0), verbs) for word, verbs in words.items()]
    holds, fails, open_ = (f"{count} {one if count == 1 else many}" for count, (one, many) in told)
    return f"Of {sum(counts.values())} claims asked again of {name}, {holds}, {fails} and {open_}."


def side_by_side(found: pd.DataFrame) -> pd.DataFrame:
    """The rows of `again` as a table of a page: a row for each claim, a column for each set."""
    wide: Any = found.assign(text=found["found"] + ": " + found["number"])
    wide = wide.pivot(index="asked", columns="set", values="text")
    order = {column: found[column].unique() for column in ("asked", "set")}
    return wide.reindex(index=order["asked"], columns=order["set"]).fillna("not asked")


def shown(found: Sequence[Verdict], question: str) -> Any:
    """The verdicts on a question as a table of a page.

    Its columns are claim, verdict, what was measured, scope, studies, and where to see it.

    Args:
        found: as `verdicts` gives them.
        question: one of `QUESTIONS`.

    Returns:
        IPython.display.Markdown.
    """
    from IPython.display import Markdown
    columns = ["claim", "verdict", "measure", "for", "study", "chapter"]
    rows = [columns, ["---"] * len(columns), *(
        [one.sentence, WORDS[one.word], one.claim.measure, one.scope, one.made, _link(one.claim)]
        for one in found if one.claim.question == question)]
    return Markdown("\n".join(f"| {' | '.join(row)} |" for row in rows))


def _link(claim: Claim) -> str:
    """The figure of a claim as a link within the report."""
    page, _, anchor = claim.figure.partition("#")
    return f"[{int(page[:2])}](#{anchor})"
