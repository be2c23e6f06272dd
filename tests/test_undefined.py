"""Where a criterion means nothing there is no verdict; what healthy stages give is untouched."""

import math
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from metalib import (
    Criterion,
    Metamers,
    crossed,
    generate,
    judge,
    load_null,
    null_distribution,
    representation_test,
    transfer_study,
    wrap_model,
)
from metalib.data import ImageSet
from metalib.evaluation import confidence
from metalib.evaluation.controls import _as_jpeg, are_copies, distances, repeated
from metalib.evaluation.criterion import LEAST_PAIRS, NullDistribution, published, quantile
from metalib.evaluation.nulls import FEW_IMAGES
from metalib.evaluation.representation import verdict

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*(told apart|the null is of|units have no|too small|not a number)")


class Planted(nn.Module):
    """A stage `look` that is what is asked for, and then logits or an encoding."""

    def __init__(self, look, last):
        super().__init__()
        self.look, self.last = look, last

    def forward(self, x):
        return self.last(self.look(x))


class Same(nn.Module):
    """The same activations for all images."""

    def __init__(self, values):
        super().__init__()
        self.register_buffer("values", torch.as_tensor(values, dtype=torch.float32))

    def forward(self, x):
        return self.values + 0 * x.flatten(1)[:, :1]


class Pooled(nn.Module):
    """Means over blocks of pixels, as many as are asked for, or fewer for dark images."""

    def __init__(self, units, above=-1.0):
        super().__init__()
        self.units, self.above = units, above

    def forward(self, x):
        seen = nn.functional.adaptive_avg_pool1d(x.flatten(1), self.units)
        return torch.where(x.mean((1, 2, 3))[:, None] > self.above, seen, 0)


def planted(look, units, last=None):
    torch.manual_seed(0)
    return wrap_model(Planted(look, last or nn.Linear(units, 10)), stages=["look"], name="planted")


@pytest.fixture(scope="module")
def pictures(samples):
    return samples[:10]


STAGES = {
    "constant": (Same(np.arange(60.0)), 60), "one number": (Same(np.full(60, 3.0)), 60),
    "silent": (Same(np.zeros(60)), 60), "one unit": (Pooled(1), 1), "two units": (Pooled(2), 2),
    "constant unit": (Same([2.0]), 1)}


