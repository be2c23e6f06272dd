"""Measures of similarity between activations, and of distance between images.

All are pure functions of tensors. Most compare row by row: two tensors (..., D) of the same shape
give one number per row (...). `rdm`, `u_centred`, `cka` and `debiased_cka` take whole sets of
stimuli.
"""

import torch
from torch import Tensor


def standardise(x: Tensor) -> Tensor:
    """Rows (..., D) without their mean and scaled to unit length; a constant row becomes zeros."""
    centred = x - x.mean(-1, keepdim=True)
    constant = x.amax(-1, keepdim=True) == x.amin(-1, keepdim=True)
    length = torch.linalg.vector_norm(centred, dim=-1, keepdim=True)
    return centred / torch.where(constant | (length == 0), torch.inf, length)


def ranks(x: Tensor) -> Tensor:
    """Ranks (..., D) of the entries within each row, from 1.

    Equal entries share their mean rank, as in `scipy.stats.rankdata`.
    """
    values, order = x.sort(-1)
    position = torch.arange(x.shape[-1], device=x.device, dtype=torch.int32).expand(x.shape)
    change = values[..., 1:] != values[..., :-1]
    del values  # to save memory: in the representation test, rows can be long
    edge = torch.ones_like(x[..., :1], dtype=torch.bool)
    first = torch.where(torch.cat([edge, change], -1), position, 0).cummax(-1).values
    last = torch.where(
        torch.cat([change, edge], -1), position, x.shape[-1]
    ).flip(-1).cummin(-1).values.flip(-1)
    return torch.empty_like(x).scatter_(-1, order, first.add_(last).to(x.dtype).div_(2).add_(1))


