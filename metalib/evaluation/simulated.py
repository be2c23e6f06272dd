"""Made-up responses, of which everything is known, to see how often a test rejects.

    responses, labels = simulated_responses(1000, n=10, similarity=0.0)
    table = representation_test(responses, None, None, labels=labels)
"""

import numpy as np
from numpy.typing import ArrayLike

from metalib.evaluation.observers import Responses


def simulated_responses(
    experiments: int, *, n: int = 10, units: int = 1_000, natural: int = 70, draws: int = 39,
    classes: int = 2, similarity: ArrayLike = 0.0, of_class: bool = False, decay: float = 0.5,
    shared: float = 0.0, seed: int = 0,
) -> tuple[Responses, np.ndarray]:
    """Made-up `Responses`, one experiment for each stage.

    The response to an image is its class, its contrast (log-normal) and Gaussian noise. The
    standard deviation of the noise falls with the number k of the unit as k ** -decay, as along
    principal components of natural images. Metamers also share a shift that natural images do not
    have, so that they are no sample of those.

    Args:
        experiments: how many, named "0", "1", ...
        n: references.
        units: D.
        natural: further natural images.
        draws: perturbations of each reference.
        classes: how many there are; image i is of class i modulo this number.
        similarity: of metamers to their references in noise and in log-contrast, as a
            correlation; 0 is no effect. One number, or one for each of the n.
        of_class: whether metamers share the class of their reference, and nothing else if
            `similarity` is 0.
        decay: of the spectrum; 0 is flat, so that all D units are independent.
        shared: the share of the variance of noise and log-contrast that experiments have in common,
            as stages of one network have; 0 makes them independent.
        seed: of the draw.

    Returns:
        Responses, and the labels (n,) of the references.

    Example:
        >>> from metalib import representation_test
        >>> responses, labels = simulated_responses(3, n=10, units=50)
        >>> table = representation_test(responses, None, None, labels=labels)
        >>> table.groupby("stage").size().tolist()
        [30, 30, 30]
    """
    generator = np.random.default_rng(seed)
    labels = np.arange(n + natural) % classes
    scale = np.arange(1, units + 1) ** -float(decay)
    responses = {name: {} for name in ("references", "metamers", "natural", "perturbed")}
    similarity = np.broadcast_to(np.asarray(similarity, dtype=float), n)[:, None]
    shapes = [(*rows, size) for rows in ((n + natural,), (n, draws + 1)) for size in (units, 1)]
    common = [generator.standard_normal(shape) for shape in shapes if shared]
    for stage in map(str, range(experiments)):
        mean, shift = (generator.standard_normal(units) for _ in range(2))
        of_classes = generator.standard_normal((classes, units))
        noise, contrast, new_noise, new_contrast = (
            _partly(generator.standard_normal(shape), *common[i:i + 1], shared=shared)
            for i, shape in enumerate(shapes))
        images = mean + np.exp(0.4 * contrast) * scale * (of_classes[labels] / 2 + noise)
        for new, known in ((new_noise, noise), (new_contrast, contrast)):  # the first: metamers
            new[:, 0] = similarity * known[:n] + (1 - similarity ** 2) ** 0.5 * new[:, 0]
        made = new_noise + (of_classes[labels[:n], None] / 2 if of_class else 0)
        made = mean + scale * (shift / 2 + np.exp(0.4 * new_contrast) * made)
        rows = images[:n], made[:, 0], images[n:], made[:, 1:]
        for by_stage, values in zip(responses.values(), rows):
            by_stage[stage] = values.astype(np.float32)
    return Responses("simulated", **responses, natural_labels=labels[n:]), labels[:n]


def _partly(own: np.ndarray, common: np.ndarray | None = None, *, shared: float) -> np.ndarray:
    """Numbers of which a share of the variance is common."""
    return own if common is None else (1 - shared) ** 0.5 * own + shared ** 0.5 * common