@pytest.mark.parametrize("kind", STAGES)
def test_a_degenerate_stage_gives_no_verdict_and_nothing_passes(kind, pictures):
    look, units = STAGES[kind]
    model = planted(look, units, Planted(nn.Identity(), nn.Linear(units, 10)))
    with pytest.warns(UserWarning, match="verdicts by this null are undefined"):
        null = null_distribution(model, "look", pictures)
    for pair in (Metamers(pictures.images.roll(1, 0), pictures.images),
                 Metamers(pictures.images, pictures.images)):
        for criterion in (published(null), quantile(null, 0.5),
                          Criterion("r", null, {"pearson": 0.1}, same_answer=False)):
            with pytest.warns(UserWarning, match="planted, look: .*nothing passes"):
                table = judge(model, "look", pair, criterion)
            assert not table["passed"].any() and (table["verdict"] == "undefined").all()
            assert table["p_value"].isna().all() and table.attrs["undefined"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of zeros, to which no distance is relative
        run = generate(model, pictures[:3], "look", steps=2, check_every=1, stop=null)
    assert "passed" not in run.status


def test_the_ratio_of_signal_to_noise_serves_one_unit(pictures):
    model = planted(Pooled(1), 1)
    null = null_distribution(model, "look", pictures)
    same = Metamers(pictures.images, pictures.images)
    table = judge(model, "look", same, Criterion("snr", null, {"snr_db": 40.0}))
    assert table["passed"].all() and table["pearson"].isna().all()
    other = Metamers(pictures.images.flip(0), pictures.images)
    assert not judge(model, "look", other, Criterion("snr", null, {"snr_db": 60.0}))["passed"].all()
    constant = planted(Same([2.0]), 1)
    null = null_distribution(constant, "look", pictures)
    table = judge(constant, "look", same, Criterion("snr", null, {"snr_db": 40.0}))
    assert (table["verdict"] == "undefined").all()


@settings(deadline=None, max_examples=10)
@given(st.floats(0.1, 0.9), st.sampled_from([published, lambda null: quantile(null, 0.3)]))
def test_a_silent_reference_has_no_verdict_and_a_silent_image_fails(above, criterion):
    """Whatever the threshold: at a low one, the 0 that stands for no correlation would pass."""
    images = torch.rand(12, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    images = images * torch.linspace(0.2, 1, 12)[:, None, None, None]
    healthy = planted(Pooled(60), 60)
    partly = planted(Pooled(60, above / 2), 60)
    null = NullDistribution(**{**vars(null_distribution(healthy, "look", images)), "about": {}})
    table = judge(partly, "look", Metamers(images.roll(6, 0), images), Criterion(
        "c", null, criterion(null).thresholds, same_answer=False))
    silent = ~(partly.activations(images, "look") > 0).any(1).numpy()
    assert ((table["verdict"] == "undefined") == silent).all()
    assert not table["passed"][silent | np.roll(silent, 6)].any()
    assert (table["pearson"].isna() == silent).all()


def test_equal_logits_are_no_answer(pictures, samples):
    last = nn.Linear(60, 10)
    nn.init.zeros_(last.weight), nn.init.zeros_(last.bias)
    model = planted(Pooled(60), 60, last)
    null = null_distribution(model, "look", samples)
    same = Metamers(pictures.images, pictures.images)
    table = judge(model, "look", same, null)
    assert (table["verdict"] == "undefined").all() and table["class_match"].isna().all()
    assert judge(model, "look", same, Criterion(
        "r", null, {"pearson": 0.5}, same_answer=False))["passed"].all()
    study = transfer_study([model], [model], pictures, steps=2, null_images=samples)
    for column in ("recognised", "reference_recognised", "agrees", "passed", "control_agrees"):
        assert study[column].isna().all(), column
    assert not study["generator_passed"].any() and study["match"].notna().all()
    tested = representation_test(model, pictures, pictures.images, nulls="random", cache=False,
                                 permutations=9, resamples=2)
    assert tested["recognised"].isna().all() and tested.summary()["recognised"].isna().all()
    assert tested["similarity"].notna().all()
    assert (confidence.scores(model, pictures)["answer"] == -1).all()


def test_what_some_observers_do_not_tell_is_missing_and_does_not_count(pictures, samples):
    healthy, blind = planted(Pooled(60), 60), planted(Same(np.arange(60.0)), 60)
    healthy.name, blind.name = "healthy", "blind"
    study = transfer_study([healthy], [healthy, blind], pictures, steps=5, null_images=samples)
    assert study["passed"].dtype == "boolean"
    by = dict(tuple(study.groupby("observer")))
    for column in ("match", "p_value", "passed", "control_match", "control_passed"):
        assert by["blind"][column].isna().all() and by["healthy"][column].notna().all(), column
    assert math.isnan(crossed.matrix(study, "match").loc["healthy", "blind"])
    assert (crossed.means(study, "observer", value="passed")["observer"].tolist()
            == ["healthy"])
    tested = representation_test([healthy, blind], pictures, pictures.images, nulls="random",
                                 cache=False, permutations=9, resamples=2)
    cells = tested.summary().set_index("observer")
    missing = ["similarity", "random_p", "primary_p", "top1", "cka", "cka_p", "identification_p"]
    assert cells.loc["blind", missing].isna().all() and cells.loc["healthy", missing].notna().all()
    alone = tested[tested["observer"] == "healthy"]
    pd.testing.assert_frame_equal(verdict(tested), verdict(alone))


def test_references_that_evoke_nothing_are_left_out_of_the_rest(pictures):
    images = pictures.images.clone()
    images[[2, 5]] *= 0.05
    model = planted(Pooled(60, 0.1), 60)
    options = {"nulls": "random", "cache": False, "permutations": 99, "resamples": 9}
    table = representation_test(model, images, images.roll(1, 2), **options)
    assert np.flatnonzero(table["similarity"].isna()).tolist() == [2, 5]
    kept = [k for k in range(10) if k not in (2, 5)]
    rest = representation_test(model, images[kept], images.roll(1, 2)[kept], **options)
    columns = ["rank", "draws", "p_value", "auc", "q_value"]
    np.testing.assert_allclose(table.loc[kept, columns].astype(float), rest[columns])
    assert table.summary()["images"].item() == 8


# --- Encoders -----------------------------------------------------------------------------------

def test_a_network_without_classes_is_judged_without_them(samples, pictures):
    encoder = wrap_model(Planted(Pooled(60), nn.Unflatten(1, (6, 10))), stages=["look"], name="e")
    null = null_distribution(encoder, "look", samples)
    assert not encoder.has_classes and load_null(encoder, "look", images=samples).pairs == 380
    table = judge(encoder, "look", Metamers(pictures.images, pictures.images), null)
    assert table["passed"].all() and table["class_match"].isna().all()
    assert "without classes" in table.attrs["criterion"]
    run = generate(encoder, pictures, "look", steps=40, stop=null)
    assert "passed" in run.status and "without classes" in run.recipe["stop"][0]["criterion"]
    assert judge(encoder, "look", run, null)["passed"].sum() == run.status.count("passed")
    study = transfer_study([encoder], [encoder], pictures, steps=5, null_images=samples)
    assert study[["recognised", "agrees", "confidence", "control_agrees"]].isna().all(axis=None)
    assert study["passed"].notna().all() and study["match"].notna().all()
    tested = representation_test(encoder, pictures, pictures.images, nulls="random", cache=False,
                                 permutations=9, resamples=2)
    assert tested["recognised"].isna().all() and (tested["rank"] == 1).all()
    with pytest.raises(ValueError, match="e has no classes"):
        confidence.scores(encoder, pictures)


def test_one_logit_is_as_confident_as_two(pictures):
    one = planted(Pooled(60), 60, nn.Linear(60, 1))
    last = nn.Linear(60, 2)
    last.weight.data = torch.cat([torch.zeros_like(one.module.last.weight), one.module.last.weight])
    last.bias.data = torch.cat([torch.zeros(1), one.module.last.bias])
    two = planted(Pooled(60), 60, last)
    a, b = (confidence.scores(model, pictures) for model in (one, two))
    np.testing.assert_allclose(a["msp"], b["msp"], atol=1e-6)
    assert a["answer"].tolist() == b["answer"].tolist()


# --- Criteria and nulls -------------------------------------------------------------------------

def test_criteria_that_all_pass_are_refused(small, samples):
    null = null_distribution(small, "2", samples)
    for thresholds in ({}, {"pearson": -math.inf}):
        with pytest.raises(ValueError, match="everything would pass"):
            Criterion("nothing", null, thresholds, same_answer=False)
    with pytest.raises(ValueError, match="unknown metrics cosine"):
        Criterion("other", null, {"cosine": 0.5})
    with pytest.raises(ValueError, match="above 0"):
        quantile(null, 0)
    same = Metamers(samples.images, samples.images)
    answer = judge(small, "2", same, Criterion("the answer", null, {}))
    assert answer["passed"].all() and answer["p_value"].isna().all()
    unknown = judge(small, "2", same, Criterion("nan", null, {"pearson": math.nan}))
    assert (unknown["verdict"] == "undefined").all()


@pytest.mark.parametrize("count", [2, 3, 6, 7])
def test_a_null_of_a_handful_of_images_gives_no_verdicts(count, small, samples):
    null = null_distribution(small, "2", samples[:count])
    table = judge(small, "2", Metamers(samples.images, samples.images), null)
    assert (table["verdict"] == "undefined").all() == (null.pairs < LEAST_PAIRS) == (count < 7)


def test_few_images_are_warned_of_at_the_line_of_the_caller(small, samples):
    with pytest.warns(UserWarning, match=f"20 images only.*{FEW_IMAGES} at least") as caught:
        load_null(small, "2", images=samples)
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    "how", ["again", "grey", "averaged grey", "mirrored", "jpeg", "mirrored grey"])
def test_copies_are_left_out_of_a_null(how, small, samples):
    images = samples.images
    weights = torch.full((3,), 1 / 3) if "averaged" in how else torch.tensor([0.299, 0.587, 0.114])
    grey = torch.einsum("bchw,c->bhw", images, weights)[:, None].expand(-1, 3, -1, -1)
    copies = {"again": images, "mirrored": images.flip(-1), "jpeg": _as_jpeg(images),
              "mirrored grey": grey.flip(-1)}.get(how, grey)[:3]
    plain = null_distribution(small, "2", samples)
    with pytest.warns(UserWarning, match="3 of 23 images are copies"):
        null = null_distribution(small, "2", torch.cat([images, copies]))
    assert null.about["copies"] == 3 and null.maximum == plain.maximum
    kept = null_distribution(small, "2", torch.cat([images, copies]), keep_copies=True)
    assert kept.pairs == 23 * 22 and kept.about["copies"] == 0


def test_images_that_are_all_one_are_no_null(small, samples):
    with pytest.raises(ValueError, match="copies of one"):
        null_distribution(small, "2", samples.images[:1].repeat(450, 1, 1, 1))


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 10_000), st.integers(5, 40), st.floats(0.01, 0.4))
def test_copies_are_those_of_the_plain_distances(seed, side, spread):
    """What is compared on thumbnails first is what all pixels say."""
    random = torch.Generator().manual_seed(seed)
    images = 0.5 + spread * (torch.rand(12, 3, side, side, generator=random) - 0.5)
    images[6:] = (images[:6] + 0.1 * torch.rand(6, 1, 1, 1, generator=random)).clamp(0, 1)
    near = (distances(images, images) <= 0.06) | (distances(images, images.flip(-1)) <= 0.06)
    found = are_copies(images, images)
    assert (found | ~near).all()
    colour = (images - images.mean(1, keepdim=True)).flatten(1).square().mean(1).sqrt() > 0.03
    assert torch.equal(found[colour][:, colour], near[colour][:, colour])
    first = repeated(images)
    assert not found[~first][:, ~first].fill_diagonal_(False).any()
    assert (found[first][:, ~first]).any(1).all()


