"""Update rules. Each is a function that returns the next images; `OPTIMIZERS` names them::

    next_images = rule(images, gradient, loss, state, step, steps, **options)

with images and gradient (B, 3, H, W), loss (B,), the number of this `step` of `steps`, and `state`, a dictionary that is
empty at step 0 and in which a rule keeps what it needs, as tensors whose first dimension is the image. A rule treats every
image by itself: it never mixes rows. It is called once for each gradient evaluation; the loop clamps to [0, 1] what it returns.

To add one, write such a function and name it in `OPTIMIZERS`. Every learning rate, and the exponent of `spectral_lbfgs`, is the
best of five for few evaluations to the criterion by one protocol, `benchmarks/tuning.py`; the published step is as published.
"""
import math
from functools import partial

import torch

from metalib.spectra import falling, weighed


def published(images, gradient, loss, state, step, steps, *, step_size=1.0, block=3000, blocks=8):
    """Normalised gradient descent without momentum, the step halved with each block: the published procedure.

    Feather et al. 2023, doi:10.1038/s41593-023-01442-0, Methods, and their public code.
    `step_size` is the Euclidean length of the first steps for 224 x 224 x 3 pixels; for other sizes it is scaled with the
    square root of the number of pixels. The published run has 8 blocks of 3,000 steps; `steps` below 3,000 are the
    beginning of that run.
    """
    length = step_size * math.sqrt(images[0].numel() / (3 * 224 * 224)) * 0.5 ** min(step // block, blocks - 1)
    return images - length * gradient / (_norm(gradient) + 1e-10)


def sgd(images, gradient, loss, state, step, steps, *, learning_rate=0.01, momentum=0.9, nesterov=False, normalise=True):
    """Gradient descent with momentum as in torch.optim.SGD, the rate falling to zero along half a cosine.

    With `normalise`, each image's gradient is first scaled to a root mean square of one, so that `learning_rate` is the
    root mean square change of a pixel by the first step, whatever the model, stage and image size.
    """
    if normalise:
        gradient = gradient * math.sqrt(images[0].numel()) / (_norm(gradient) + 1e-10)
    velocity = state["velocity"] = momentum * state["velocity"] + gradient if step else gradient
    return images - _cosine(learning_rate, step, steps) * (gradient + momentum * velocity if nesterov else velocity)


def rmsprop(images, gradient, loss, state, step, steps, *, learning_rate=0.01, alpha=0.95, epsilon=1e-8):
    """RMSprop as in torch.optim.RMSprop (Tieleman & Hinton 2012, lecture 6.5), the rate falling to zero along half a cosine."""
    before = state["square"] if step else torch.zeros_like(images)
    square = state["square"] = alpha * before + (1 - alpha) * gradient.square()
    return images - _cosine(learning_rate, step, steps) * gradient / (square.sqrt() + epsilon)


def adam(images, gradient, loss, state, step, steps, *, learning_rate=0.04, beta1=0.8, beta2=0.95, epsilon=1e-8, amsgrad=False):
    """Adam (Kingma & Ba 2015, arXiv:1412.6980, algorithm 1), the rate falling to zero along half a cosine.

    Both averages are shorter than usual (0.9 and 0.999): at the hardest stages of the bundled residual networks, where this was
    tried, more images pass the criterion within 200 steps. With `amsgrad` the second average never falls (Reddi et al. 2018,
    arXiv:1904.09237, algorithm 2).
    """
    if step == 0:
        state["mean"], state["square"] = torch.zeros_like(images), torch.zeros_like(images)
    mean = state["mean"] = torch.lerp(state["mean"], gradient, 1 - beta1)
    square = state["square"] = torch.lerp(state["square"], gradient.square(), 1 - beta2)
    if amsgrad:
        square = state["largest"] = torch.maximum(state["largest"], square) if step else square
    rate, size = _cosine(learning_rate, step, steps) / (1 - beta1 ** (step + 1)), math.sqrt(1 - beta2 ** (step + 1))
    return images.addcdiv(mean, square.sqrt() / size + epsilon, value=-rate)


def spectral_adam(images, gradient, loss, state, step, steps, *, learning_rate=0.08, beta1=0.8, beta2=0.95, epsilon=1e-8,
                  exponent=1.0):
    """Adam on Fourier coefficients, which are scaled by frequency to the power of minus `exponent`, as natural images are.

    After Olah et al. 2017 (doi:10.23915/distill.00007, "preconditioning and parameterization"). A coefficient's real and imaginary
    parts share their second average. Pixels at 0 or 1 that descent would push out of the box are left out: without that a step
    that mixes pixels can stop where pixels inside are still wrong (Bertsekas 1982, doi:10.1137/0320018). `learning_rate`
    is about the root mean square change of a pixel by the first step.
    """
    weights, free = falling(images, exponent), _free(images, gradient)
    coefficients = torch.fft.rfft2(gradient * free, norm="ortho") * weights
    if step == 0:
        state["mean"], state["square"] = torch.zeros_like(coefficients), torch.zeros_like(coefficients.real)
    mean = state["mean"] = beta1 * state["mean"] + (1 - beta1) * coefficients
    square = state["square"] = beta2 * state["square"] + (1 - beta2) * coefficients.abs().square()
    mean, square = mean / (1 - beta1 ** (step + 1)), square / (1 - beta2 ** (step + 1))
    change = torch.fft.irfft2(mean / (square.sqrt() + epsilon) * weights, s=images.shape[-2:], norm="ortho") * free
    return images - _cosine(learning_rate, step, steps) * change


def lion(images, gradient, loss, state, step, steps, *, learning_rate=0.02, beta1=0.9, beta2=0.99):
    """The sign of an average of gradients (Chen et al. 2023, arXiv:2302.06675, algorithm 2), the rate falling to zero.

    Half a cosine, as for the others. With both averages at zero it is descent by the sign of the gradient.
    """
    before = state["mean"] if step else torch.zeros_like(images)
    state["mean"] = beta2 * before + (1 - beta2) * gradient
    return images - _cosine(learning_rate, step, steps) * torch.sign(beta1 * before + (1 - beta1) * gradient)


def lbfgs(images, gradient, loss, state, step, steps, *, history=20, first_step=0.05, exponent=0.0, fade=20):
    """L-BFGS in the box [0, 1], with a history and a backtracking line search for each image by itself.

    It lowers half the squared loss, which is smooth at a match, where the loss itself has a kink. Directions are those of
    Nocedal & Wright 2006 (Numerical Optimization, algorithm 7.4), over the pixels that are free to move: a pixel at 0 or 1
    whose gradient points outwards stays (two-metric projection, Bertsekas 1982, doi:10.1137/0320018). The first guess of the
    inverse Hessian weighs Fourier coefficients by frequency to the power of -2 `exponent`, as in `spectral_adam`; this
    helps while little is known of the curvature, and is given up gradually. See `_line_search`.

    Args:
        history: pairs of steps and changes of the gradient that are kept: 2 x `history` images of memory for each image.
        first_step: root mean square change of a pixel that is tried first; later steps follow from the curvature.
        exponent: at the beginning; 0 weighs all frequencies alike, as usual, and `spectral_lbfgs` begins with 0.5.
        fade: evaluations after which the exponent has fallen to a half, and to a third after twice as many.
    """
    _line_search(images, gradient, loss, state, step, first_step)
    point, slope, curved = state["point"], state["slope"], state["curved"]
    rows, free = torch.arange(len(point), device=point.device), _free(point, slope)

    weights = falling(images, 2 * exponent / (1 + step / fade))

    def guess(x):
        return weighed(x.view_as(images), weights).flatten(1)

    if step == 0:
        state["moves"], state["bends"] = point.new_zeros(2, len(point), history, point.shape[1])
        state["count"] = torch.zeros(len(point), dtype=torch.int64, device=point.device)
        state["guess"] = first_step * math.sqrt(point.shape[1]) / (_norm(guess(slope * free)) + 1e-30)
    move, bend, count = state["move"], state["bend"], state["count"]
    state["guess"] = torch.where(curved, _dot(move, bend) / _dot(bend, guess(bend)), state["guess"])
    for name, new in (("moves", move), ("bends", bend)):  # a pair without curvature is not kept
        place = rows, count % history
        state[name][place] = torch.where(curved, new, state[name][place])
    count = state["count"] = torch.where(state["failures"] < 8, count[:, None] + curved, 0).squeeze(1)  # or begin anew
    if step + 1 == steps:
        return point.view_as(images)

    # H g with the compact form of H, newest pair first: two triangular systems in place of the loops of algorithm 7.4
    moves, bends = state["moves"], state["bends"]
    order = (count[:, None] - 1 - torch.arange(history, device=point.device)) % history
    products = _products(moves * free[:, None], bends.mT)  # (B, history, history), of what is free only
    triangle = products[rows[:, None, None], order[:, :, None], order[:, None, :]].tril()
    curvature = triangle.diagonal(dim1=1, dim2=2)
    used = (torch.arange(history, device=point.device) < count[:, None]) & (curvature > 0)
    triangle = torch.where(used[:, :, None] & used[:, None, :], triangle, torch.eye(history, device=point.device))

    def along(pairs, x):
        return torch.where(used, _products(x[:, None], pairs.mT).squeeze(1).gather(1, order), 0)

    def combined(pairs, shares):
        return _products(torch.zeros_like(shares).scatter(1, order, shares)[:, None], pairs).squeeze(1)

    shares = torch.linalg.solve_triangular(triangle, along(moves, slope * free)[..., None], upper=False).squeeze(2)
    direction = state["guess"] * guess((slope - combined(bends, shares)) * free) * free
    rest = torch.where(used, curvature * shares, 0) - along(bends, direction)
    shares = torch.linalg.solve_triangular(triangle.mT, rest[..., None], upper=True).squeeze(2)
    return _trial(state, -(direction + combined(moves, shares)) * free, free).view_as(images)


def conjugate_gradient(images, gradient, loss, state, step, steps, *, first_step=0.02):
    """Nonlinear conjugate gradients in the box [0, 1], with a backtracking line search for each image by itself.

    The factor is that of Polak and Ribiere, not below zero (Nocedal & Wright 2006, equation 5.45); the length that is tried
    first follows from the curvature along the step before (Barzilai & Borwein 1988, doi:10.1093/imanum/8.1.141). Objective,
    pixels that are free and options as of `lbfgs`.
    """
    accepted = _line_search(images, gradient, loss, state, step, first_step, flat=0.4)
    point, slope = state["point"], state["slope"]
    if step + 1 == steps:
        return point.view_as(images)
    free = _free(point, slope)
    if step:
        before = slope - state["bend"]
        factor = _dot(slope * free, state["bend"]) / _dot(before, before).clamp_min(1e-30)
        factor = torch.where(state["failures"] < 8, factor.clamp_min(0), 0)
        direction = torch.where(accepted, factor * state["direction"] - slope * free, state["direction"])
    else:
        direction = -slope * free
    state["direction"] = direction
    size = state["length"] * -_dot(slope, direction) / _dot(direction, direction).clamp_min(1e-30)
    return _trial(state, size * direction, free).view_as(images)


OPTIMIZERS = {
    "published": published,
    "gradient_descent": partial(sgd, momentum=0.0, learning_rate=0.02),
    "sgd": sgd,
    "nesterov": partial(sgd, nesterov=True),
    "sgd_raw": partial(sgd, normalise=False, learning_rate=3.0),
    "rmsprop": rmsprop,
    "adam": adam,
    "amsgrad": partial(adam, amsgrad=True),
    "spectral_adam": spectral_adam,
    "sign": partial(lion, beta1=0.0, beta2=0.0, learning_rate=0.01),
    "lion": lion,
    "conjugate_gradient": conjugate_gradient,
    "lbfgs": lbfgs,
    "spectral_lbfgs": partial(lbfgs, exponent=0.5),
}
LINE_SEARCHES = (lbfgs, conjugate_gradient)  # they compare losses of different evaluations


def _line_search(images, gradient, loss, state, step, first_step, flat=math.inf, sufficient=1e-4):
    """Take or refuse the trial `images`: one step of a backtracking line search, in which no image waits for another.

    A trial is taken if it lowers half the squared loss by a share `sufficient` of what the gradient promises (Armijo's
    condition), and if the gradient along the line has fallen to a share `flat` (the strong Wolfe condition, Nocedal & Wright
    2006, equations 3.4 and 3.7; given up after 8 trials). Else another length is tried: that to the minimum of a parabola,
    but between a tenth and half of the length, or up to four times it where the trial was low enough.

    Returns:
        (B, 1) bool, which trials are taken; and in `state`, one row for each image: `point` (B, D), the images taken last,
        with `value` and gradient (`slope`) there; `move` and `bend`, by how much the trial differs from the point before in
        pixels and in gradient; `curved`, whether it is taken and their product positive; `length`, the length of steepest
        descent that they suggest; `scale`, the share of a direction to be tried next; `failures`, trials refused in a row.
    """
    trial, slope, value = images.flatten(1), loss[:, None] * gradient.flatten(1), loss[:, None].square() / 2
    if step == 0:
        length = first_step * math.sqrt(trial.shape[1]) / (_norm(slope) + 1e-30)
        state.update(point=trial, slope=slope, value=value, move=torch.zeros_like(trial), bend=torch.zeros_like(trial),
                     curved=value < 0, length=length, scale=torch.ones_like(length), failures=torch.zeros_like(length))
        return value >= 0
    move, bend = trial - state["point"], slope - state["slope"]
    promised, left = _dot(state["slope"], move), _dot(slope, move)
    low = value <= state["value"] + sufficient * promised
    accepted = low & ((left.abs() <= flat * promised.abs()) | (state["failures"] >= 8))
    by_values = -promised / (2 * (value - state["value"] - promised)).clamp_min(1e-30)
    by_slopes = -promised / (left - promised).clamp_min(1e-30)
    factor = torch.where(low, by_slopes.clamp(0.1, 4), by_values.clamp(0.1, 0.5))
    curvature, bends = _dot(move, bend), _dot(bend, bend)
    curved = accepted & (curvature > 1e-10 * bends)
    taken = {"point": trial, "slope": slope, "value": value, "scale": torch.ones_like(value), "failures": torch.zeros_like(value)}
    refused = {**state, "scale": state["scale"] * factor, "failures": state["failures"] + 1}
    state.update({name: torch.where(accepted, taken[name], refused[name]) for name in taken},
                 move=move, bend=bend, curved=curved, length=torch.where(curved, curvature / bends, state["length"]))
    return accepted


def _free(point, slope):
    """Which pixels descent would not push out of the box."""
    return ~(((point <= 0) & (slope > 0)) | ((point >= 1) & (slope < 0)))


def _trial(state, direction, free):
    """The next images (B, D) to be tried, along a direction, or steepest descent where inside the box that does not descend."""
    point, slope = state["point"], state["slope"]
    direction = torch.where(((point <= 0) & (direction < 0)) | ((point >= 1) & (direction > 0)), 0, direction)
    direction = torch.where(_dot(direction, slope) < 0, direction, -state["length"] * slope * free)
    return (point + state["scale"] * direction).clamp(0, 1)


def _cosine(rate, step, steps):
    return rate * (1 + math.cos(math.pi * step / steps)) / 2


def _norm(x):
    return torch.linalg.vector_norm(x.flatten(1), dim=1).view(-1, *[1] * (x.ndim - 1))


def _products(a, b):
    """Matrix products, one for each image. A lone one is computed twice: torch's kernel for it would round differently."""
    return torch.bmm(a.expand(2, -1, -1), b.expand(2, -1, -1))[:1] if len(a) == 1 else torch.bmm(a, b)


def _dot(a, b):
    return (a * b).sum(1, keepdim=True)
