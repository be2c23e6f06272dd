"""Update rules. Each is a function that returns the next images; `OPTIMIZERS` names them::

    next_images = rule(images, gradient, loss, state, step, steps, **options)

with images and gradient (B, 3, H, W), loss (B,), the number of this `step` of `steps`, and `state`, a dictionary that is
empty at step 0 and in which a rule keeps what it needs, as tensors whose first dimension is the image. A rule treats every
image by itself: it never mixes rows. The loop clamps to [0, 1] what a rule returns.

To add one, write such a function and name it in `OPTIMIZERS`.
"""
import math

import torch


def published(images, gradient, loss, state, step, steps, *, step_size=1.0, block=3000, blocks=8):
    """Normalised gradient descent without momentum, the step halved with each block: the published procedure.

    Feather et al. 2023, doi:10.1038/s41593-023-01442-0, Methods, and their public code.
    `step_size` is the Euclidean length of the first steps for 224 x 224 x 3 pixels; for other sizes it is scaled with the
    square root of the number of pixels. The published run has 8 blocks of 3,000 steps; `steps` below 3,000 are the
    beginning of that run.
    """
    length = step_size * math.sqrt(images[0].numel() / (3 * 224 * 224)) * 0.5 ** min(step // block, blocks - 1)
    return images - length * gradient / (_norm(gradient) + 1e-10)


def sgd(images, gradient, loss, state, step, steps, *, learning_rate=0.005, momentum=0.9, nesterov=False, normalise=True):
    """Gradient descent with momentum as in torch.optim.SGD, the rate falling to zero along half a cosine.

    With `normalise`, each image's gradient is first scaled to a root mean square of one, so that `learning_rate` is the
    root mean square change of a pixel by the first step, whatever the model, stage and image size.
    """
    if normalise:
        gradient = gradient * math.sqrt(images[0].numel()) / (_norm(gradient) + 1e-10)
    velocity = state["velocity"] = momentum * state["velocity"] + gradient if step else gradient
    return images - _cosine(learning_rate, step, steps) * (gradient + momentum * velocity if nesterov else velocity)


def adam(images, gradient, loss, state, step, steps, *, learning_rate=0.04, beta1=0.8, beta2=0.95, epsilon=1e-8):
    """Adam (Kingma & Ba 2015, arXiv:1412.6980, algorithm 1), the rate falling to zero along half a cosine.

    Both averages are shorter than usual (0.9 and 0.999): at the hardest stages of the bundled residual networks, where this was
    tried, more images pass the criterion within 200 steps.
    """
    if step == 0:
        state["mean"], state["square"] = torch.zeros_like(images), torch.zeros_like(images)
    mean = state["mean"] = beta1 * state["mean"] + (1 - beta1) * gradient
    square = state["square"] = beta2 * state["square"] + (1 - beta2) * gradient.square()
    mean, square = mean / (1 - beta1 ** (step + 1)), square / (1 - beta2 ** (step + 1))
    return images - _cosine(learning_rate, step, steps) * mean / (square.sqrt() + epsilon)


OPTIMIZERS = {"published": published, "sgd": sgd, "adam": adam}


def _cosine(rate, step, steps):
    return rate * (1 + math.cos(math.pi * step / steps)) / 2


def _norm(x):
    return torch.linalg.vector_norm(x.flatten(1), dim=1).view(-1, *[1] * (x.ndim - 1))
