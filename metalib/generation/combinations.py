"""How the losses of several models become one: `COMBINATIONS` names the ways.

Each is a function of the losses (N, B) and the gradients (N, B, 3, H, W) of N models for B images.
It returns what an update rule is given: a loss (B,) and a gradient (B, 3, H, W). Images are not
mixed.

The power means and *against* are functions of the image, and the gradient that they return is their
own. *against* takes the first model's part against all others; to the other ways models are alike.
*normalised* and *projected* return a direction that is not the gradient of any function: they suit
first-order rules such as "adam", not the line search of "lbfgs".

To add one, write such a function and name it in `COMBINATIONS`.
"""

from collections.abc import Callable
from functools import partial, reduce

import torch
from torch import Tensor


def power_mean(losses: Tensor, gradients: Tensor, *, power: float) -> tuple[Tensor, Tensor]:
    """The power mean of the losses, and its gradient.

    A `power` of 1 gives the mean, 2 the root mean square, and large powers a smooth maximum: the
    larger the power, the more the model that matches worst decides (Hardy, Littlewood & Polya
    1934, Inequalities, 2.2).
    """
    # powers are rounded in two ways, of which the number of images decides; not so after float64
    exact = losses if losses.device.type == "mps" else losses.double()
    # the largest loss is taken out first, so that large powers neither overflow nor vanish
    largest = exact.amax(0).clamp_min(1e-30)
    mean = largest * (_sum((exact / largest).pow(power)) / len(losses)).pow(1 / power)
    weights = ((exact / mean.clamp_min(1e-30)).pow(power - 1) / len(losses)).to(losses.dtype)
    return mean.to(losses.dtype), _sum(_each(weights, gradients) * gradients)


def normalised(losses: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
    """The mean loss, and the mean of the gradients after they are scaled to the same length.

    For each image that length is the mean of the lengths of the models' gradients. So a model with
    steep gradients does not outvote the others.
    """
    lengths = gradients.flatten(2).norm(dim=2)
    scales = _mean(lengths) / lengths.clamp_min(1e-30)
    return _mean(losses), _mean(_each(scales, gradients) * gradients)


def projected(losses: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
    """The mean loss, and the mean of the gradients without what works against other models.

    Where a model's gradient conflicts with another's, its component along that one is removed:
    PCGrad (Yu et al. 2020, arXiv:2001.06782, algorithm 1), except that the other models are visited
    in order, beginning with the next; the paper draws their order at random.
    """
    flat, count = gradients.flatten(2), len(gradients)
    squares = flat.square().sum(2, keepdim=True).clamp_min(1e-30)
    directions = []
    for k in range(count):
        direction = flat[k]
        for other in ((k + step) % count for step in range(1, count)):
            conflict = (direction * flat[other]).sum(1, keepdim=True).clamp_max(0)
            direction = direction - conflict / squares[other] * flat[other]
        directions.append(direction)
    return _mean(losses), _mean(torch.stack(directions)).view_as(gradients[0])


def against(
    losses: Tensor, gradients: Tensor, *, apart: float = 1.0, weight: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """A match to the first model that the others tell from the reference: a controversial metamer.

    After Golan et al. 2020 (doi:10.1073/pnas.1912334117), who divide two classifiers, and the MAD
    competition (Wang & Simoncelli 2008, doi:10.1167/8.12.8). The loss is the root of the squared
    loss of the first model plus `weight` times the mean square of what the others' losses lack of
    `apart`. It is 0 where the first one matches and the others are as far away as that.

    Args:
        losses, gradients: see the module's text; the model to match comes first.
        apart: the loss of the others that is enough. At 1, activations are as far from those of
            the reference as zeros are; unrelated images lie about there.
        weight: of the others.
    """
    lack = (apart - losses[1:]).clamp_min(0)
    share = weight / len(lack)
    loss = (losses[0].square() + share * _sum(lack.square())).sqrt()
    slopes = torch.cat([losses[:1], -share * lack]) / loss.clamp_min(1e-30)
    return loss, _sum(_each(slopes, gradients) * gradients)


def _sum(values: Tensor) -> Tensor:
    """The sum over models (N, ...), one after the other.

    Tensor.sum rounds in an order that depends on the number of images, and an image must not depend
    on the others of its batch.
    """
    return reduce(torch.add, values)


def _mean(values: Tensor) -> Tensor:
    return _sum(values) / len(values)


def _each(weights: Tensor, gradients: Tensor) -> Tensor:
    """Weights (N, B) in a shape that broadcasts with gradients (N, B, 3, H, W)."""
    return weights.view(*weights.shape, *[1] * (gradients.ndim - 2))


COMBINATIONS: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "mean": partial(power_mean, power=1),
    "rms": partial(power_mean, power=2),
    "worst": partial(power_mean, power=8),
    "normalised": normalised,
    "projected": projected,
    "against": against,
}
