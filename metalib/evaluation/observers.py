"""What observers see and how they respond: the stimuli of a representation test, and readings.

    stimuli = Stimuli(references, metamers, natural, labels, draws=59, seed=0)
    for stage, reading in read_model(model, stimuli, stages, cache=None, batch_size=100): ...
    for stage, reading in read_responses(responses, stages, labels, nulls): ...

An observer is a Model, or `Responses` that were recorded before. A `Reading` holds what the tests
at one stage of it need.
"""

import contextlib
import dataclasses
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from metalib import metrics
from metalib.data import ImageSet, pixels, to_8_bits
from metalib.evaluation.controls import BLOCK, are_copies, copies, perturbations
from metalib.evaluation.criterion import answers, truths
from metalib.models.model import Model
from metalib.store import TensorFile, address_of, fingerprint, keep_recent, sha256

MEMORY = 250_000_000  # most activations of natural images that are computed in one pass


@dataclass(frozen=True)
class Responses:
    """Responses to references and metamers in place of a model: recordings, or other activations.

    Each attribute but the name and the labels is a dict from names of stages (areas, layers, time
    windows) to arrays or tensors; D may differ between stages.

    Responses may come trial by trial, as (n, trials, D); where images had different numbers of
    trials, the missing ones are NaN in all units. Tests compare the averages over trials. The
    ceiling is then the similarity that the averages of a reference and a metamer are expected to
    have if both evoke the same, see `noise_ceiling`. `copies`, if given, are the ceiling instead.

    Attributes:
        name: of the observer.
        references, metamers: (n, D) or (n, trials, D).
        natural: (M, D) or (M, trials, D), responses to other natural images, which enlarge the
            nulls.
        natural_labels: (M,), their classes.
        perturbed: (n, m, D) or (n, m, trials, D), to m perturbations of each reference, for the
            null "distance". They should have as many trials as the metamers, whose noise would
            tell them apart otherwise.
        copies: (n, c, D), to c copies or repetitions of each reference, for the ceiling.
    """

    name: str
    references: dict[str, Any]
    metamers: dict[str, Any]
    natural: dict[str, Any] | None = None
    natural_labels: Any = None
    perturbed: dict[str, Any] | None = None
    copies: dict[str, Any] | None = None

    @property
    def stages(self) -> tuple[str, ...]:
        """The names of the stages."""
        return tuple(self.references)

    def __post_init__(self):
        for name in ("references", "metamers", "natural", "perturbed", "copies"):
            by_stage = getattr(self, name)
            if not isinstance(by_stage, Mapping) and not (
                    by_stage is None and name not in ("references", "metamers")):
                raise ValueError(f"{self.name}: {name} must be a dict from names of stages to "
                                 f"arrays, such as {{'V4': array}}, not {type(by_stage).__name__}")

    def __repr__(self):
        def shape(stage: str) -> str:
            sides = tuple(getattr(self.references[stage], "shape", ()))
            trials = f"{sides[1]} trials x " if len(sides) > 2 else ""
            return f"{stage} ({trials}{sides[-1]:,} units)" if sides else stage

        stages = self.stages
        shown = ", ".join(map(shape, stages[:3])) + (", ..." if len(stages) > 3 else "")
        images = len(self.references[stages[0]]) if stages else 0
        others = ", ".join(name for name in ("natural", "perturbed", "copies")
                           if getattr(self, name))
        return (f"<responses of {self.name} to {images} references and metamers"
                f"{f', and {others}' if others else ''}: {len(stages)} "
                f"stage{'' if len(stages) == 1 else 's'}, {shown}>")


