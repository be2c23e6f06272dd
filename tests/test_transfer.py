"""The transfer study: a planted truth, parity with `judge`, killed and damaged runs, bad input."""

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from conftest import one_thread, small_network
from torch import nn

from metalib import (
    crossed,
    generate,
    judge,
    labels,
    load_images,
    load_model,
    metrics,
    null_distribution,
    representation_test,
    tasks,
    transfer,
    transfer_study,
    wrap_model,
)
from metalib.data import ImageSet
from metalib.evaluation.controls import COPIES, copies
from metalib.evaluation.correspondence import kernels, layer_depths
from metalib.evaluation.criterion import Evoked
from metalib.evaluation.shown import Observer, Scale, positive_controls
from metalib.generation.metamers import Metamers

MEAN = (0.5, 0.5, 0.5)


def layers(first, second, last=0):
    """Two stages that keep little of an image, and an answer.

    Each is a random projection with its own seed.
    """
    def linear(inputs, outputs, seed):
        layer = nn.Linear(inputs, outputs)
        layer.weight.data = torch.randn(
            outputs, inputs, generator=torch.Generator().manual_seed(seed)) / inputs ** 0.5
        layer.weight.data -= layer.weight.data.mean(1, keepdim=True)
        layer.bias.data.zero_()
        return layer
    return nn.Sequential(
        nn.Flatten(), linear(3072, 80, first), nn.Tanh(), linear(80, 60, 100 + second), nn.Tanh(),
        linear(60, 10, 200 + last))


def planted(name, *seeds):
    architecture, training = name.split("-")
    return wrap_model(layers(*seeds), stages=["2", "4", "5"], mean=MEAN, name=name,
                      card={"architecture": architecture, "training": training, "seed": 0})


@pytest.fixture(scope="module")
def pictures():
    return load_images("cifar10-samples", n=8)


@pytest.fixture
def tiny(pictures):
    """Two small untrained networks, and the images and options of a study of them."""
    models = [wrap_model(small_network(seed), stages=["1", "2", "5"], name=f"small {seed}",
                         class_names=pictures.class_names) for seed in (0, 1)]
    options = {"stages": ["2"], "steps": 8, "null_images": load_images("cifar10-samples"),
               "batch_size": 5}
    return models, pictures, options


def files(folder):
    return {path.name: path.stat().st_mtime_ns
            for path in folder.iterdir() if not path.name.startswith(".")}


def test_a_planted_truth_is_recovered(samples):
    """Metamers transfer to exactly the observers that share all layers up to the stage.

    What comes after it does not matter.
    """
    models = [planted("a-one", 0, 0, 0), planted("a-two", 0, 0, 1),
              planted("b-one", 0, 1, 0), planted("c-two", 1, 0, 0)]
    shares = {("2", "a-one"): {"a-one", "a-two", "b-one"},
              ("2", "a-two"): {"a-one", "a-two", "b-one"},
              ("2", "b-one"): {"a-one", "a-two", "b-one"}, ("2", "c-two"): {"c-two"},
              ("4", "a-one"): {"a-one", "a-two"}, ("4", "a-two"): {"a-one", "a-two"},
              ("4", "b-one"): {"b-one"}, ("4", "c-two"): {"c-two"}}
    table = transfer_study(models, models, samples[:8], stages=["2", "4"], steps=40,
                           null_images=samples, controls=False)
    assert table["generator_passed"].mean() > 0.9  # else the test proves nothing
    table = table[table["generator_passed"]]
    for (stage, generator), rows in table.groupby(["stage", "generator"]):
        match = (rows.groupby("observer")["match"].min(),
                 rows.groupby("observer")["match"].max())
        sharing = shares[stage, generator]
        assert (match[0][list(sharing)] > 0.95).all(), (stage, generator, match)
        assert (match[1].drop(list(sharing)) < 0.95).all(), (stage, generator, match)
    matched = crossed.matrix(table[table["stage"] == "4"], "match")
    assert [set(matched.columns[matched.loc[name] > 0.95]) for name in matched.index] == [
        shares["4", name] for name in matched.index]
    assert crossed.grouping(
        matched, {model.name: model.name[0] for model in models})["difference"] > 0.3
    found = crossed.differences(table[table["stage"] == "4"], "relation",
                                [("other training", "both differ")], value="match")
    assert found["difference"].item() > 0.3


