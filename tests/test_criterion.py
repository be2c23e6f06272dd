"""One criterion for the loop, the judge and the transfer study; others beside the published one."""
import numpy as np
import pytest
import torch
from conftest import small_network
from scipy import stats

from metalib import (
    Compute,
    Criterion,
    NullDistribution,
    generate,
    judge,
    load_null,
    null_distribution,
    transfer_study,
    wrap_model,
)
from metalib.evaluation.criterion import CRITERIA, Evoked, published, quantile, without_classes
from metalib.metrics import pearson, snr_db, spearman
from metalib.models import SOURCES, Source


def with_thresholds(null, **thresholds):
    """The same null as if its largest values were these."""
    values = {metric: np.array([thresholds[metric], *of[1:]], dtype=np.float32)
              for metric, of in null.values.items()}
    return NullDistribution(values, null.order, null.pairs, null.units, null.about)


@pytest.fixture
def model():
    return wrap_model(small_network(), stages=["1", "2", "5"], name="small")


def test_the_loop_the_judge_and_the_transfer_study_mean_the_same(model, samples):
    """Where Spearman's correlation alone decides, half of the images pass in all three."""
    free = generate(model, samples, "2", steps=10)
    table = judge(model, "2", free, null_distribution(model, "2", samples))
    null = with_thresholds(null_distribution(model, "2", samples), pearson=-1, snr_db=-99,
                           spearman=float(np.float32(table["spearman"].median())))
    verdict = judge(model, "2", free, null)
    assert 5 <= verdict["passed"].sum() <= 12
    loop = generate(model, samples, "2", steps=10, stop=null, check_every=10)
    assert [status == "passed" for status in loop.status] == verdict["passed"].tolist()
    study = transfer_study([model], [model], samples, stages=["2"], steps=10, batch_size=7,
                           nulls={("small", "2"): null})
    assert study["passed"].tolist() == verdict["passed"].tolist()
    assert study["generator_passed"].tolist() == verdict["passed"].tolist()


def test_passes_are_those_of_scipy(robust, samples):
    """The published rule, written out for each image by itself."""
    null = load_null(robust, "group2")
    metamers = generate(robust, samples, "group2", steps=8)
    passed = judge(robust, "group2", metamers, null)["passed"]
    assert 2 <= passed.sum() <= 18
    for row, found in enumerate(passed):
        a, b = (robust.activations(images[row:row + 1], "group2")[0].double().numpy()
                for images in (metamers.references, metamers.images))
        answers = [robust(images[row:row + 1]).argmax().item()
                   for images in (metamers.references, metamers.images)]
        values = {"pearson": stats.pearsonr(a, b).statistic,
                  "spearman": stats.spearmanr(a, b).statistic,
                  "snr_db": 20 * np.log10(np.linalg.norm(a) / np.linalg.norm(a - b))}
        beyond = all(values[metric] >= null.maximum[metric] for metric in values)
        assert found == (beyond and answers[0] == answers[1]), row


def test_named_criteria_differ_in_what_they_ask_for(model, samples):
    null = null_distribution(model, "2", samples)
    assert published(null).thresholds == null.maximum
    assert quantile(null, 0.5).thresholds == null.quantile(0.5)
    assert set(CRITERIA) == {"published", "quantile", "without_classes"}
    pair = generate(model, samples, "2", steps=2)
    strict, median, free = (judge(model, "2", pair, criterion)["passed"] for criterion in (
        published(null), quantile(null, 0.5), without_classes(quantile(null, 0.5).null)))
    assert (strict <= median).all() and strict.sum() < median.sum()
    assert (strict <= free).all()
    answers = judge(model, "2", pair, published(null))["class_match"]
    nothing = Criterion("the answer", null, {"pearson": -1.0})
    assert judge(model, "2", pair, nothing)["passed"].tolist() == answers.tolist()
    encoder = Criterion("any", null, {"pearson": -1.0}, same_answer=False)
    assert judge(model, "2", pair, encoder)["passed"].all()


def test_criteria_compose(model, samples):
    null = null_distribution(model, "2", samples)
    pair = generate(model, samples, "2", steps=8)
    one = Criterion("r", null, {"pearson": 0.9}, same_answer=False)
    two = Criterion("snr", null, {"snr_db": 6.0, "pearson": 0.5}, same_answer=True)
    both = one & two
    assert both.thresholds == {"pearson": 0.9, "snr_db": 6.0} and both.same_answer
    tables = [judge(model, "2", pair, criterion)["passed"] for criterion in (one, two, both)]
    assert tables[2].tolist() == (tables[0] & tables[1]).tolist()
    with pytest.raises(ValueError, match="different nulls"):
        one & Criterion("other", null_distribution(model, "1", samples), {})


