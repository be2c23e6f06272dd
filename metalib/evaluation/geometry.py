"""Local geometry: to which changes of an image is a stage most and least sensitive?

    found = eigendistortions(model, "group3", image)            # the extremes of one stage
    found = principal_distortions(models, stages, image)        # what divides several networks
    table = sensitivities(models, stages, images, directions)   # how far activations move

All is matrix-free: of the Jacobian J of a stage, products J v and u J are needed only, for which
each takes one pass backwards.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import optimize
from scipy.sparse import linalg as sparse
from torch import Tensor

from metalib.data import ImageSet, pixels
from metalib.models import Model
from metalib.plain import whole

TINY = 1e-30  # below the squared length of any response


class Jacobian:
    """The derivatives of the activations (D,) of a stage by the pixels of one image (3, H, W).

    Args:
        model, stage: whose.
        image: (3, H, W) in [0, 1].

    Raises:
        ValueError: no such stage, or an image that the model cannot take.
    """

    def __init__(self, model: Model, stage: str, image: Tensor):
        model.check_stage(stage)
        model.check_images(image[None])
        self.shape, self.device = image.shape, model.device
        self.image = image[None].to(self.device).requires_grad_()
        self.activations = model.unchecked_activations(self.image, stage)[0].flatten()
        self.dual = torch.zeros_like(self.activations, requires_grad=True)
        self.back, = torch.autograd.grad(
            self.activations, self.image, self.dual, create_graph=True)

    def times(self, change: Tensor) -> Tensor:
        """J v: how the activations move (D,) with a change of the image (3, H, W)."""
        moved, = torch.autograd.grad(
            self.back, self.dual, change.view_as(self.image).to(self.image), retain_graph=True)
        return moved.detach()

    def transposed(self, weights: Tensor) -> Tensor:
        """u J: (3, H, W), from weights (D,) of the activations."""
        found, = torch.autograd.grad(
            self.activations, self.image, weights.to(self.activations), retain_graph=True)
        return found[0].detach()

    def fisher(self, change: Tensor) -> Tensor:
        """Jᵀ J v, (3, H, W): the Fisher information under equal noise in every unit, times v."""
        return self.transposed(self.times(change))


@dataclass(frozen=True)
class Distortions:
    """Directions of change of an image, each of length one.

    Attributes:
        directions: (k, 3, H, W).
        values: (k,), the squared length of the activations' move: eigenvalues of Jᵀ J.
    """

    directions: Tensor
    values: np.ndarray


def eigendistortions(
    model: Model, stage: str, image: Tensor, *, k: int = 1, tolerance: float = 1e-4, seed: int = 0,
) -> tuple[Distortions, Distortions]:
    """The changes of an image that move a stage's activations most, and least.

    Berardino et al. 2017 (arXiv:1710.02266): eigenvectors of Jᵀ J, by Lanczos' method. Where a
    stage has fewer units than the image has numbers, there is a space of changes that move nothing;
    of it `k` are given.

    Args:
        model, stage: whose activations.
        image: (3, H, W) in [0, 1].
        k: how many of each kind.
        tolerance: of the eigenvalues, relative to the largest.
        seed: of the vector from which it begins.

    Returns:
        Distortions: the most visible to the stage, largest first, and the least, smallest first.

    Raises:
        ValueError: as `Jacobian`, or a `k` that is not whole or too large.

    Example:
        >>> from metalib import load_images, load_model
        >>> model, images = load_model("zoo/vgg-robust-0"), load_images("cifar10-samples", n=1)
        >>> most, least = eigendistortions(model, "group3", images.images[0])
        >>> bool(most.values[0] > 1000 * least.values[0])
        True
    """
    jacobian = Jacobian(model, stage, image)
    size = image.numel()
    whole("k", k, 1, size // 2)
    solver: Any = sparse  # whose types are narrower than what it takes
    begin = np.random.default_rng(seed).standard_normal(size)

    def largest(product: Any) -> tuple[np.ndarray, np.ndarray]:
        operator = solver.LinearOperator((size, size), matvec=product, dtype=np.float64)
        values, vectors = solver.eigsh(operator, k=k, which="LA", tol=tolerance, v0=begin)
        return values[::-1], vectors[:, ::-1].T

    def fisher(vector: np.ndarray) -> np.ndarray:
        change = torch.as_tensor(vector.reshape(image.shape), dtype=torch.float32)
        return jacobian.fisher(change).double().cpu().numpy().ravel()

    values, most = largest(fisher)
    top = 1.01 * values[0]
    _, least = largest(lambda vector: top * vector.ravel() - fisher(vector))
    return _measured(jacobian, most), _measured(jacobian, least)


def _measured(jacobian: Jacobian, vectors: np.ndarray) -> Distortions:
    directions = torch.as_tensor(vectors.copy(), dtype=torch.float32).view(-1, *jacobian.shape)
    directions = directions / directions.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    values = [float(jacobian.times(one).double().square().sum()) for one in directions]
    return Distortions(directions, np.asarray(values))


def principal_distortions(
    models: Sequence[Model], stages: Sequence[str], image: Tensor, *, steps: int = 200,
    starts: int = 3, seed: int = 0,
) -> tuple[Distortions, np.ndarray]:
    """Two changes of an image about whose relative size networks differ most.

    Feather et al. 2025 (arXiv:2410.15433): unit changes a and b that maximise the variance, over
    networks, of log(‖J a‖ / ‖J b‖). With two networks these are the extremes of the ratio of their
    sensitivities, a generalised eigenproblem.

    Args:
        models, stages: two networks at least, and a stage of each.
        image: (3, H, W) in [0, 1].
        steps: of L-BFGS, at most, from each start.
        starts: random starts, of which the best end is taken.
        seed: of the starts.

    Returns:
        Distortions: the two directions, with the geometric means of the networks' squared
        sensitivities as `values`; and (networks,), the log ratios log(‖J a‖ / ‖J b‖), whose sign is
        such that the first one is not negative.

    Raises:
        ValueError: fewer than two networks, or not a stage for each.
    """
    if len(models) < 2 or len(models) != len(stages):
        raise ValueError(f"principal distortions need two networks and a stage for each, not "
                         f"{len(models)} networks and {len(stages)} stages")
    jacobians = [Jacobian(model, stage, image) for model, stage in zip(models, stages)]
    random, size = np.random.default_rng(seed), image.numel()

    def parts(vector: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log sensitivities (networks,) to a unit change, and their gradients (networks, size)."""
        change = torch.as_tensor(vector.reshape(image.shape), dtype=torch.float32)
        moved = [jacobian.times(change) for jacobian in jacobians]
        squares = np.array([float(one.double().square().sum()) for one in moved]) + TINY
        back = [jacobian.transposed(one).double().cpu().numpy().ravel() / square
                for jacobian, one, square in zip(jacobians, moved, squares)]
        return np.log(squares) / 2, np.stack(back)

    def loss(both: np.ndarray) -> tuple[float, np.ndarray]:
        vectors = both.reshape(2, size)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        units = vectors / lengths
        (first, to_first), (second, to_second) = map(parts, units)
        ratio = first - second
        weights = 2 * (ratio - ratio.mean()) / len(ratio)
        slopes = np.stack([weights @ to_first, -weights @ to_second])
        slopes -= (slopes * units).sum(1, keepdims=True) * units  # the length does not count
        return -float(ratio.var()), -(slopes / lengths).ravel()

    best: Any = min((optimize.minimize(
        loss, random.standard_normal(2 * size), jac=True, method="L-BFGS-B",
        options={"maxiter": whole("steps", steps, 1)}) for _ in range(whole("starts", starts, 1))),
        key=lambda found: found.fun)
    units = best.x.reshape(2, size)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    logs = np.stack([parts(unit)[0] for unit in units])
    if logs[0, 0] < logs[1, 0]:
        units, logs = units[::-1], logs[::-1]
    directions = torch.as_tensor(units.copy(), dtype=torch.float32).view(2, *image.shape)
    return Distortions(directions, np.exp(2 * logs.mean(1))), logs[0] - logs[1]