class Stimuli:
    """The images that a test shows to models, on the CPU.

    Args:
        references, metamers, natural: as in `representation_test`.
        labels: (n,), classes of the references, or None.
        draws: perturbations of each reference.
        seed: of the perturbations.

    Attributes:
        references, metamers: (n, 3, H, W) in [0, 1]; metamers are rounded to 8 bits.
        natural: (N, 3, H, W), the references first, then other images that are no copies of them.
        labels: (N,), classes of the natural images, -1 where unknown; or None.
        perturbed: (n, draws, 3, H, W) uint8; None without draws.
        copies: (n, 2, 3, H, W), of the references.

    Raises:
        ValueError: no references or metamers, or images of different shapes.
    """

    def __init__(
        self, references: ImageSet | Tensor | None, metamers: Any,
        natural: ImageSet | Tensor | None, labels: np.ndarray | None, draws: int, seed: int,
    ):
        if references is None or metamers is None:
            raise ValueError("a model needs the images: pass references and metamers")
        self.references = pixels(references).cpu()
        metamers = pixels(metamers.images if hasattr(metamers, "starts") else metamers).cpu()
        if self.references.shape != metamers.shape:
            raise ValueError("references and metamers differ in shape, "
                             f"{tuple(self.references.shape)} and {tuple(metamers.shape)}")
        self.metamers = to_8_bits(metamers)
        self.natural, self.labels = self.references, labels
        if natural is not None:
            self._add_natural(natural)
        self.perturbed = perturbations(
            self.references, self.metamers, self.natural, draws, seed) if draws else None
        self.copies = copies(self.references)

    def _add_natural(self, natural: ImageSet | Tensor) -> None:
        """Add natural images to the references, without copies of these."""
        others = pixels(natural).cpu()
        if others.shape[1:] != self.references.shape[1:]:
            raise ValueError(
                f"natural images have the shape {tuple(others.shape[1:])}, references "
                f"{tuple(self.references.shape[1:])}; load both with the same size=")
        apart = ~torch.cat([are_copies(some, self.references).any(1)
                            for some in others.split(BLOCK)])
        self.natural = torch.cat([self.references, others[apart]])
        if self.labels is not None:
            labels = (natural.labels if isinstance(natural, ImageSet)
                      else torch.full((len(others),), -1))
            self.labels = np.concatenate([self.labels, labels.numpy()[apart.numpy()]])


@dataclass
class Reading:
    """What one stage of one observer gives: centred activations, similarities of first order.

    The centre is the mean over all natural images, of which the references are the first.

    Attributes:
        labels: (N,), classes of the natural images, or None.
        references, metamers: (n, D), centred.
        to_natural: (n, N), similarity of each metamer to each natural image, that to its own
            reference on the diagonal.
        natural_95: the similarity that one pair of natural images in 20 exceeds.
        spearman: (n,), of each metamer with its reference.
        to_perturbed: (n, m), similarity of each reference to its perturbations.
        to_copies: (n, c), similarity of each reference to its copies, or the `noise_ceiling` of
            trials (c = 1).
        defined: (n,) bool, false where a reference evokes nothing of its own: its activations are
            all the same number, or those of any other image, up to rounding.
        recognised: (n,), whether the observer gives a metamer the class of its reference; missing
            where it gives none.
    """

    labels: np.ndarray | None
    references: Tensor
    metamers: Tensor
    to_natural: np.ndarray
    natural_95: float
    spearman: np.ndarray
    defined: np.ndarray
    to_perturbed: np.ndarray | None = None
    to_copies: np.ndarray | None = None
    recognised: Any = None

    def only(self, rows: np.ndarray) -> "Reading":
        """The reading of some of the references (by number) and their metamers."""
        some = np.concatenate([rows, np.arange(len(self.references), self.to_natural.shape[1])])
        parts = {name: None if (value := getattr(self, name)) is None else value[rows] for name in (
            "references", "metamers", "spearman", "defined", "to_perturbed", "to_copies",
            "recognised")}
        labels = None if self.labels is None else self.labels[some]
        return dataclasses.replace(
            self, labels=labels, to_natural=self.to_natural[rows][:, some], **parts)

    def perturbed(self, null: str) -> np.ndarray:
        """The columns of `to_perturbed` for a null; "noise" and "blend" were made in turn."""
        assert self.to_perturbed is not None
        first, step = {"distance": (0, 1), "noise": (0, 2), "blend": (1, 2)}[null]
        return self.to_perturbed[:, first::step]


