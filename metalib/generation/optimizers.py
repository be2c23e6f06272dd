"""Update rules. Each is a function that returns the next images; `OPTIMIZERS` names them::

    next_images = rule(images, gradient, loss, state, step, steps, **options)

`images` and `gradient` are (B, 3, H, W), `loss` is (B,), and `step` counts from 0 to `steps` - 1.
`state` is a dictionary, empty at step 0, in which a rule keeps what it needs, as tensors whose
first dimension is the image. A rule treats every image by itself: it never mixes rows. It is
called once for each gradient evaluation, and the loop clamps to [0, 1] what it returns.

To add one, write such a function and name it in `OPTIMIZERS`. Each learning rate, and the exponent
of `spectral_lbfgs`, is the one of five values that took the fewest evaluations to the criterion,
all by one protocol, `benchmarks/tuning.py`. The step of `published` is as published.
"""

import math
from collections.abc import Callable
from functools import partial, reduce

import torch
from torch import Tensor

from metalib.generation.spectra import falling, weighed

PIECE = 2**14  # numbers of an image that are multiplied at a time


def published(
    images: Tensor, gradient: Tensor, loss: Tensor, state: dict[str, Tensor], step: int, steps: int,
    *, step_size: float = 1.0, block: int = 3000, blocks: int = 8,
) -> Tensor:
    """The published procedure: normalised gradient descent without momentum.

    The length of a step is halved from each block of steps to the next. Feather et al. 2023,
    doi:10.1038/s41593-023-01442-0, Methods, and their public code.

    `step_size` is the Euclidean length of the first steps for 224 x 224 x 3 pixels; for other
    sizes it is scaled with the square root of the number of pixels. The published run has 8 blocks
    of 3,000 steps; a shorter run is the beginning of that one.
    """
    length = (step_size * math.sqrt(images[0].numel() / (3 * 224 * 224))
              * 0.5 ** min(step // block, blocks - 1))
    return images - length * gradient / (_norm(gradient) + 1e-10)


def sgd(
    images: Tensor, gradient: Tensor, loss: Tensor, state: dict[str, Tensor], step: int, steps: int,
    *, learning_rate: float = 0.01, momentum: float = 0.9, nesterov: bool = False,
    normalise: bool = True,
) -> Tensor:
    """Gradient descent with momentum, as in torch.optim.SGD.

    The rate falls to zero along half a cosine. With `normalise`, each image's gradient is first
    scaled to a root mean square of one, so that `learning_rate` is the root mean square change of
    a pixel in the first step, whatever the model, stage and image size.
    """
    if normalise:
        gradient = gradient * math.sqrt(images[0].numel()) / (_norm(gradient) + 1e-10)
    velocity = state["velocity"] = momentum * state["velocity"] + gradient if step else gradient
    return images - _cosine(learning_rate, step, steps) * (
        gradient + momentum * velocity if nesterov else velocity)


def rmsprop(
    images: Tensor, gradient: Tensor, loss: Tensor, state: dict[str, Tensor], step: int, steps: int,
    *, learning_rate: float = 0.01, alpha: float = 0.95, epsilon: float = 1e-8,
) -> Tensor:
    """RMSprop, as in torch.optim.RMSprop (Tieleman & Hinton 2012, lecture 6.5).

    The rate falls to zero along half a cosine.
    """
    before = state["square"] if step else torch.zeros_like(images)
    square = state["square"] = alpha * before + (1 - alpha) * gradient.square()
    return images - _cosine(learning_rate, step, steps) * gradient / (square.sqrt() + epsilon)


def adam(
    images: Tensor, gradient: Tensor, loss: Tensor, state: dict[str, Tensor], step: int, steps: int,
    *, learning_rate: float = 0.04, beta1: float = 0.8, beta2: float = 0.95,
    epsilon: float = 1e-8, amsgrad: bool = False,
) -> Tensor:
    """Adam (Kingma & Ba 2015, arXiv:1412.6980, algorithm 1).

    The rate falls to zero along half a cosine. Both averages are shorter than usual (0.9 and
    0.999): at the hardest stages of the bundled residual networks, where this was tried, more
    images then pass the criterion within 200 steps. With `amsgrad` the second average never falls
    (Reddi et al. 2018, arXiv:1904.09237, algorithm 2).
    """
    if step == 0:
        state["mean"], state["square"] = torch.zeros_like(images), torch.zeros_like(images)
    mean = state["mean"] = torch.lerp(state["mean"], gradient, 1 - beta1)
    square = state["square"] = torch.lerp(state["square"], gradient.square(), 1 - beta2)
    if amsgrad:
        square = state["largest"] = torch.maximum(state["largest"], square) if step else square
    rate, size = (_cosine(learning_rate, step, steps) / (1 - beta1 ** (step + 1)),
                  math.sqrt(1 - beta2 ** (step + 1)))
    return images.addcdiv(mean, square.sqrt() / size + epsilon, value=-rate)


def spectral_adam(
    images: Tensor, gradient: Tensor, loss: Tensor, state: dict[str, Tensor], step: int, steps: int,
    *, learning_rate: float = 0.08, beta1: float = 0.8, beta2: float = 0.95,
    epsilon: float = 1e-8, exponent: float = 1.0,
) -> Tensor:
    """Adam on Fourier coefficients, scaled by frequency to the power of -`exponent`.

    Amplitudes of natural images fall in the same way. After Olah et al. 2017
    (doi:10.23915/distill.00007, "preconditioning and parameterization"). The real and imaginary
    parts of a coefficient share their second average. The rate falls to zero along half a cosine;
    `learning_rate` is about the root mean square change of a pixel in the first step.

    Pixels at 0 or 1 that descent would push out of the box are left out. Otherwise a step that
    mixes pixels can stop while pixels inside the box are still wrong (Bertsekas 1982,
    doi:10.1137/0320018).
    """
    weights, free = falling(images, exponent), _free(images, gradient)
    coefficients = torch.fft.rfft2(gradient * free, norm="ortho") * weights
    if step == 0:
        state["mean"], state["square"] = (
            torch.zeros_like(coefficients), torch.zeros_like(coefficients.real))
    mean = state["mean"] = beta1 * state["mean"] + (1 - beta1) * coefficients
    square = state["square"] = beta2 * state["square"] + (1 - beta2) * coefficients.abs().square()
    mean, square = mean / (1 - beta1 ** (step + 1)), square / (1 - beta2 ** (step + 1))
    change = torch.fft.irfft2(
        mean / (square.sqrt() + epsilon) * weights, s=images.shape[-2:], norm="ortho") * free
    return images - _cosine(learning_rate, step, steps) * change


def lion(
    images: Tensor, gradient: Tensor, loss: Tensor, state: dict[str, Tensor], step: int, steps: int,
    *, learning_rate: float = 0.02, beta1: float = 0.9, beta2: float = 0.99,
) -> Tensor:
    """Lion: the sign of an average of gradients (Chen et al. 2023, arXiv:2302.06675, algorithm 2).

    The rate falls to zero along half a cosine. With `beta1` and `beta2` of 0 nothing is averaged,
    and this is descent by the sign of the gradient.
    """
    before = state["mean"] if step else torch.zeros_like(images)
    state["mean"] = beta2 * before + (1 - beta2) * gradient
    return images - _cosine(learning_rate, step, steps) * torch.sign(
        beta1 * before + (1 - beta1) * gradient)


def lbfgs(
    images: Tensor, gradient: Tensor, loss: Tensor, state: dict[str, Tensor], step: int, steps: int,
    *, history: int = 20, first_step: float = 0.05, exponent: float = 0.0, fade: float = 20,
) -> Tensor:
    """L-BFGS in the box [0, 1]; every image has its own history and backtracking line search.

    It is written here since no library has it in torch, for a batch of separate problems, and with
    bounds: torch.optim.LBFGS shares one history over the batch, and SciPy's L-BFGS-B, against which
    it is tested, would be waited for by the network in every step.
    It lowers half the squared loss, which is smooth at a match, where the loss itself has a kink.
    Directions are those of Nocedal & Wright 2006 (Numerical Optimization, algorithm 7.4), over the
    pixels that are free to move: a pixel at 0 or 1 that descent would push out of the box stays
    (two-metric projection, Bertsekas 1982, doi:10.1137/0320018). The first guess of the inverse
    Hessian multiplies Fourier coefficients by frequency to the power of -2 `exponent`, as in
    `spectral_adam`. This helps while little is known of the curvature, and the exponent falls
    gradually. For the line search, see `_line_search`.

    Args:
        history: how many pairs of a step and the change of the gradient are kept. They take the
            memory of 2 x `history` images for each image.
        first_step: root mean square change of a pixel in the first trial; later steps follow from
            the curvature.
        exponent: its value at step 0. With 0 all frequencies have the same weight, as usual;
            `spectral_lbfgs` begins with 0.5.
        fade: evaluations after which the exponent has fallen to a half; after twice as many it
            has fallen to a third.
    """
    _line_search(images, gradient, loss, state, step, first_step)
    point, slope, curved = state["point"], state["slope"], state["curved"]
    rows, free = torch.arange(len(point), device=point.device), _free(point, slope)

    weights = falling(images, 2 * exponent / (1 + step / fade)) if exponent else None

    def guess(x: Tensor) -> Tensor:
        return x if weights is None else weighed(x.view_as(images), weights).flatten(1)

    if step == 0:
        state["moves"], state["bends"] = point.new_zeros(2, len(point), history, point.shape[1])
        state["count"] = torch.zeros(len(point), dtype=torch.int64, device=point.device)
        state["guess"] = (
            first_step * math.sqrt(point.shape[1]) / (_norm(guess(slope * free)) + 1e-30))
    move, bend, count = state["move"], state["bend"], state["count"]
    state["guess"] = torch.where(
        curved, _dot(move, bend) / _dot(bend, guess(bend)), state["guess"])
    for name, new in (("moves", move), ("bends", bend)):  # a pair without curvature is not kept
        place = rows, count % history
        state[name][place] = torch.where(curved, new, state[name][place])
    state["count"] = torch.where(  # after 8 refusals in a row the history begins anew
        state["failures"] < 8, count[:, None] + curved, 0).squeeze(1)
    if step + 1 == steps:
        return point.view_as(images)

    direction = _quasi_newton(state, slope, free, guess, max(1, min(history, step)))
    return _trial(state, -direction * free, free).view_as(images)


def conjugate_gradient(
    images: Tensor, gradient: Tensor, loss: Tensor, state: dict[str, Tensor], step: int, steps: int,
    *, first_step: float = 0.02,
) -> Tensor:
    """Nonlinear conjugate gradients in the box [0, 1]; every image has its own line search.

    The factor is that of Polak and Ribiere, but never below zero (Nocedal & Wright 2006, equation
    5.45). The length that is tried first follows from the curvature along the previous step
    (Barzilai & Borwein 1988, doi:10.1093/imanum/8.1.141). The objective, the free pixels, the
    backtracking line search and `first_step` are as in `lbfgs`.
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
        direction = torch.where(
            accepted, factor * state["direction"] - slope * free, state["direction"])
    else:
        direction = -slope * free
    state["direction"] = direction
    size = state["length"] * -_dot(slope, direction) / _dot(direction, direction).clamp_min(1e-30)
    return _trial(state, size * direction, free).view_as(images)


OPTIMIZERS: dict[str, Callable[..., Tensor]] = {
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


def _line_search(
    images: Tensor, gradient: Tensor, loss: Tensor, state: dict[str, Tensor], step: int,
    first_step: float, flat: float = math.inf, sufficient: float = 1e-4,
) -> Tensor:
    """Accept or refuse the trial `images`: one step of a backtracking line search for each image.

    No image waits for another. A trial is accepted if it lowers half the squared loss by at least
    the share `sufficient` of what the gradient promises (Armijo's condition), and if the gradient
    along the line has fallen to at most a share `flat` of what it was. Together these are the
    strong Wolfe conditions (Nocedal & Wright 2006, equations 3.4 and 3.7); the second is dropped
    after 8 refusals in a row. After a refusal another length is tried, that of the minimum of a
    parabola. It is kept between a tenth and half of the refused length, or, if the trial met
    Armijo's condition, between a tenth and four times that length.

    Returns:
        (B, 1) bool: which trials are accepted. `state` then holds, one row for each image:
        `point` (B, D), the image accepted last, with its `value` and its gradient, `slope`;
        `move` and `bend`, the differences between the trial and the point before it, in pixels
        and in gradient; `curved`, whether the trial is accepted and their product is positive;
        `length`, the factor on the gradient that they suggest for steepest descent; `scale`, the
        share of a direction to try next; `failures`, the number of refusals in a row.
    """
    trial, slope, value = (
        images.flatten(1), loss[:, None] * gradient.flatten(1), loss[:, None].square() / 2)
    if step == 0:
        length = first_step * math.sqrt(trial.shape[1]) / (_norm(slope) + 1e-30)
        state.update(
            point=trial, slope=slope, value=value, move=torch.zeros_like(trial),
            bend=torch.zeros_like(trial), curved=value < 0, length=length,
            scale=torch.ones_like(length), failures=torch.zeros_like(length))
        return value >= 0
    move, bend = trial - state["point"], slope - state["slope"]
    promised, remaining = _dot(state["slope"], move), _dot(slope, move)
    low = value <= state["value"] + sufficient * promised
    accepted = low & ((remaining.abs() <= flat * promised.abs()) | (state["failures"] >= 8))
    by_values = -promised / (2 * (value - state["value"] - promised)).clamp_min(1e-30)
    by_slopes = -promised / (remaining - promised).clamp_min(1e-30)
    factor = torch.where(low, by_slopes.clamp(0.1, 4), by_values.clamp(0.1, 0.5))
    curvature, bend_squared = _dot(move, bend), _dot(bend, bend)
    curved = accepted & (curvature > 1e-10 * bend_squared)
    if_accepted = {"point": trial, "slope": slope, "value": value,
                   "scale": torch.ones_like(value), "failures": torch.zeros_like(value)}
    if_refused = {**state, "scale": state["scale"] * factor, "failures": state["failures"] + 1}
    state.update(
        {name: torch.where(accepted, if_accepted[name], if_refused[name]) for name in if_accepted},
        move=move, bend=bend, curved=curved,
        length=torch.where(curved, curvature / bend_squared, state["length"]))
    return accepted


def _quasi_newton(
    state: dict[str, Tensor], slope: Tensor, free: Tensor, guess: Callable[[Tensor], Tensor],
    history: int,
) -> Tensor:
    """The inverse Hessian times a gradient (B, D), from the pairs in `state`; free pixels only.

    By the compact form, newest pair first: two triangular systems in place of the loops of Nocedal
    & Wright 2006, algorithm 7.4.

    Args:
        guess: multiplies rows (B, D) by the first guess of the inverse Hessian, up to its scale.
        history: how many pairs there can be by now; what lies behind is not read.
    """
    moves, bends, count = state["moves"][:, :history], state["bends"][:, :history], state["count"]
    rows = torch.arange(len(moves), device=moves.device)
    order = (count[:, None] - 1 - torch.arange(history, device=moves.device)) % history
    products = _masked_products(moves, free, bends)  # (B, history, history)
    triangle = products[rows[:, None, None], order[:, :, None], order[:, None, :]].tril()
    curvature = triangle.diagonal(dim1=1, dim2=2)
    used = (torch.arange(history, device=moves.device) < count[:, None]) & (curvature > 0)
    triangle = torch.where(used[:, :, None] & used[:, None, :], triangle,
                           torch.eye(history, device=moves.device))

    def along(pairs: Tensor, x: Tensor) -> Tensor:
        return torch.where(
            used, _products(x[:, None], pairs.mT).squeeze(1).gather(1, order), 0)

    def combined(pairs: Tensor, factors: Tensor) -> Tensor:
        return _products(
            torch.zeros_like(factors).scatter(1, order, factors)[:, None], pairs).squeeze(1)

    factors = torch.linalg.solve_triangular(
        triangle, along(moves, slope * free)[..., None], upper=False).squeeze(2)
    direction = state["guess"] * guess((slope - combined(bends, factors)) * free) * free
    right_side = torch.where(used, curvature * factors, 0) - along(bends, direction)
    factors = torch.linalg.solve_triangular(
        triangle.mT, right_side[..., None], upper=True).squeeze(2)
    return direction + combined(moves, factors)


def _free(point: Tensor, slope: Tensor) -> Tensor:
    """Which pixels descent would not push out of the box, as 0 or 1.

    They are floats, since products with booleans take longer on a CPU.
    """
    return (~(((point <= 0) & (slope > 0)) | ((point >= 1) & (slope < 0)))).to(point.dtype)


def _trial(state: dict[str, Tensor], direction: Tensor, free: Tensor) -> Tensor:
    """The next images (B, D) to try: along `direction`, or else along steepest descent.

    Pixels that `direction` would push out of the box are held. Steepest descent takes its place
    where what remains of it does not descend.
    """
    point, slope = state["point"], state["slope"]
    direction = torch.where(
        ((point <= 0) & (direction < 0)) | ((point >= 1) & (direction > 0)), 0, direction)
    direction = torch.where(
        _dot(direction, slope) < 0, direction, -state["length"] * slope * free)
    return (point + state["scale"] * direction).clamp(0, 1)


def _cosine(rate: float, step: int, steps: int) -> float:
    """The rate at a step, as it falls to zero along half a cosine."""
    return rate * (1 + math.cos(math.pi * step / steps)) / 2


def _norm(x: Tensor) -> Tensor:
    """The Euclidean norm of each image, in a shape that broadcasts with the images."""
    return torch.linalg.vector_norm(x.flatten(1), dim=1).view(-1, *[1] * (x.ndim - 1))


def _products(a: Tensor, b: Tensor) -> Tensor:
    """Matrix products, one for each image.

    A single product is computed twice: torch's kernel for a single one would round differently.
    """
    return (torch.bmm(a.expand(2, -1, -1), b.expand(2, -1, -1))[:1] if len(a) == 1
            else torch.bmm(a, b))


def _masked_products(a: Tensor, mask: Tensor, b: Tensor) -> Tensor:
    """Products (B, n, m) of rows (B, n, D) and (B, m, D), over the numbers in a mask (B, D).

    Taken in pieces on a CPU, where memory for the whole masked copy would cost more than the
    products.
    """
    size = PIECE if a.device.type == "cpu" else a.shape[2]
    parts = [_products(some * free[:, None], others.mT) for some, free, others in zip(
        a.split(size, 2), mask.split(size, 1), b.split(size, 2))]
    return reduce(torch.add, parts)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(1, keepdim=True)