def test_rows_say_what_model_judge_and_metrics_say(tiny):
    (one, two), pictures, options = tiny
    table = transfer_study([one], [one, two], pictures, **options)
    metamers = generate(one, pictures, "2", steps=8)
    assert (list(table["image"]) == 2 * list(range(8))
            and list(table["observer"].unique()) == [one.name, two.name])
    for model in (one, two):
        rows = table[table["observer"] == model.name]
        null = null_distribution(model, "2", options["null_images"])
        verdict = judge(model, "2", metamers, null)
        logits = model(metamers.images)
        assert (np.allclose(rows["match"], verdict["pearson"], atol=1e-5)
                and np.allclose(rows["distance"], verdict["distance"]))
        assert rows["agrees"].tolist() == verdict["class_match"].tolist()
        assert rows["recognised"].tolist() == (logits.argmax(1) == pictures.labels).tolist()
        assert (rows["reference_recognised"].tolist()
                == (model.answer(pictures.images) == pictures.labels).tolist())
        assert np.allclose(rows["confidence"], logits.softmax(1).amax(1), atol=1e-5)
        assert np.allclose(rows["p_value"], verdict["p_value"], atol=0.01)
        assert rows["passed"].tolist() == verdict["passed"].tolist()
        if model is one:
            assert rows["generator_passed"].tolist() == verdict["passed"].tolist()
    own = table[table["observer"] == one.name]
    assert (own["generator_passed"] == own["passed"]).all()


def test_controls_lie_at_the_distance_of_the_metamers(tiny):
    """An observer makes the same of them as of controls that are made by hand."""
    (one, two), pictures, options = tiny
    table = transfer_study([one], [two], pictures, **options)
    near = transfer.starts.perturbation(pictures.images, table["distance"])
    assert np.allclose(metrics.rms_distance(near, pictures.images), table["distance"], atol=2e-3)
    near = (near * 255).round() / 255
    assert (table["control_agrees"].tolist()
            == (two.answer(near) == two.answer(pictures.images)).tolist())
    expected = metrics.pearson(two.activations(near, "2"), two.activations(pictures.images, "2"))
    assert np.allclose(table["control_match"], expected, atol=1e-5)
    without = transfer_study([one], [two], pictures, **options, controls=False)
    assert without.equals(
        table.drop(columns=[name for name in table if name.startswith("control")]))


def test_similarity_in_one_pass_is_that_of_the_metrics():
    reference, other = torch.randn(
        6, 500, generator=torch.Generator().manual_seed(0)).relu().view(2, 3, 500)
    other[2], reference[1] = 0, 2.5
    rows, answers = torch.arange(3), torch.zeros(3)  # answers do not matter for similarities
    similar = Evoked(reference, answers).similarity_from_products(other, rows)
    pearson, snr_db = similar["pearson"], similar["snr_db"]
    torch.testing.assert_close(pearson, metrics.pearson(reference, other), atol=1e-5, rtol=0)
    torch.testing.assert_close(snr_db, metrics.snr_db(reference, other), atol=1e-3, rtol=0)
    close = reference + 1e-3 * reference.std() * torch.randn(
        reference.shape, generator=torch.Generator().manual_seed(1))
    similar = Evoked(reference, answers).similarity_from_products(close, rows)
    assert (similar["pearson"][[0, 2]] > 0.9999).all() and (similar["snr_db"] > 40).all()


def test_the_order_of_models_and_images_does_not_matter(tiny):
    (one, two), pictures, options = tiny
    table = transfer_study([one, two], [one, two], pictures, **options)
    reverse = transfer_study([two, one], [two, one], pictures[torch.arange(7, -1, -1)], **options)
    assert reverse["generator"].iloc[0] == two.name
    reverse["image"] = 7 - reverse["image"]
    keys = ["generator", "stage", "observer", "image"]
    a, b = (frame.sort_values(keys).reset_index(drop=True) for frame in (table, reverse))
    pd.testing.assert_frame_equal(a, b, atol=1e-5)