def labels_of(references: Any, labels: Any) -> np.ndarray | None:
    """The labels (n,) as an array; those of an ImageSet if None; None where there are none."""
    if labels is None and isinstance(references, ImageSet):
        labels = references.labels
    return None if labels is None else np.asarray(labels)


# --- Models -------------------------------------------------------------------------------------

@torch.no_grad()
def read_model(
    model: Model, stimuli: Stimuli, stages: Sequence[str],
    cache: str | Path | Literal[False] | None, batch_size: int,
) -> Iterator[tuple[str, Reading]]:
    """Yield each stage with its `Reading`.

    Natural images are read stage by stage, all others in one pass.

    Args:
        model, stimuli, stages: what to read.
        cache, batch_size: as in `representation_test`.
    """
    references, metamers = (
        model.fitted(x.to(model.device)) for x in (stimuli.references, stimuli.metamers))
    given, right = answers(model, metamers).cpu(), answers(model, references).cpu()
    recognised = truths(given == right, (given >= 0) & (right >= 0))
    changed = _activations(model, stimuli.metamers, stages, batch_size)
    readings, centres, units = {}, {}, {}
    for stage, natural in _natural(
            model, stimuli.natural, stages, _cache_folder(cache), batch_size):
        where = f"{model.name}, {stage}"
        readings[stage], centre = _reading(
            natural, changed.pop(stage), len(references), stimuli.labels, where)
        readings[stage].recognised = recognised
        centres[stage] = centre.float()
        units[stage] = _directions(natural[:len(references)], centres[stage])
        del natural  # before those of the next stage are made
    drawn = 0 if stimuli.perturbed is None else stimuli.perturbed.shape[1]
    similarity = _control_similarity(model, stimuli, centres, units, batch_size)
    for stage in stages:
        reading, values = readings.pop(stage), similarity[stage]
        reading.to_perturbed = values[:, :drawn] if drawn else None
        reading.to_copies = values[:, drawn:]
        yield stage, reading


def _control_similarity(
    model: Model, stimuli: Stimuli, centres: dict[str, Tensor], units: dict[str, Tensor],
    batch_size: int,
) -> dict[str, np.ndarray]:
    """(n, draws + 2) by stage: similarity of each reference to its perturbations and copies."""
    similarity = {stage: [] for stage in units}
    for i, images in enumerate(stimuli.copies):
        if stimuli.perturbed is not None:
            images = torch.cat([stimuli.perturbed[i] / 255, images])
        for stage, activations in _activations(model, images, list(units), batch_size).items():
            rows = _directions(activations, centres[stage])
            similarity[stage].append((rows @ units[stage][i]).numpy())
    return {stage: np.stack(values) for stage, values in similarity.items()}


def _activations(
    model: Model, images: Tensor, stages: Sequence[str], batch_size: int,
) -> dict[str, Tensor]:
    """Activations (B, D) by stage, on the CPU, of all images in one pass."""
    found: dict[str, Tensor] = {}
    for start in range(0, len(images), batch_size):
        rows = slice(start, start + batch_size)
        seen, _ = model.read(model.fitted(images[rows].to(model.device)), stages)
        for stage, values in seen.items():
            if stage not in found:  # in place, since batches and the whole would be twice as much
                found[stage] = values.new_empty((len(images), values.shape[1]), device="cpu")
            found[stage][rows] = values
    return found


# --- Activations of natural images, kept on disk by content -------------------------------------

class ActivationsFile(TensorFile):
    """A file of the cache, which may be removed when the cache is full."""

    ending = "activations.safetensors"


def _natural(
    model: Model, images: Tensor, stages: Sequence[str], folder: Path | None, batch_size: int,
) -> Iterator[tuple[str, Tensor]]:
    """Yield each stage with the activations (N, D) of natural images, from the cache if there."""
    content, limit = (_content(model, images), _cache_limit()) if folder else ("", 0.0)
    computed: dict[str, Tensor] = {}
    for position, stage in enumerate(stages):
        activations = computed.pop(stage, None)
        if activations is None and folder:
            activations = _from_cache(ActivationsFile(folder, address_of(content, stage)))
        if activations is None:
            some = _that_fit(model, stages[position:], len(images))
            computed = _activations(model, images, some, batch_size)
            if folder:
                for name, values in computed.items():
                    _to_cache(ActivationsFile(folder, address_of(content, name)), values, limit)
            activations = computed.pop(stage)
        yield stage, activations
        del activations  # before the next ones are made