def pearson(a: Tensor, b: Tensor) -> Tensor:
    """Pearson correlation of rows; 0 where a row is constant."""
    return (standardise(a) * standardise(b)).sum(-1)


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Spearman rank correlation of rows; ties share their mean rank, and a constant row gives 0."""
    return pearson(ranks(a), ranks(b))


def snr_db(reference: Tensor, other: Tensor) -> Tensor:
    """Signal-to-noise ratio of rows in decibels.

    20 log10 of the norm of the reference over the norm of the difference. This is twice the number
    that Feather et al. (2023, doi:10.1038/s41593-023-01442-0) print, whose factor is 10. It is 0
    where either row is all zeros, as theirs is, and infinite where the rows are equal and not zero.
    """
    signal = torch.linalg.vector_norm(reference, dim=-1)
    ratio = 20 * torch.log10(signal / torch.linalg.vector_norm(reference - other, dim=-1))
    silent = (signal == 0) | (torch.linalg.vector_norm(other, dim=-1) == 0)
    return torch.where(silent, 0, ratio)


def snr_db_of_products(signal: Tensor, other: Tensor, product: Tensor) -> Tensor:
    """The same quantity as `snr_db`, in one pass over products.

    It is less exact where rows are nearly equal.

    Args:
        signal: norms (B,) of the reference rows.
        other: norms (B,) of the other rows.
        product: inner products (B,) of a reference row and its other row.
    """
    difference = (signal ** 2 + other ** 2 - 2 * product).clamp_min(0).sqrt()
    ratio = 20 * torch.log10(signal / difference)
    return torch.where((signal == 0) | (other == 0), 0, ratio)


def rms_distance(a: Tensor, b: Tensor) -> Tensor:
    """Root mean square difference (B,) of images (B, 3, H, W), in units of pixels in [0, 1]."""
    return (a - b).flatten(1).square().mean(1).sqrt()


def rdm(x: Tensor, measure: str = "correlation") -> Tensor:
    """Representational dissimilarity matrix (n, n) of activations (n, D), with a zero diagonal.

    Kriegeskorte, Mur & Bandettini 2008, doi:10.3389/neuro.06.004.2008. Memory: n x n and n x D
    numbers, never n x n x D.

    Args:
        x: activations (n, D) evoked by n stimuli.
        measure: "correlation", 1 minus the Pearson correlation of rows (1 where a row is constant),
            or "euclidean".

    Raises:
        ValueError: another measure.

    Example:
        >>> rdm(torch.tensor([[0.0, 3.0], [4.0, 0.0]]), "euclidean")
        tensor([[0., 5.],
                [5., 0.]])
    """
    if measure == "correlation":
        rows = standardise(x)
        distances = (rows @ rows.T).neg_().add_(1)
    elif measure == "euclidean":
        gram = x @ x.T
        squares = gram.diagonal().clone()
        gram.mul_(-2).add_(squares[:, None]).add_(squares)
        # Rows that differ by rounding alone count as equal.
        distances = torch.threshold_(gram, _rounding(squares), 0).sqrt_()
    else:
        raise ValueError(f"unknown measure {measure!r} of dissimilarity; "
                         "choose 'correlation' or 'euclidean'")
    return distances.fill_diagonal_(0)


def u_centred(gram: Tensor) -> Tensor:
    """A kernel matrix (n, n), U-centred: its off-diagonal products estimate HSIC without bias.

    HSIC is the Hilbert-Schmidt independence criterion. U-centring is due to Szekely & Rizzo 2014,
    doi:10.1214/14-AOS1255; it leaves zeros on the diagonal. The sum of products of two such
    matrices over n (n - 3) is the unbiased estimator HSIC_1 of Song et al. 2012 (Journal of Machine
    Learning Research 13, 1393).

    Raises:
        ValueError: fewer than four stimuli.
    """
    n = len(gram)
    if n < 4:
        raise ValueError(f"the debiased estimator needs at least four stimuli, not {n}")
    rounding, gram = _rounding(gram), gram.clone().fill_diagonal_(0)
    sums = gram.sum(1)
    gram.sub_(sums[:, None] / (n - 2)).sub_(sums / (n - 2)).add_(
        sums.sum() / ((n - 1) * (n - 2)))
    return torch.nn.functional.hardshrink(gram.fill_diagonal_(0), rounding)


def cka(x: Tensor, y: Tensor) -> Tensor:
    """Linear centred kernel alignment of activations (n, D) and (n, E), as a scalar tensor.

    Kornblith et al. 2019 (arXiv:1905.00414, equation 1), as published, without correction. It
    approaches 1 for unrelated activations with D >> n; there, use `debiased_cka`. It is 0 if either
    argument has the same activations for all stimuli.
    """
    return cosine(*((z - z.mean(0)) @ (z - z.mean(0)).T for z in (x, y)))


def debiased_cka(x: Tensor, y: Tensor) -> Tensor:
    """Linear centred kernel alignment from unbiased estimates of HSIC, as a scalar tensor.

    Takes activations (n, D) and (n, E). It is 0 on average for unrelated activations of any width,
    and can be negative. It is 0 if either argument has the same activations for all stimuli.

    Murphy, Zylberberg & Fyshe 2024 (arXiv:2405.01012), with the estimator HSIC_1 of Song et al.
    2012 (see `u_centred`).

    Raises:
        ValueError: fewer than four stimuli.

    Example:
        >>> wide = torch.randn(2, 10, 5000, generator=torch.Generator().manual_seed(0))
        >>> round(cka(*wide).item(), 1), round(abs(debiased_cka(*wide).item()), 1)
        (1.0, 0.0)
    """
    return cosine(u_centred(x @ x.T), u_centred(y @ y.T))


def _rounding(x: Tensor) -> float:
    """The size that rounding alone can give to a difference of sums of numbers as large as `x`."""
    return 8 * torch.finfo(x.dtype).eps * x.abs().max().item()


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of the angle between two matrices as vectors; 0 if either is zero."""
    norms = torch.linalg.vector_norm(a) * torch.linalg.vector_norm(b)
    return (a * b).sum() / torch.where(norms > 0, norms, 1)
