"""Metamers made as those of people are, and their controls, shown to networks."""

import pytest

from metalib import judge, load_images, load_model, load_null, tasks
from metalib.evaluation.images import image_statistics
from metalib.generation.feedforward import one_pass
from metalib.generation.metamers import Metamers
from metalib.metrics import rms_distance
from metalib.models.windows import uniform
from metalib.runs.tasks.human import METHODS, _blurred_like

OBSERVERS = ["zoo/vgg-robust-0", "zoo/resnet-standard-0"]


@pytest.mark.parametrize("method", METHODS)
def test_each_method_is_shown_to_all_stages_of_all(method):
    table = tasks.human(method, OBSERVERS, generator=OBSERVERS[0], matched="group1", steps=3,
                        n_images=3)
    stages = len(load_model(OBSERVERS[0]).stages)
    compared = {"reference"} if method in ("decoded", "blurred") else {"reference", "synthesis"}
    assert set(table["comparison"]) == compared and set(table["observer"]) == set(OBSERVERS)
    assert len(table) == 2 * stages * len(compared) * 3 and table["match"].notna().all()
    spent = 3 if method in ("texform", "iterative") else 0
    assert (table["evaluations"] == spent).all() and (table["seconds"] > 0).all()


def test_verdicts_are_those_of_judge():
    images = load_images("cifar10-samples", n=4)
    table = tasks.human("one_pass", OBSERVERS[:1], count=8, n_images=4)
    model, made = load_model(OBSERVERS[0]), one_pass(images, uniform(32, 8))
    for stage in ("stem", "features"):
        expected = judge(model, stage, made, load_null(model, stage))
        found = table[(table["stage"] == stage) & (table["comparison"] == "reference")]
        assert found["passed"].tolist() == expected["passed"].tolist()
        assert found["match"].tolist() == pytest.approx(expected["pearson"].tolist(), abs=1e-5)
        assert found["distance"].tolist() == pytest.approx(expected["distance"].tolist(), abs=1e-6)
    again = Metamers(made.images, one_pass(images, uniform(32, 8), seed=1).images)
    expected = judge(model, "features", again, load_null(model, "features"))
    found = table[(table["stage"] == "features") & (table["comparison"] == "synthesis")]
    assert found["match"].tolist() == pytest.approx(expected["pearson"].tolist(), abs=1e-5)


def test_controls_are_as_similar_and_as_far():
    images = load_images("cifar10-samples", n=4)
    target = one_pass(images, uniform(32, 8)).images
    blurred = image_statistics(_blurred_like(images, target), images)["ssim"]
    assert blurred.tolist() == pytest.approx(image_statistics(target, images)["ssim"], abs=0.02)
    noise = tasks.human("noise", OBSERVERS[:1], count=8, like="one_pass", n_images=4)
    far = rms_distance(target, images.images)
    assert noise["distance"].iloc[:4].tolist() == pytest.approx(far.tolist(), abs=0.01)


@pytest.mark.filterwarnings("ignore:.*the null is of")
def test_the_model_of_early_vision_looks_too():
    table = tasks.human("decoded", OBSERVERS[:1], n_images=2, natural=20)
    seen = table[table["observer"] == "early vision"]
    assert seen["stage"].tolist() == ["statistics"] * 2 and seen["match"].notna().all()
    coarse = tasks.human("decoded", OBSERVERS[:1], n_images=2, natural=20, vision={"count": 1})
    assert not coarse.query("observer == 'early vision'")["match"].equals(seen["match"])


@pytest.mark.parametrize("given, message", [
    ({"method": "dream"}, "a method is one of texform"), ({"like": "noise"}, "is none of"),
    ({"observers": ["zoo/none"]}, "zoo/none"),
    ({"method": "iterative", "generator": OBSERVERS[0], "matched": "group9"}, "has no stage")])
def test_what_is_wrong_is_told_before_anything_is_made(given, message):
    sound = {"method": "noise", "observers": OBSERVERS, "generator": "", "matched": "features",
             "image_set": "cifar10-samples", "split": None, "n_images": 2, "size": 32, "steps": 2,
             "first": 0, "natural": 0, "like": "foveated", "count": 4}
    with pytest.raises(ValueError, match=message):
        tasks.human.check(**{**sound, **given})