def _that_fit(model: Model, stages: Sequence[str], count: int) -> Sequence[str]:
    """The first of these stages, and as many more as one pass of `count` images may keep."""
    units = np.cumsum([math.prod(model.shapes[stage]) for stage in stages])
    return stages[:max(1, int((count * units < MEMORY).sum()))]


def _cache_folder(cache: str | Path | Literal[False] | None) -> Path | None:
    if cache is False:
        return None
    default = Path.home() / ".cache" / "metalib" / "activations"
    return Path(cache or os.environ.get("METALIB_CACHE") or default).expanduser()


def _cache_limit() -> float:
    """The gigabytes that the cache may take: 10, or the environment variable METALIB_CACHE_GB.

    Raises:
        ValueError: the variable is no such number.
    """
    text = os.environ.get("METALIB_CACHE_GB") or "10"
    with contextlib.suppress(ValueError):
        if (limit := float(text)) >= 0:
            return limit
    raise ValueError(f"METALIB_CACHE_GB is a number of gigabytes, such as 10, not {text!r}")


def _content(model: Model, images: Tensor) -> str:
    """What decides the activations: the model, and images."""
    return fingerprint(model) + sha256({"images": images})


def _from_cache(file: ActivationsFile) -> Tensor | None:
    """The activations in a file, or None where it is missing or damaged."""
    try:
        if not file.is_stored():
            return None
        with contextlib.suppress(OSError):  # in a folder of others
            os.utime(file.path)  # those that were used least recently leave first
        return file.read()["activations"]
    except OSError:  # damaged in a folder that cannot be written, or set aside by another process
        return None


def _to_cache(file: ActivationsFile, activations: Tensor, limit: float) -> None:
    """Keep activations, in at most `limit` GB. A folder that cannot be written keeps nothing."""
    if activations.nbytes > limit * 1e9:
        return
    with contextlib.suppress(OSError):
        file.path.parent.mkdir(parents=True, exist_ok=True)
        keep_recent(file.path.parent, file.ending, limit - activations.nbytes / 1e9)
        file.write({"activations": activations})
        keep_recent(file.path.parent, file.ending, limit)


# --- Recordings ---------------------------------------------------------------------------------

def read_responses(
    responses: Responses, stages: Sequence[str], labels: np.ndarray | None, nulls: set[str],
) -> Iterator[tuple[str, Reading]]:
    """Each stage with its `Reading`, after all of the responses have been checked.

    Args:
        responses, stages: what to read.
        labels: (n,), classes of the references, or None.
        nulls: those that will be tested.

    Raises:
        ValueError: responses that lack what a null needs, or do not fit together.
    """
    if nulls & {"noise", "blend"} or ("distance" in nulls and not responses.perturbed):
        raise ValueError(
            f"{responses.name} has no responses to perturbations: pass Responses(perturbed=...) "
            "for the null 'distance', or nulls=('random', 'same-class')")
    if set(responses.references) != set(responses.metamers):
        raise ValueError(
            f"{responses.name}: references have the stages {', '.join(responses.references)}, but "
            f"metamers {', '.join(responses.metamers)}; both need the same")
    for stage in stages:
        _checked(responses, stage)
    return ((stage, _recorded(responses, stage, labels)) for stage in stages)