def test_a_criterion_of_ones_own_stops_the_loop_and_stands_in_the_recipe(model, samples):
    null = null_distribution(model, "2", samples)
    mine = Criterion("r at least 0.8", null, {"pearson": 0.8}, same_answer=False)
    metamers = generate(model, samples, "2", steps=60, stop=mine, check_every=1)
    values = judge(model, "2", metamers, mine)
    assert values["passed"].all() and (values["pearson"] >= 0.8).all()
    assert metamers.evaluations.float().mean() < 60
    assert metamers.recipe["stop"][0]["criterion"] == "r at least 0.8"
    with pytest.raises(ValueError, match="not of small, 1"):
        generate(model, samples, "1", steps=1, stop=mine)


def test_what_costs_most_is_asked_for_last_and_of_the_images_left():
    null = NullDistribution({}, np.array([1]), 1, 100)
    criterion = Criterion("x", null, {"spearman": 0, "pearson": 0, "snr_db": 0})
    values = {"pearson": [1, -1, 1, 1], "snr_db": [1, 1, -1, 1], "spearman": [1, 1, 1, 1]}
    asked = []

    def similarity(metric, rows):
        asked.append((metric, rows.tolist()))
        return torch.tensor(values[metric])[rows]

    def agrees(rows):
        asked.append(("answer", rows.tolist()))
        return rows == 3

    passed = criterion.passes(4, "cpu", similarity, agrees)
    assert passed.tolist() == [False, False, False, True]
    assert asked == [("pearson", [0, 1, 2, 3]), ("snr_db", [0, 2, 3]), ("spearman", [0, 3]),
                     ("answer", [0, 3])]


def test_what_references_evoke_is_compared_as_the_metrics_do():
    random = torch.Generator().manual_seed(0)
    references, others = torch.randn(2, 5, 300, generator=random).relu()
    evoked, rows = Evoked(references, torch.zeros(5)), torch.tensor([3, 0, 3])
    for name, metric in (("pearson", pearson), ("spearman", spearman), ("snr_db", snr_db)):
        found = evoked.similarity(name, others[:3], rows)
        assert torch.equal(found, metric(references[rows], others[:3])), name


def test_a_wrong_argument_is_found_before_a_model_is_moved(model, samples):
    for wrong in ({"prior": "nonsense"}, {"optimizer": "nonsense"}, {"start": "nonsense"},
                  {"combine": "nonsense"}, {"jitter": 2}, {"steps": 0},
                  {"compute": {"batch_size": 2}}):
        with pytest.raises(ValueError):
            generate(model, samples, "2", device="meta", **wrong)
        assert model.device.type == "cpu"
    with pytest.raises(ValueError, match="no references"):
        generate(model, samples[:0], "2")
    with pytest.raises(ValueError, match="wrap_model"):
        generate(small_network(), samples, "2")


def test_old_keywords_work_and_say_what_to_write(model, samples):
    with pytest.warns(DeprecationWarning, match="batch_size, optimizer_options: from 0.3 on"):
        old = generate(model, samples[:4], "2", optimizer="adam", steps=4, batch_size=3,
                       optimizer_options={"learning_rate": 0.02})
    new = generate(model, samples[:4], "2", optimizer=("adam", {"learning_rate": 0.02}), steps=4,
                   compute=Compute(batch_size=3))
    assert torch.equal(old.images, new.images) and old.recipe == new.recipe
    with pytest.warns(DeprecationWarning), pytest.raises(ValueError, match="no option lr"):
        generate(model, samples, "2", start="noise", start_options={"lr": 1})


def test_a_source_brings_its_own_nulls(robust, samples, monkeypatch):
    """Nothing knows the zoo: any collection may ship nulls."""
    def load(name, **options):
        return wrap_model(robust.module, stages=robust.stages, name=f"mine/{name}",
                          mean=robust.mean, std=robust.std, card=robust.card)

    assert SOURCES["torchvision"].nulls("alexnet") is None
    ours = Source(lambda: ["a"], load, lambda name: [], lambda name: SOURCES["zoo"].nulls(
        "vgg-robust-0"))
    monkeypatch.setitem(SOURCES, "mine", ours)
    null = load_null(load("a"), "group3")
    assert null.maximum == load_null(robust, "group3").maximum and null.pairs == 1_000_000
    study = transfer_study(["mine/a"], ["mine/a"], samples[:2], stages=["group3"], steps=5)
    assert set(study["generator"]) == {"mine/a"}
