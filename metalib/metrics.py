"""Measures of similarity between activations, and of distance between images: pure functions of tensors.

Each compares rows: two tensors (..., D) of the same shape give one number per row (...).
"""
import torch


def standardise(x):
    """Rows (..., D) with their mean removed and scaled to unit length; a constant row becomes all zeros."""
    centred = x - x.mean(-1, keepdim=True)
    constant = x.amax(-1, keepdim=True) == x.amin(-1, keepdim=True)
    length = torch.linalg.vector_norm(centred, dim=-1, keepdim=True)
    return torch.where(constant, 0, centred / torch.where(length > 0, length, 1))


def ranks(x):
    """Ranks (..., D) of the entries within each row, from 1; equal entries share their mean rank, as in scipy.stats.rankdata."""
    values, order = x.sort(-1)
    position = torch.arange(x.shape[-1], device=x.device).expand(x.shape)
    change = values[..., 1:] != values[..., :-1]
    edge = torch.ones_like(x[..., :1], dtype=torch.bool)
    first = torch.where(torch.cat([edge, change], -1), position, 0).cummax(-1).values
    last = torch.where(torch.cat([change, edge], -1), position, x.shape[-1]).flip(-1).cummin(-1).values.flip(-1)
    return torch.empty_like(x).scatter_(-1, order, ((first + last) / 2 + 1).to(x.dtype))


def pearson(a, b):
    """Pearson correlation of rows; 0 where a row is constant."""
    return (standardise(a) * standardise(b)).sum(-1)


def spearman(a, b):
    """Spearman rank correlation of rows, ties sharing their mean rank; 0 where a row is constant."""
    return pearson(ranks(a), ranks(b))


def snr_db(reference, other):
    """Signal-to-noise ratio of rows in decibel: 20 log10 of the norm of the reference over the norm of the difference.

    This is twice the number that Feather et al. (2023, doi:10.1038/s41593-023-01442-0) print, whose factor is 10.
    0 where either row is all zeros, as there; infinite where the rows are equal and not zero.
    """
    signal = torch.linalg.vector_norm(reference, dim=-1)
    ratio = 20 * torch.log10(signal / torch.linalg.vector_norm(reference - other, dim=-1))
    silent = (signal == 0) | (torch.linalg.vector_norm(other, dim=-1) == 0)
    return torch.where(silent, 0, ratio)


def rms_distance(a, b):
    """Root mean square difference (B,) of images (B, 3, H, W), in units of pixels in [0, 1]."""
    return (a - b).flatten(1).square().mean(1).sqrt()
