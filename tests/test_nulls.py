"""Nulls and the criterion: parity with scipy, exact p-values, rules for degenerate stages."""

import errno
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import pytest
import torch
from scipy import stats

from metalib import (
    Metamers,
    generate,
    judge,
    load_model,
    load_null,
    null_distribution,
    wrap_model,
    zoo,
)
from metalib.evaluation import criterion
from metalib.evaluation.criterion import METRICS, NullDistribution
from metalib.evaluation.nulls import _draw_pairs


def test_null_equals_scipy_on_every_pair(small, samples):
    null = null_distribution(small, "2", samples)
    activations = small.activations(samples.images, "2").double().numpy()
    pairs = [(i, j) for i in range(20) for j in range(20) if i != j]
    expected = {
        "pearson": [stats.pearsonr(activations[i], activations[j]).statistic for i, j in pairs],
        "spearman": [stats.spearmanr(activations[i], activations[j]).statistic for i, j in pairs],
        "snr_db": [20 * np.log10(np.linalg.norm(activations[i])
                                 / np.linalg.norm(activations[i] - activations[j]))
                   for i, j in pairs]}
    assert null.pairs == 380
    for metric, values in expected.items():
        np.testing.assert_allclose(null.values[metric], sorted(values, reverse=True), atol=1e-4)


@pytest.mark.parametrize("stage", ["1", "5"])
@pytest.mark.parametrize("pairs", [30, 380])
@pytest.mark.parametrize("memory", [1, 5e5, 2e6])
def test_values_do_not_depend_on_the_memory(small, samples, stage, pairs, memory):
    """In a file and row by row; in a file and in blocks; in memory and in blocks, or in one."""
    whole = null_distribution(small, stage, samples, pairs=pairs)
    parts = null_distribution(small, stage, samples, pairs=pairs, memory=memory)
    for metric in METRICS:
        np.testing.assert_allclose(
            parts.values[metric], whole.values[metric], atol=1e-4)