def noise_ceiling(
    trials: Tensor, centre: Tensor, natural: int, others: Tensor | None = None,
) -> np.ndarray:
    """The similarity that averages over trials are expected to have if only noise differs.

    The reliability of a single trial is the mean correlation r of an image's pairs of trials over
    units. That of the average of k is k r / (1 + (k - 1) r), the formula of Spearman and Brown
    (1910, doi:10.1111/j.2044-8295.1910.tb00206.x and tb00207.x): Cronbach's standardised alpha,
    which stands for the mean of all split halves (1951, doi:10.1007/BF02310555), and with two
    trials is the split half. Averages of different numbers of trials are expected to correlate by
    the root of the product of theirs (Spearman 1904, doi:10.2307/1412159).

    Args:
        trials: (n, trials, D), responses to the references; a missing trial is NaN.
        centre: (D,), the mean over natural images, of which the references are some.
        natural: the number of these images.
        others: (n,), the number of trials of the metamers; None if it is that of the references.

    Returns:
        (n,), between 0 and 1; r below 0 counts as 0. An image with a single trial has the mean r of
        the others; NaN if no image has two.
    """
    there, trials = _there(trials)[..., None], trials.nan_to_num()  # missing ones add nothing
    counts = there.sum((1, 2))
    # the centre of each trial is of that trial, or else its noise would be common to all of them
    noise = (trials - trials.sum(1, keepdim=True) / counts[:, None, None]) * there
    rows = _directions(trials, centre + noise.sum(0) / natural)
    pairs = rows.sum(1).square().sum(1) - rows.square().sum((1, 2))
    single = pairs / (counts * (counts - 1))  # 0 / 0 is NaN
    single = torch.where(counts > 1, single, single.nanmean()).clamp(0, 1)

    def of_average(count: Tensor) -> Tensor:
        return count * single / (1 + (count - 1) * single)

    return (of_average(counts) * of_average(counts if others is None else others)).sqrt().numpy()


def _checked(responses: Responses, stage: str) -> dict[str, Tensor]:
    """The arrays of a stage as tensors, finite and of shapes that fit together."""
    where = f"{responses.name}, {stage}"
    arrays = {}
    for name, fewest in (("references", 2), ("metamers", 2), ("natural", 2), ("perturbed", 3),
                         ("copies", 3)):
        if not (by_stage := getattr(responses, name)):
            continue
        if stage not in by_stage:
            raise ValueError(f"{where}: {name} have no such stage, but {', '.join(by_stage)}; "
                             "references have it")
        arrays[name] = values = _array(by_stage[stage], f"{where}: {name}")
        if values.ndim not in (fewest, fewest + (name != "copies")) or not values.numel():
            shape = "(n, D)" if fewest == 2 else "(n, m, D)"
            trials = "" if name == "copies" else ", or with trials before the units"
            raise ValueError(f"{where}: {name} must be {shape}{trials}, and not be empty; "
                             f"they are {tuple(values.shape)}")
        _finite(_average(values, fewest, f"{where}: {name}"), where)
    references = arrays["references"]
    for name, values in arrays.items():
        what = "alike in D" if name == "natural" else "(n, D) alike"
        as_many = len(values) == len(references) or name == "natural"
        if not as_many or values.shape[-1] != references.shape[-1]:
            raise ValueError(
                f"{where}: references and {name} must be {what}: they are of {len(references)} "
                f"and {len(values)} images, and of {references.shape[-1]} and {values.shape[-1]} "
                "units")
    return arrays


def _array(values: Any, what: str) -> Tensor:
    """Numbers as a tensor on the CPU."""
    try:
        values = values.detach().cpu() if isinstance(values, Tensor) else torch.as_tensor(
            np.asarray(values))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} are no array of numbers: {error}") from error
    if values.is_complex():
        raise ValueError(f"{what} are complex; pass real and imaginary parts as units")
    return values


def _there(trials: Tensor) -> Tensor:
    """Which of some trials (..., trials, D) there are, (..., trials)."""
    return ~trials.isnan().all(-1)


def _average(values: Tensor, fewest: int, what: str) -> Tensor:
    """The average over trials, if there are any: values that have an axis more than `fewest`."""
    if values.ndim == fewest:
        return values
    values = values.double()
    there = _there(values)
    if not there.any(-1).all():
        image = int((~there.any(-1)).nonzero()[0, 0])
        raise ValueError(f"{what} have no trial of image {image}: all are NaN")
    total = values.masked_fill(~there[..., None], 0).sum(-2)
    return total / there.sum(-1, keepdim=True)