RUN = """
import sys
sys.path.insert(0, sys.argv[2])
import torch
torch.set_num_threads(1)
from conftest import small_network
from metalib import load_images, transfer_study, wrap_model
models = [wrap_model(small_network(seed), stages=["2", "3", "5"], name=f"small {seed}")
          for seed in range(2)]
transfer_study(models, models, load_images("cifar10-samples", n=8), steps=15,
               null_images=load_images("cifar10-samples"), batch_size=5, directory=sys.argv[1])
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
@one_thread()
def test_a_killed_run_goes_on_and_ends_with_the_same_table(tmp_path, pictures, monkeypatch):
    models = [wrap_model(small_network(seed), stages=["2", "3", "5"], name=f"small {seed}")
              for seed in range(2)]
    options = {"steps": 15, "null_images": load_images("cifar10-samples"), "batch_size": 5}
    table = transfer_study(models, models, pictures, **options, directory=tmp_path / "whole")
    assert len(table) == 2 * 3 * 2 * 8
    folder = tmp_path / "killed after 8"
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, folder, os.path.dirname(__file__)], stderr=subprocess.PIPE)
    for enough in (1, 8):  # while metamers are made, and while they are shown
        while not (folder.is_dir() and len(files(folder)) >= enough):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.002)
        process.send_signal(signal.SIGSTOP)  # what it leaves is what a kill would leave
        if enough == 1:
            shutil.copytree(folder, tmp_path / "killed after 1")
            process.send_signal(signal.SIGCONT)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    for enough in (1, 8):
        folder = tmp_path / f"killed after {enough}"
        before = files(folder)
        assert enough <= len(before) < 6 + 12, "it was done before it was killed"
        made = []
        monkeypatch.setattr(
            transfer, "generate",
            lambda *args, made=made, **more: made.append(args) or generate(*args, **more))
        again = transfer_study(models, models, pictures, **options, directory=folder)
        # another process may round the last bit differently
        pd.testing.assert_frame_equal(again, table, rtol=1e-6)
        after = files(folder)
        assert (before.items() <= after.items()
                and set(files(tmp_path / "whole")) <= set(after))
        assert len(made) == 6 - sum(name.endswith("safetensors") for name in before)


def test_another_model_adds_only_what_is_new(tmp_path, tiny, monkeypatch):
    (one, two), pictures, options = tiny
    table = transfer_study([one], [one], pictures, **options, directory=tmp_path)
    before = files(tmp_path)
    assert sorted(name.rpartition(".")[2] for name in before) == ["parquet", "safetensors"]
    calls = []
    monkeypatch.setattr(
        transfer, "generate",
        lambda model, *args, **options: calls.append(model.name)
        or generate(model, *args, **options))
    both = transfer_study([one, two], [one, two], pictures, **options, directory=tmp_path)
    assert (calls == [two.name] and before.items() <= files(tmp_path).items()
            and len(files(tmp_path)) == 2 + 4)
    first = both[(both["generator"] == one.name) & (both["observer"] == one.name)].reset_index(
        drop=True)
    pd.testing.assert_frame_equal(first, table, check_exact=True)
    monkeypatch.setattr(transfer, "Observer", None)  # nothing is shown again
    pd.testing.assert_frame_equal(
        transfer_study([one, two], [one, two], pictures, **options, directory=tmp_path), both)


def test_what_changes_a_result_changes_its_file(tmp_path, tiny):
    """Other steps, seeds, images, weights or nulls are other results; a name or card is not."""
    (one, two), pictures, options = tiny
    transfer_study([one], [one], pictures, **options, directory=tmp_path)
    for more in ({"steps": 9}, {"seed": 1}, {"generation": {"optimizer": "adam"}},
                 {"stages": ["1"]}, {"stop": True}):
        count = len(files(tmp_path))
        transfer_study([one], [one], pictures, **{**options, **more}, directory=tmp_path)
        assert len(files(tmp_path)) == count + 2, more
    for model, references, nulls in (
            (one, pictures[:7], options["null_images"]),
            (one, pictures, options["null_images"][:15]),
            (wrap_model(small_network(7), stages=one.stages, name=one.name), pictures,
             options["null_images"])):
        count = len(files(tmp_path))
        transfer_study([model], [model], references, **{**options, "null_images": nulls},
                       directory=tmp_path)
        assert len(files(tmp_path)) == count + 2
    count = len(files(tmp_path))
    again = wrap_model(small_network(0), stages=one.stages, name="renamed",
                       class_names=one.class_names)
    table = transfer_study([again], [again], pictures, **options, directory=tmp_path,
                           cards={"renamed": {"training": "none"}})
    assert (len(files(tmp_path)) == count and set(table["generator_training"]) == {"none"}
            and set(table["generator"]) == {"renamed"})


@pytest.mark.parametrize("harm", ["truncated", "foreign", "empty", "changed"])
def test_damaged_files_are_noticed_set_aside_and_made_anew(harm, tmp_path, tiny):
    (one, two), pictures, options = tiny
    table = transfer_study([one], [one, two], pictures, **options, directory=tmp_path)
    names = sorted(tmp_path.glob("*.parquet")) + sorted(tmp_path.glob("*.safetensors"))
    contents = {path: path.read_bytes() for path in names}
    for path in (names[0], names[-1]):
        content = contents[path]
        other = (contents[names[1]] if path.suffix == ".parquet"
                 else content.replace(path.stem.encode(), b"0" * len(path.stem)))
        at = len(content) // 4
        harmed = {
            "truncated": content[:len(content) // 2], "foreign": other, "empty": b"",
            "changed": (content[:at] + bytes(b ^ 85 for b in content[at:at + 9])
                        + content[at + 9:])}[harm]
        path.write_bytes(harmed)
        with pytest.warns(RuntimeWarning, match="damaged or foreign.*computed anew"):
            again = transfer_study([one], [one, two], pictures, **options, directory=tmp_path)
        pd.testing.assert_frame_equal(again, table, check_exact=True)
        assert (path.read_bytes() != harmed
                and path.with_name(f"{path.name}.damaged").read_bytes() == harmed)


def test_an_interrupted_run_keeps_no_half_made_metamers(tmp_path, tiny, monkeypatch):
    (one, _), pictures, options = tiny

    def interrupted(*args, **options):
        metamers = generate(*args, **options)
        return transfer_interrupted(metamers)

    def transfer_interrupted(metamers):
        return type(metamers)(
            **{**vars(metamers), "status": ("interrupted",) * len(metamers)})

    monkeypatch.setattr(transfer, "generate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        transfer_study([one], [one], pictures, **options, directory=tmp_path)
    assert not files(tmp_path)


def test_stages_correspond_by_name_in_a_family_and_by_depth_elsewhere(tiny):
    (one, two), pictures, options = tiny
    other = wrap_model(small_network(3), stages=["0", "1", "2", "3", "5"], name="other")
    assert transfer.corresponding_stage(one, "2", two) == "2"
    assert (transfer.corresponding_stage(one, "2", other) == "2"
            and transfer.corresponding_stage(one, "5", other) == "5")
    # depth 0.25 is as near to 0 as to 0.5: the earlier stage is taken
    assert transfer.corresponding_stage(other, "1", one) == "1"
    assert transfer.corresponding_stage(other, "3", one) == "2"
    table = transfer_study([other], [one], pictures, **{**options, "stages": [0.0, 0.7, 0.75]})
    assert table[["stage", "depth", "observer_stage"]].drop_duplicates().values.tolist() == [
        ["0", 0.0, "1"], ["3", 0.75, "2"]]
    table = transfer_study([one, other], [one], pictures, **{
        **options, "stages": {one.name: ["5", "1"], "other": ["3"]}})
    assert table["stage"].drop_duplicates().tolist() == ["1", "5", "3"]


def natural():
    """Images for representations: smooth noise, which is no copy of any photograph."""
    random = torch.rand(30, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    pictures = nn.functional.interpolate(random, 32, mode="bilinear").clamp(0, 1)
    return ImageSet(pictures, torch.full((30,), -1), (), "smooth noise")


def nearest_by_hand(one, stage, other):
    depth, depths = layer_depths(one)[stage], layer_depths(other)
    return min(depths, key=lambda name: (
        round(abs(depths[name] - depth), 6),
        abs(list(depths).index(name) / (len(depths) - 1) - one.stages.index(stage) / 2)))


def test_stages_correspond_by_depth_and_by_representation(tiny):
    """A deeper observer with the same first layers: each rule finds the right one of its stages."""
    (one, _), pictures, options = tiny
    layers = list(small_network(0))
    deep = nn.Sequential(*layers[:3], nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 1), *layers[3:])
    other = wrap_model(deep, stages=["1", "2", "4", "7"], name="deeper")
    table = transfer_study([one], [one, other], pictures, **{**options, "stages": ["1", "2", "5"]},
                           correspondences=["name", "depth", "cka"],
                           correspondence_images=natural())
    own, shown = (table[table["observer"] == name].drop_duplicates("stage") for name in (
        one.name, "deeper"))
    for column in ("observer_stage", "observer_stage_depth", "observer_stage_cka"):
        assert own[column].tolist() == ["1", "2", "5"]
    assert shown["observer_stage_cka"].tolist()[:2] == ["1", "2"]
    assert shown["observer_stage_depth"].tolist() == [nearest_by_hand(one, stage, other)
                                                      for stage in ("1", "2", "5")]
    same = table[table["observer_stage"] == table["observer_stage_cka"]]
    assert len(same) and (same["scaled_match"] == same["scaled_match_cka"]).all()
    alone = transfer_study([one], [one, other], pictures, **{**options, "stages": ["2"]},
                           correspondences=["cka"], correspondence_images=natural())
    pd.testing.assert_series_equal(
        alone["match"], table.loc[table["stage"] == "2", "match_cka"].reset_index(drop=True),
        check_names=False, rtol=1e-5)
    for rules, error in ((["colour"], "name, depth, cka, not 'colour'"), ([], "not none"),
                         (["cka"], "pass correspondence_images=")):
        with pytest.raises(ValueError, match=error):
            transfer_study([one], [one], pictures, **options, correspondences=rules)
    with pytest.raises(ValueError, match="that are no copies of references"):
        transfer_study([one], [one], pictures, **options, correspondences=["cka"],
                       correspondence_images=pictures)


def test_depth_is_the_share_of_weighted_layers():
    convolutions = [nn.Conv2d(3, 3, 1), nn.ReLU(), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)]
    module = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(3072, 4), nn.Linear(4, 2))
    model = wrap_model(module, stages=["0", "2", "3", "5", "6"], name="deep")
    assert layer_depths(model) == {"0": 0.25, "2": 0.25, "3": 0.5, "5": 0.75, "6": 1}
    for name, layers in (("zoo/vgg-standard-0", 8), ("zoo/resnet-standard-0", 14)):
        depths = layer_depths(load_model(name))
        assert depths["stem"] == pytest.approx(1 / layers) and depths["logits"] == 1


def test_kernels_give_debiased_cka(tiny):
    (one, two), pictures, _ = tiny
    both = [kernels(model, pictures.images, batch_size=3) for model in (one, two)]
    found = metrics.cosine(both[0]["2"], both[1]["1"])
    expected = metrics.debiased_cka(one.activations(pictures.images, "2"),
                                    two.activations(pictures.images, "1"))
    assert found.item() == pytest.approx(expected.item(), abs=1e-4)


# --- The scale of a match, and positive controls -------------------------------------------------

def test_a_match_is_scaled_from_unrelated_images_to_copies(tiny):
    (one, _), pictures, options = tiny
    null = null_distribution(one, "2", options["null_images"])
    scale = Observer(one, pictures, 3).scale("2", null)
    assert scale.null == pytest.approx(null.values["pearson"].mean())
    assert null.thinned(20).mean("pearson") == pytest.approx(scale.null, abs=0.01)
    copied = copies(pictures.images)
    expected = torch.stack([metrics.pearson(one.activations(copied[:, k], "2"),
                                            one.activations(pictures.images, "2"))
                            for k in range(2)]).mean()
    assert scale.ceiling == pytest.approx(expected.item(), abs=1e-5)
    assert scale(np.array([scale.null, scale.ceiling])).tolist() == [0, 1]
    table = transfer_study([one], [one], pictures, **options)
    assert np.allclose(table["scaled_match"], scale(table["match"]), atol=1e-6)
    assert np.allclose(table["control_scaled_match"], scale(table["control_match"]), atol=1e-6)
    assert np.isnan(Scale(0.1, 0.4, 0.5)(0.3))  # copies no more alike than unrelated images


def test_positive_controls_are_what_the_observer_makes_of_copies(tiny):
    (one, two), pictures, options = tiny
    table = positive_controls([one, two], pictures, stages=["2"],
                              null_images=options["null_images"])
    assert len(table) == 2 * 3 * len(pictures) and set(table["control"]) == set(COPIES)
    null = null_distribution(two, "2", options["null_images"])
    rows = table[(table["observer"] == two.name) & (table["control"] == "mirror image")]
    mirrored = pictures.images.flip(-1)
    verdict = judge(two, "2", Metamers(mirrored, pictures.images), null)
    assert np.allclose(rows["match"], verdict["pearson"], atol=1e-5)
    assert rows["passed"].tolist() == verdict["passed"].tolist()
    assert rows["agrees"].tolist() == verdict["class_match"].tolist()
    assert np.allclose(rows["p_value"], verdict["p_value"], atol=0.01)
    assert rows["null_maximum"].iloc[0] == pytest.approx(null.maximum["pearson"])
    ceiling = table[table["control"] != "mirror image"].groupby("observer")["scaled_match"].mean()
    assert np.allclose(ceiling, 1, atol=0.02)  # but for rounding to 8 bits
    with pytest.raises(ValueError, match="no stage 'group9'"):
        tasks.copies.check(observer="zoo/vgg-standard-0", stages=["group9"], split=None,
                           image_set="cifar10-samples", n_images=2, size=32, first=0)
    few = tasks.copies("zoo/vgg-standard-0", ["features"], n_images=3, first=2)
    assert len(few) == 6 and few["match"].dtype == "float32"


def test_relations_of_models():
    cards = {name: dict(zip(("architecture", "training", "seed"), name.split("-"))) for name in (
        "vgg-robust-0", "vgg-robust-1", "vgg-standard-1", "cct-robust-1", "cct-standard-0")}
    assert [transfer.relation(cards["vgg-robust-0"], card) for card in cards.values()] == [
        "itself", "other seed", "other training", "other architecture", "both differ"]
    assert transfer.relation(cards["vgg-robust-0"], {}) is None
    table = transfer_study(
        ["zoo/vgg-standard-0"], ["zoo/vgg-standard-0", "zoo/vgg-robust-0", "zoo/cct-robust-0"],
        load_images("cifar10-samples", n=2), stages=["stem"], steps=2, controls=False)
    assert table["relation"].unique().tolist() == ["itself", "other training", "both differ"]
    assert table[["observer_architecture", "observer_training", "observer_seed"]].iloc[
        -1].tolist() == ["cct", "robust", 0]


def test_labels_are_matched_by_name_and_may_be_unknown(tiny):
    (one, _), pictures, options = tiny
    named = wrap_model(small_network(0), stages=one.stages,
                       class_names=[f"class {k}" for k in range(10)], name="named")
    backwards = transfer_study([named], [named], type(pictures)(
        pictures.images, 9 - pictures.labels, tuple(f"Class_{9 - k}" for k in range(10)),
        "backwards"), **options)
    plain = transfer_study([one], [one], pictures, **options)
    assert backwards["recognised"].tolist() == plain["recognised"].tolist()
    some = type(pictures)(pictures.images, pictures.labels.clone(), (), "some")
    some.labels[:3] = -1
    table = transfer_study([one], [one], some, **options)
    assert table["recognised"].isna().tolist() == [True] * 3 + [False] * 5
    assert crossed.means(table, "generator")["rows"].item() == 8


def test_observers_of_another_size_resize_what_they_are_shown(tiny):
    """Bilinear and antialiased, as torchvision does it; generators need images of their size."""
    (one, _), pictures, options = tiny
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.LazyLinear(10))
    network(torch.zeros(1, 3, 20, 20))
    other = wrap_model(network, stages=["1"], input_size=20, name="20 pixels",
                       mean=(0.5,) * 3, class_names=pictures.class_names)
    metamers = generate(one, pictures, "2", steps=8, seed=0).images
    table = transfer_study([one], [other], pictures, correspondences=["name", "cka"],
                           correspondence_images=load_images("cifar10-samples"), **options)
    seen, references = (torchvision.transforms.functional.resize(x, [20, 20], antialias=True)
                        for x in (metamers, pictures.images))
    assert table["recognised"].tolist() == (
        other(seen).argmax(1) == pictures.labels).tolist()
    match = metrics.pearson(*(other.activations(x, "1") for x in (seen, references)))
    np.testing.assert_allclose(table["match"], match, atol=1e-6)
    table = representation_test(other, pictures, metamers, nulls="random", cache=False)
    found = table[table["stage"] == "1"]["recognised"].astype(bool)
    assert found.tolist() == (other.answer(seen) == other.answer(references)).tolist()
    with pytest.raises(ValueError, match="20 pixels takes images of shape"):
        transfer_study([other], [one], pictures, **options)


def test_classes_are_never_matched_by_their_position(tiny):
    """Folders of some classes of ImageNet, in the order of their names, have numbers of their own.
    """
    (one, _), pictures, options = tiny
    count = len(labels.IMAGENET)
    network = torch.nn.Sequential(*list(small_network(0))[:-1], torch.nn.Linear(96, count))
    model = wrap_model(network, stages=["2"], name="many", class_names=labels.IMAGENET,
                       coarse=labels.IMAGENET16)
    known = model(pictures.images).argmax(1)
    ids = tuple(sorted({f"{labels.IMAGENET_IDS[k]}_whatever" for k in known}))
    numbers = torch.tensor([ids.index(f"{labels.IMAGENET_IDS[k]}_whatever") for k in known])
    folders = type(pictures)(pictures.images, numbers, ids, "some folders")
    table = transfer_study([model], [model], folders, **options)
    assert table["reference_recognised"].all()
    nameless = wrap_model(network, stages=["2"], name="nameless", mean=(0.5,) * 3)
    for stranger, advice in ((nameless, "pass class_names="), (one, "its classes are airplane")):
        with pytest.warns(UserWarning, match=f"knows none of the classes of some fold.*{advice}"):
            table = transfer_study([stranger], [stranger], folders, **options)
        assert table["recognised"].isna().all() and table["agrees"].notna().all()
    beyond = type(pictures)(pictures.images, pictures.labels + 5, (), "numbers")
    with pytest.raises(ValueError, match="labels reach to .* small 0 has 10 classes"):
        transfer_study([one], [one], beyond, **options)


def test_bad_input_is_told_before_anything_is_made(tiny, tmp_path, monkeypatch):
    (one, two), pictures, options = tiny
    monkeypatch.setattr(transfer, "generate", None)
    without = {key: value for key, value in options.items() if key != "null_images"}
    larger = wrap_model(nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 10)), stages=["1"],
                        input_size=64, name="larger")
    for error, arguments, more in (
            ("no stage group9; its stages are 1, 2, 5", ([one], [one], pictures),
             {"stages": ["group9"]}),
            ("unknown model 'zoo/vgg-standard-9'", ([one], ["zoo/vgg-standard-9"], pictures), {}),
            ("different models", ([one, one], [one], pictures), {}),
            ("different models", ([], [one], pictures), {}),
            ("two different models are called small 0",
             ([one], [wrap_model(small_network(5), stages=["1", "2", "5"], name="small 0")],
              pictures), {}),
            ("an ImageSet", ([one], [one], pictures.images), {}),
            ("at least one image", ([one], [one], pictures[:0]), {}),
            (r"larger takes images of shape \(B, 3, 64, 64\)", ([larger], [one], pictures), {}),
            ("from 0 to 1, not 1.5", ([one], [one], pictures), {"stages": [1.5]}),
            ("no list for small 0", ([one], [one], pictures), {"stages": {"small 1": ["2"]}}),
            ("a list of names", ([one], [one], pictures), {"stages": "2"}),
            ("as a Model", ([nn.Identity()], [one], pictures), {})):
        with pytest.raises(ValueError, match=error):
            transfer_study(*arguments, **{**options, **more}, directory=tmp_path)
    with pytest.raises(ValueError, match="no null ships for small 0, 2: pass null_images="):
        transfer_study([one], [one], pictures, **without)
    wrong = {("small 0", "2"): null_distribution(two, "2", pictures)}
    with pytest.raises(ValueError, match="the null is of small 1"):
        transfer_study([one], [one], pictures, **without, nulls=wrong)
    assert not list(tmp_path.iterdir())


def test_the_task_keeps_the_columns_that_are_asked_for_and_computes_few_images_as_all():
    options = {"generator": "zoo/vgg-standard-0", "stage": "group3", "n_images": 4, "steps": 3,
               "observers": ["zoo/vgg-standard-0"], "columns": ["agrees", "match"]}
    whole, few = tasks.transfer(**options), tasks.transfer(**options, first=2)
    assert list(whole) == ["generator", "stage", "observer", "image", "agrees", "match"]
    assert whole["match"].dtype == "float32" and len(whole) == 4
    pd.testing.assert_frame_equal(few, whole[:2], rtol=1e-4)
    with pytest.raises(ValueError, match="no column colour; choose from generator, stage"):
        tasks.transfer(**options | {"columns": ["colour"]})
