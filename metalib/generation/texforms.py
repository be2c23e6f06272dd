"""Texforms: noise that is changed until a model of early human vision responds as to a reference.

Long et al. 2018 (doi:10.1073/pnas.1719616115), Deza et al. 2019: see `metalib.models.texture`.
`generate(texture_model(windows, natural), images, "statistics")` makes them, too, of a batch, with
all that can be said about it; here one is made to begin with.
"""

import functools

from torch import Tensor

from metalib.data import load_images
from metalib.generation.combinations import normalised
from metalib.generation.compute import Compute
from metalib.generation.local_statistics import layout_of
from metalib.generation.loop import Record, optimise
from metalib.generation.objective import Agreement, Member, Objective, grouped
from metalib.generation.optimizers import OPTIMIZERS
from metalib.models.model import Model
from metalib.models.texture import texture_model
from metalib.models.windows import Windows


def texform(
    reference: Tensor, begun: Tensor, *, scale: float | None,
    fixation: tuple[float, float] | None, count: int, steps: int, colour: bool,
) -> Tensor:
    """An image (3, H, W) in [0, 1] with a reference's statistics in windows.

    Args:
        reference: (3, H, W) in [0, 1].
        begun: (3, H, W), the image that is changed.
        scale, fixation, count: of the windows in which statistics are pooled, see `layout_of`.
        steps: gradient evaluations of the model of early human vision.
        colour: match statistics of two opponent colours beside the luminance, an extension.

    Raises:
        ValueError: the windows or the image are too small for the statistics.
        ImportError: plenoptic is not installed.
    """
    windows = layout_of(tuple(reference.shape[1:]), scale, fixation, count)
    model = _early_vision(windows, colour)
    groups = grouped([Member(0, model, "statistics", None)], 0, Compute(), None, alone=True)
    references, starts = reference[None].cpu(), begun[None].cpu()
    record = optimise(
        Record.begin(starts, steps, 1), starts,
        Objective(groups, references, count=1, combine=normalised), OPTIMIZERS["spectral_lbfgs"],
        Agreement(groups, references, count=1), steps=steps, check_every=steps)
    return record.images[0].to(reference.device)


@functools.lru_cache(maxsize=4)
def _early_vision(windows: Windows, colour: bool) -> Model:
    """Statistics in windows, standardised among the bundled images."""
    height, width = windows.weights.shape[1:]
    natural = load_images("cifar10-samples" if max(height, width) <= 64 else "imagenet-samples",
                          size=max(height, width)).images[..., :height, :width]
    return texture_model(windows, natural, colour=colour)