def test_unrelated_images_at_a_healthy_stage_are_never_undefined(robust, samples):
    unrelated = Metamers(samples.images.roll(1, 0), samples.images)
    for stage in robust.stages[::3]:
        table = judge(robust, stage, unrelated, load_null(robust, stage))
        assert set(table["verdict"]) == {"failed"} and table["p_value"].notna().all()
        assert table["class_match"].dtype == bool
    assert not repeated(samples.images).any()


def test_the_verdict_is_seen_at_80_columns(robust, samples):
    table = judge(robust, "stem", Metamers(samples.images, samples.images),
                  load_null(robust, "stem"))
    assert list(table)[:7] == [
        "image", "passed", "verdict", "pearson", "spearman", "snr_db", "class_match"]
    with pd.option_context("display.width", 80, "display.max_columns", 0):
        assert "passed" in str(table).splitlines()[0]


def test_activations_that_are_not_finite_have_no_verdict(samples):
    class Overflows(nn.Module):
        def forward(self, x):
            bright = x.mean((1, 2, 3))[:, None] > 0.6
            return torch.where(bright, torch.inf, nn.functional.adaptive_avg_pool1d(
                x.flatten(1), 60))

    model = planted(Overflows(), 60, Planted(nn.Identity(), nn.Linear(60, 10)))
    images = samples.images * 0.5
    null = null_distribution(model, "look", images)
    bright = images.clone()
    bright[0] = 1
    for pair in (Metamers(bright, images), Metamers(images, bright), Metamers(bright, bright)):
        table = judge(model, "look", pair, Criterion("s", null, {"snr_db": 3.0}, same_answer=False))
        assert table["verdict"][0] == "undefined" and not table["passed"][0]
        assert (table["verdict"][1:] == "passed").all()


def test_labels_that_are_unknown_stay_missing_beside_answers(samples, small):
    some = ImageSet(samples.images[:4], torch.tensor([0, -1, 2, -1]), (), "some")
    table = transfer_study([small], [small], some, stages=["2"], steps=1, null_images=samples)
    assert table["recognised"].isna().tolist() == [False, True, False, True]
