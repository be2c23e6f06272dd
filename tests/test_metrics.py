"""Metrics against scipy, closed forms and stated rules for degenerate input."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from metalib import metrics

rows_with_ties = st.lists(st.lists(st.integers(-3, 3), min_size=5, max_size=5),
                          min_size=1, max_size=4)


@given(rows_with_ties)
def test_ranks_equal_scipy_with_ties(rows):
    ours = metrics.ranks(torch.tensor(rows, dtype=torch.float32))
    assert torch.equal(ours, torch.from_numpy(stats.rankdata(rows, axis=1)).float())


@pytest.mark.parametrize("ours, scipys", [(metrics.pearson, stats.pearsonr),
                                          (metrics.spearman, stats.spearmanr)])
@pytest.mark.parametrize("units", [2, 10, 4096])
def test_correlations_equal_scipy(ours, scipys, units):
    a = torch.randn(8, units).relu() + 3  # with ties, and far from zero mean
    b = 0.5 * a + torch.randn(8, units)
    a[:, 0], a[:, 1] = 1, 2  # no row of a is constant
    expected = [scipys(x, y).statistic for x, y in zip(a.double().numpy(), b.double().numpy())]
    np.testing.assert_allclose(ours(a, b), expected, atol=2e-6)


@settings(deadline=None)
@given(st.floats(0.1, 10), st.floats(-5, 5), st.integers(0, 1000))
def test_correlations_ignore_scale_and_offset(scale, offset, seed):
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, 3, 50, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(metrics.pearson(a, scale * b + offset), metrics.pearson(a, b),
                               atol=1e-9, rtol=0)
    torch.testing.assert_close(metrics.spearman(a, b.exp()), metrics.spearman(a, b),
                               atol=1e-12, rtol=0)


def test_constant_rows_correlate_zero():
    constant, other = torch.full((1, 1000), 0.1), torch.randn(1, 1000)
    assert metrics.pearson(constant, other) == metrics.spearman(constant, other) == 0


def test_snr_is_20_log10_of_the_ratio():
    reference = torch.tensor([[3.0, 4.0]])
    assert metrics.snr_db(reference, torch.tensor([[3.0, 3.5]])).item() == pytest.approx(20)
    assert metrics.snr_db(reference, reference).item() == float("inf")
    silent = torch.zeros(1, 2)
    assert (metrics.snr_db(silent, reference) == metrics.snr_db(reference, silent)
            == metrics.snr_db(silent, silent) == 0)


def test_rms_distance_is_per_image():
    a = torch.zeros(2, 3, 4, 4)
    assert metrics.rms_distance(
        a, a + torch.tensor([0.1, 0.3]).view(2, 1, 1, 1)).tolist() == pytest.approx([0.1, 0.3])