def _recorded(responses: Responses, stage: str, labels: np.ndarray | None) -> Reading:
    where = f"{responses.name}, {stage}"
    given = _checked(responses, stage)
    arrays = {name: _average(values, 3 if name in ("perturbed", "copies") else 2, where)
              for name, values in given.items()}
    references, metamers = arrays["references"], arrays["metamers"]
    natural = references
    if "natural" in arrays:
        natural = torch.cat([references, arrays["natural"].to(references.dtype)])
        if labels is not None:
            others = (np.full(len(arrays["natural"]), -1) if responses.natural_labels is None
                      else np.asarray(responses.natural_labels))
            labels = np.concatenate([labels, others])
    reading, centre = _reading(natural, metamers, len(references), labels, where)
    unit = _directions(references.float(), centre.float())
    for name in ("perturbed", "copies"):
        if name in arrays:
            rows = _directions(arrays[name].float(), centre.float())
            setattr(reading, f"to_{name}", torch.einsum("nmd,nd->nm", rows, unit).numpy())
    if "copies" not in arrays and given["references"].ndim == 3:
        others = _there(given["metamers"]).sum(1) if given["metamers"].ndim == 3 else None
        reading.to_copies = noise_ceiling(
            given["references"].double(), centre, len(natural), others)[:, None]
    return reading


# --- From activations to similarities -----------------------------------------------------------

def _reading(
    natural: Tensor, metamers: Tensor, n: int, labels: np.ndarray | None, where: str,
) -> tuple[Reading, Tensor]:
    """The `Reading` of activations, and their mean (D,) over the natural images.

    The first n natural images are the references.
    """
    if labels is not None and len(labels) != len(natural):
        raise ValueError(f"{where}: {len(natural)} natural images, but {len(labels)} labels")
    if n < 2:
        raise ValueError(f"{where}: a test needs at least two references, not {n}")
    precision = torch.float64 if len(natural) <= 2_000 else torch.float32  # to halve the memory
    sums = [block.sum(0, dtype=torch.float64) for block in _finite(natural, where).split(500)]
    centre = (torch.stack(sums).sum(0) / len(natural)).to(precision)  # a mean takes twice as much
    references = natural[:n].to(precision)
    metamers = _finite(metamers, where).to(precision)
    units, some = _directions(metamers, centre), _directions(references[:200], centre)
    similarity, pairs = [], []
    for block in natural.split(500):
        rows = _directions(block.to(precision), centre).T
        similarity.append(units @ rows)
        pairs.append(some @ rows)
    pairs = torch.cat(pairs, 1).fill_diagonal_(torch.nan)
    spearman = [
        metrics.pearson(*(metrics.ranks(_directions(rows, centre)) for rows in both))
        for both in zip(references.split(100), metamers.split(100))]
    reading = Reading(
        labels, references - centre, metamers - centre, torch.cat(similarity, 1).numpy(),
        float(np.nanquantile(pairs.numpy(), 0.95)), torch.cat(spearman).numpy(),
        _of_its_own(references, centre).squeeze(-1).numpy())
    return reading, centre


def _directions(activations: Tensor, centre: Tensor) -> Tensor:
    """Rows (..., D) centred and scaled to unit length; zero where they are not `_of_its_own`."""
    own = _of_its_own(activations, centre)
    return metrics.standardise(activations - centre).masked_fill_(~own, 0)


def _of_its_own(activations: Tensor, centre: Tensor) -> Tensor:
    """Which rows (..., D) are a response, (..., 1) bool.

    They are not all the same number, and differ from the mean over images by more than rounding.
    """
    varied = activations.amax(-1, keepdim=True) != activations.amin(-1, keepdim=True)
    norm, apart = (torch.linalg.vector_norm(x, dim=-1, keepdim=True)
                   for x in (activations, activations - centre))
    return varied & (apart > 1e-6 * norm)


def _finite(activations: Tensor, where: str) -> Tensor:
    if not torch.stack(torch.aminmax(activations)).isfinite().all():  # NaN is both
        raise ValueError(f"{where}: some activations are not finite (NaN or infinite); "
                         "leave those images or units out")
    return activations