def test_a_null_keeps_within_its_memory():
    """A null of 131 MB of activations, beside what the program holds anyway."""
    program = """
import resource
import torch
from metalib import null_distribution, wrap_model

def held():  # most so far, in megabytes; kilobytes on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3

torch.manual_seed(0)
network = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.ReLU(),
                              torch.nn.Flatten(), torch.nn.Linear(16384, 2))
model = wrap_model(network, stages=["1"], mean=(0.5,) * 3)
images = torch.rand(2000, 3, 32, 32)
null_distribution(model, "1", images[:100], keep_copies=True)
before = held()
null_distribution(model, "1", images, pairs=1000, keep_copies=True, memory=4e7)
print(held() - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert not done.returncode, done.stderr
    assert float(done.stdout) < 70


def test_a_full_disk_is_told_with_what_to_do(small, samples, monkeypatch):
    class Full:
        seek = close = staticmethod(lambda *_: None)

        def write(self, _):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", Full)
    with pytest.raises(OSError, match=r"no space for 0.0 GB.*TMPDIR, allow more memory"):
        null_distribution(small, "1", samples, memory=1)


@pytest.mark.parametrize("pairs", [5, 100, 350])
def test_drawn_pairs_are_different_images_without_repetition(pairs):
    first, second = _draw_pairs(20, pairs, seed=1, device="cpu")
    assert len(first) == pairs == len(set(zip(first.tolist(), second.tolist())))
    assert (first != second).all() and first.max() < 20 and second.max() < 20


def test_every_pair_is_equally_likely():
    counts = np.zeros((6, 6))
    for seed in range(3000):
        for i, j in zip(*_draw_pairs(6, 2, seed=seed, device="cpu")):
            counts[i, j] += 1
    off_diagonal = counts[~np.eye(6, dtype=bool)]
    assert counts.trace() == 0 and stats.chisquare(off_diagonal).pvalue > 1e-3


@pytest.mark.parametrize("image", [0.0, 0.5])
def test_silent_and_duplicated_images(small, samples, image):
    network = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(3072, 10))
    model = wrap_model(network, stages=["0"])
    null = null_distribution(model, "0", torch.stack(
        [torch.full((3, 32, 32), image), *samples.images[:2], samples.images[1]]), keep_copies=True)
    assert np.isnan(np.concatenate(list(null.values.values()))).sum() == 0
    # the duplicates
    assert null.maximum["pearson"] == pytest.approx(1) and null.maximum["snr_db"] > 60
    assert (null.values["pearson"] == 0).sum() == 6  # a constant image correlates with nothing
    assert (null.values["snr_db"] == 0).sum() == (6 if image == 0 else 0)


def uniform_null(values):
    values = np.sort(np.asarray(values, dtype=np.float32))[::-1]
    order = np.arange(1, len(values) + 1)
    return NullDistribution({"pearson": values, "spearman": values, "snr_db": values},
                            order, len(values), units=100)


def test_p_values_count_and_quantiles_equal_numpy():
    values = np.random.default_rng(0).normal(size=5000).astype(np.float32)
    null, thin = uniform_null(values), uniform_null(values).thinned(keep=200)
    asked = np.concatenate([values[:500], [-9, 9, values.max()]]).astype(np.float32)
    exact = [(1 + (values >= value).sum()) / 5001 for value in asked]
    np.testing.assert_allclose(null.p_value("pearson", asked), exact)
    assert null.p_value("pearson", [np.nan]) == 1
    approximate = thin.p_value("pearson", asked)
    assert np.abs(approximate - exact).max() < 0.003
    tail = np.array(exact) < 0.02
    assert tail.sum() > 5 and np.abs(approximate / exact - 1)[tail].max() < 0.05
    assert (len(thin.order) < 510
            and thin.p_value("pearson", [values.max()]) == pytest.approx(2 / 5001))
    for q in (0, 0.1, 0.5, 0.99, 1):
        assert null.quantile(q)["pearson"] == pytest.approx(np.quantile(values, q), abs=1e-5)
        assert thin.quantile(q)["pearson"] == pytest.approx(np.quantile(values, q), abs=0.05)


def test_false_positive_rate_of_unrelated_images(robust):
    """Pairs of images that have nothing to do with each other get p <= 5 % in 5 % of the cases.

    They are drawn as the images of the null are, but anew.
    """
    torch.manual_seed(0)
    images = torch.rand(450, 3, 1, 1) * torch.rand(450, 3, 32, 32)
    null = null_distribution(robust, "group2", images[:250])
    table = judge(robust, "group2", Metamers(images[250:350], images[350:]), null)
    for metric in METRICS:
        rejected = (null.p_value(metric, table[metric]) <= 0.05).sum()
        low, high = stats.binom.interval(0.999, 100, 0.05)
        assert low <= rejected <= high, metric


def test_the_reference_itself_passes_and_others_do_not(robust, samples):
    for stage in robust.stages:
        null = load_null(robust, stage)
        same = judge(robust, stage, Metamers(samples.images, samples.images), null)
        assert (same["passed"].all() and (same["p_value"] <= 2e-6).all()
                and (same["distance"] == 0).all())
        others = judge(robust, stage, Metamers(samples.images.roll(1, 0), samples.images), null)
        assert not others["passed"].any() and (others["p_value"] > 1e-3).mean() > 0.8


def test_each_part_of_the_criterion_can_fail_alone(robust, samples, monkeypatch):
    images = samples.images + 0.02 * torch.randn(
        samples.images.shape, generator=torch.Generator().manual_seed(0))
    pair = Metamers(images.clamp(0, 1), samples.images)
    null = load_null(robust, "group1")
    good = judge(robust, "group1", pair, null)
    assert good["passed"].sum() >= 19
    for metric in METRICS:
        values = dict(null.values)
        values[metric] = values[metric] + 1000
        strict = NullDistribution(values, null.order, null.pairs, null.units)
        assert not judge(robust, "group1", pair, strict)["passed"].any()
    ranks_fail = null.values | {"spearman": null.values["spearman"] + 1000}
    few = NullDistribution(ranks_fail, null.order, null.pairs, null.units)
    # with fewer units than that, Spearman's correlation is not asked for
    monkeypatch.setattr(criterion, "RANK_UNITS", null.units + 1)
    assert judge(robust, "group1", pair, few)["passed"].sum() == good["passed"].sum()
    lenient = {metric: values - 1000 for metric, values in null.values.items()}
    anything = NullDistribution(lenient, null.order, null.pairs, null.units)
    black = judge(robust, "group1", Metamers(samples.images * 0, samples.images), anything)
    assert (black["passed"] == black["class_match"]).all() and 0 < black["passed"].sum() < 20


def test_a_null_of_another_stage_or_model_is_refused(robust, small, samples):
    pair = Metamers(samples.images, samples.images)
    with pytest.raises(ValueError, match=r"null is of zoo/vgg-robust-0, stem .* "
                                         r"not of zoo/vgg-robust-0, group1"):
        judge(robust, "group1", pair, load_null(robust, "stem"))
    with pytest.raises(ValueError, match="not of small, 2"):
        judge(small, "2", pair, load_null(robust, "stem"))
    with pytest.raises(ValueError, match="not of zoo/vgg-robust-0, group1"):
        generate(robust, samples, "group1", steps=1, stop=load_null(robust, "stem"))
    nameless = null_distribution(small, "2", samples)
    nameless.about.clear()
    with pytest.raises(ValueError, match=r"1,536 units\), not of small, 1 \(8,192 units"):
        judge(small, "1", pair, nameless)


def test_the_8_bit_image_is_judged(robust, samples):
    null = load_null(robust, "stem")
    unrounded = samples.images + 0.4 / 255 * torch.rand(
        samples.images.shape, generator=torch.Generator().manual_seed(0))
    table = judge(robust, "stem", Metamers(unrounded.clamp(0, 1), samples.images), null)
    assert (table["distance"] == 0).all() and (table["snr_db"] == np.inf).all()


def test_bundled_nulls_are_of_a_million_pairs_and_of_these_weights(tmp_path, monkeypatch, small):
    for path in zoo.FOLDER.glob("*.json"):
        model = load_model(f"zoo/{path.stem}")
        for stage in model.stages:
            null = load_null(model, stage)
            assert (null.pairs == 1_000_000 and null.order[0] == 1
                    and null.order[-1] == null.pairs)
            assert all((np.diff(values) <= 0).all() for values in null.values.values())
    with pytest.raises(ValueError, match="no null ships for small, 2; compute one"):
        load_null(small, "2")
    with pytest.raises(ValueError, match="no null ships for zoo/vgg-robust-0, group2.1"):
        load_null(load_model("zoo/vgg-robust-0", stages=["group2.1", "logits"]), "group2.1")
    for path in zoo.FOLDER.glob("vgg-robust-0.*"):
        shutil.copy(path, tmp_path)
    monkeypatch.setattr(zoo, "FOLDER", tmp_path)
    model = load_model("zoo/vgg-robust-0")
    model.card["sha256"] = "another"
    with pytest.raises(ValueError, match="belongs to other weights"):
        load_null(model, "stem")
    (tmp_path / "vgg-robust-0.null.safetensors").write_bytes(b"short")
    with pytest.raises(ValueError, match="is damaged"):
        load_null(model, "stem")


def test_too_few_images_are_refused(small, samples):
    with pytest.raises(ValueError, match="at least two images"):
        null_distribution(small, "2", samples[0])
