"""How the losses of several models become one: `COMBINATIONS` names the ways.

Each is a function of the losses (N, B) and the gradients (N, B, 3, H, W) of N models for B images, and returns what an update rule
is given: a loss (B,) and a gradient (B, 3, H, W) for each image. Images are not mixed.

The power means are functions of the image, and what they return is their gradient. *normalised* and *projected* return a
direction that is the gradient of nothing: they suit first-order rules such as "adam", not the line search of "lbfgs".

To add one, write such a function and name it here.
"""
from functools import partial


def power_mean(losses, gradients, *, power):
    """The mean of the losses to a power, and its root: 1 the mean, 2 the root mean square, large powers a smooth maximum.

    The larger the power, the more the member that matches worst decides. (Hardy, Littlewood & Polya 1934, Inequalities, 2.2.)
    """
    largest = losses.amax(0).clamp_min(1e-30)  # taken out first, so that large powers neither overflow nor vanish
    mean = largest * (losses / largest).pow(power).mean(0).pow(1 / power)
    weights = (losses / mean.clamp_min(1e-30)).pow(power - 1) / len(losses)
    return mean, (_each(weights, gradients) * gradients).sum(0)


def normalised(losses, gradients):
    """The mean loss; gradients of each model scaled to one length for each image, the mean of theirs, before they are averaged.

    A model with steep gradients does not outvote the others.
    """
    lengths = gradients.flatten(2).norm(dim=2)
    return losses.mean(0), (_each(lengths.mean(0) / lengths.clamp_min(1e-30), gradients) * gradients).mean(0)


def projected(losses, gradients):
    """The mean loss; from each model's gradient what works against another's is taken away before they are averaged.

    PCGrad (Yu et al. 2020, arXiv:2001.06782, algorithm 1), but the others are visited in order, beginning with the next, where the
    paper draws their order.
    """
    flat, count = gradients.flatten(2), len(gradients)
    squares = flat.square().sum(2, keepdim=True).clamp_min(1e-30)
    mended = []
    for k in range(count):
        own = flat[k]
        for other in ((k + step) % count for step in range(1, count)):
            against = (own * flat[other]).sum(1, keepdim=True).clamp_max(0)
            own = own - against / squares[other] * flat[other]
        mended.append(own)
    return losses.mean(0), (sum(mended) / count).view_as(gradients[0])


def _each(weights, gradients):
    """Weights (N, B), to be multiplied with gradients (N, B, 3, H, W)."""
    return weights.view(*weights.shape, *[1] * (gradients.ndim - 2))


COMBINATIONS = {
    "mean": partial(power_mean, power=1),
    "rms": partial(power_mean, power=2),
    "worst": partial(power_mean, power=8),
    "normalised": normalised,
    "projected": projected,
}