def sensitivities(
    models: Sequence[Model], stages: Sequence[str], images: ImageSet | Tensor, directions: Tensor,
) -> pd.DataFrame:
    """How far the activations of stages move with unit changes of images.

    Args:
        models, stages: networks, and a stage of each.
        images: (B, 3, H, W) in [0, 1].
        directions: (B, k, 3, H, W), changes of each image; their lengths do not matter.

    Returns:
        pandas.DataFrame, a row for each network, image and direction: `model`, `stage`, `image`,
        `direction`, `sensitivity` (‖J v‖, for ‖v‖ = 1) and `relative` (over the length of the
        activations).

    Raises:
        ValueError: not a stage for each network, or directions of another shape.
    """
    stack = pixels(images)
    if len(models) != len(stages):
        raise ValueError(f"{len(models)} networks need as many stages, not {len(stages)}")
    if directions.ndim != 5 or directions.shape[0] != len(stack) or (
            directions.shape[2:] != stack.shape[1:]):
        raise ValueError(f"directions are ({len(stack)}, k, {', '.join(map(str, stack.shape[1:]))})"
                         f", not {tuple(directions.shape)}")
    rows = []
    for model, stage in zip(models, stages):
        for number, (image, changes) in enumerate(zip(stack, directions)):
            jacobian = Jacobian(model, stage, image)
            length = float(jacobian.activations.detach().norm())
            for place, change in enumerate(changes):
                moved = float(jacobian.times(change / change.norm()).norm())
                rows.append([model.name, stage, number, place, moved,
                             moved / length if length else float("nan")])
    return pd.DataFrame(rows, columns=["model", "stage", "image", "direction", "sensitivity",
                                       "relative"])
