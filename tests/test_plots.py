"""Figures hold for any number of groups: each is drawn, and no two of a figure look the same."""

import io
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex
from PIL import Image
from scipy.cluster import hierarchy

from metalib import plots
from metalib.models.windows import uniform
from metalib.plots.style import PALETTE_PNG

COUNTS = pytest.mark.parametrize("count", [1, 2, 5, 28])


@pytest.fixture
def ax(request):
    figure, ax = plt.subplots()
    yield ax
    if getattr(request.node, "callspec", None) and request.node.callspec.params["count"] == 2:
        figure.canvas.draw()  # what cannot be drawn fails here
    plt.close(figure)


def names(count, what="group"):
    return [f"{what} {number}" for number in range(count)]


def grid(**columns):
    """A row for each combination of values, with made-up numbers besides."""
    table = pd.MultiIndex.from_product(columns.values(), names=list(columns)).to_frame(index=False)
    middle = np.linspace(0.2, 0.8, len(table))
    return table.assign(mean=middle, low=middle - 0.1, high=middle + 0.1)


def legend(ax):
    return ax.get_legend_handles_labels()[1]


def looks(ax):
    """How each entry of the legend looks."""
    lines = [getattr(handle, "lines", [handle])[0] for handle in ax.get_legend_handles_labels()[0]]
    return [(to_hex(line.get_color()), line.get_linestyle(), line.get_marker()) for line in lines]


# --- A series for each group --------------------------------------------------------------------


def share_passed(groups, ax):
    table = grid(rule=groups, image=range(3)).assign(passed=[True, False, True] * len(groups),
                                                     evaluations=7)
    plots.share_passed(table, "rule", limit=20, ax=ax)


def match_by_evaluations(groups, ax):
    table = grid(optimizer=groups, evaluations=[1, 10], image=range(3)).assign(match_db=20.0)
    plots.match_by_evaluations(table, ax=ax)


def cost_by_stage(groups, ax):
    table = grid(rule=groups, stage=["a", "b"], image=range(3)).assign(evaluations=7)
    plots.cost_by_stage(table, "rule", limit=20, ax=ax)


def times_fewer(groups, ax):
    table = grid(model=groups, stage=["a", "b"])
    plots.times_fewer(table.assign(times_fewer=100.0, low=0.0, high=200.0), ax=ax)


def side_by_side(groups, ax):
    plots.side_by_side(grid(x=["a", "b"], kind=groups), "x", "kind", value="mean", ax=ax)


def by_stage(groups, ax):
    table = grid(stage=["a", "b"], null=groups)
    plots.by_stage(table.rename(columns={"mean": "auc", "low": "auc_low", "high": "auc_high"}),
                   ax=ax)


def by_depth(groups, ax):
    table = grid(training=groups, depth=[0.1, 0.9], kind=["metamers"])
    plots.by_depth(table, "training", style="kind", ax=ax)


def power_curves(groups, ax):
    plots.power_curves(pd.DataFrame({name: [0.1, 0.5] for name in groups}), ax=ax)


def concentration(groups, ax):
    plots.concentration({name: np.arange(1, 9).reshape(2, 4) for name in groups}, ax=ax)


def against_natural(groups, ax):
    table = grid(stage=["a", "b"], kind=groups, image=range(3))
    plots.against_natural(table, "mean", [0.1, 0.9], by="kind", ax=ax)


def critical_windows(groups, ax):
    table = grid(stage=["a", "b", "c"], training=groups).rename(columns={"mean": "estimate"})
    plots.critical_windows(table.assign(bound=["", "above", "below"] * len(groups)), ax=ax)


SERIES = [share_passed, cost_by_stage, match_by_evaluations, times_fewer, side_by_side, by_stage,
          by_depth, power_curves, concentration, against_natural, critical_windows]


@COUNTS
@pytest.mark.parametrize("draw", SERIES, ids=lambda draw: draw.__name__)
def test_each_group_is_a_series_of_its_own_look(draw, count, ax):
    draw(names(count), ax)
    labels = [label.removeprefix("metamers ") for label in legend(ax)]
    assert sorted(labels) == sorted(names(count))
    assert draw is by_depth or len(set(looks(ax))) == count


def test_depth_tells_many_styles_and_few_colours_apart(ax):
    plots.by_depth(grid(training=["a", "b"], depth=[0.1, 0.9], kind=names(5)), "training",
                   style="kind", ax=ax)
    assert len(legend(ax)) == 10


def test_update_rules_look_the_same_in_every_figure(ax):
    for rules in (["lbfgs", "adam"], ["adam", "lbfgs", "published"]):
        plots.match_by_evaluations(grid(optimizer=rules, evaluations=[1, 9]).assign(match_db=9),
                                   ax=ax)
    by_rule = {}
    for label, found in zip(legend(ax), looks(ax)):
        by_rule.setdefault(label, set()).add(found)
    assert len(by_rule["lbfgs"]) == len(by_rule["adam"]) == 1


def test_scales_beyond_those_that_were_tried_are_marked_as_bounds(ax):
    table = pd.DataFrame({"stage": ["a", "b", "c"], "training": "t", "estimate": [8.0, 2.0, 32.0],
                          "low": [4.0, 0.0, 16.0], "high": [16.0, 4.0, np.inf],
                          "bound": ["", "below", "above"]})
    plots.critical_windows(table, ax=ax)
    drawn = [line.get_marker() for line in ax.lines if len(line.get_xdata())]
    assert drawn == ["o", "v", "^"] and ax.get_yscale() == "log"
    bars = ax.collections[0].get_segments()
    assert np.isfinite(np.array(bars)).all() and bars[0][:, 1].tolist() == [4, 16]


def test_what_methods_keep_is_written_into_the_cells(ax):
    wide = pd.DataFrame({"training": "t", "method": names(3), "early": [0.1, 0.5, 0.9],
                         "late": [0.0, 0.3, 1.0]})
    plots.kept_by_method(wide, ax=ax)
    assert [float(text.get_text()) for text in ax.texts] == [0.1, 0, 0.5, 0.3, 0.9, 1]
    assert [label.get_text() for label in ax.get_yticklabels()] == names(3)


def test_windows_are_outlined_where_they_meet(ax):
    """Two by two of them meet in the middle of the picture; without one they are on white."""
    plots.pooling_windows(uniform(16, 2), np.zeros((3, 16, 16)), ax=ax)
    assert ax.get_title() == "uniform, 2 by 2: 4 windows" and not ax.images[0].get_array().any()
    outlines = [path.vertices for lines in ax.collections for path in lines.get_paths()]
    assert len(outlines) == 2 * 4  # each is drawn twice, in white and in black
    for outline in outlines:
        assert np.isclose(outline, 7.5).any(1).sum() >= 2
    plots.pooling_windows(uniform(16, 2), ax=ax)
    assert ax.images[-1].get_array().min() == 1


def test_gaps_are_left_where_a_group_has_no_row(ax):
    table = grid(x=["a", "b"], kind=names(3)).iloc[:-2]
    plots.side_by_side(table, "x", "kind", value="mean", ax=ax)
    assert len(legend(ax)) == 3
    against = grid(stage=["a", "b"], kind=names(3), image=range(2)).iloc[:-4]
    plots.against_natural(against, "mean", by="kind", ax=ax)


# --- A point, a row or a picture for each group -------------------------------------------------


@COUNTS
def test_each_group_is_a_point(count, ax):
    table = grid(start=names(count), image=range(3)).assign(
        distance=0.2, evaluations=range(3 * count), control=False)
    plots.cost_and_distinctness(table, "start", ax=ax)
    assert [text.get_text() for text in ax.texts] == names(count)
    points = [part for part in ax.collections if isinstance(part, PathCollection)]
    assert [len(part.get_offsets()) for part in points] == [count]


@COUNTS
def test_each_model_is_a_point(count, ax):
    table = grid(architecture=names(count), training=names(count, "training")[:9]).assign(
        accuracy=0.8, robust=0.3, n=1000)
    plots.accuracy_and_robustness(table, ax=ax)
    assert len(ax.collections[-1].get_offsets()) == len(table)
    entries = [text.get_text() for text in ax.get_legend().get_texts()]
    assert set(entries) >= {*table["architecture"], *table["training"]}


@COUNTS
def test_each_training_of_the_published_networks_is_there(count, ax):
    table = grid(training=names(count), depth=[0.1, 0.9]).assign(human=0.5, networks=0.4)
    plots.people_and_networks(table, ax=ax)
    assert len(ax.collections[-1].get_offsets()) == 2 * count
    assert {text.get_text() for text in ax.get_legend().get_texts()} >= set(names(count))


@COUNTS
def test_each_model_is_a_row_of_the_matrix(count, ax):
    matrix = pd.DataFrame(0.5, names(count), names(2 * count))
    matrix.iloc[0, 0] = np.nan
    plots.transfer_matrix(matrix, ax=ax)
    assert [label.get_text() for label in ax.get_yticklabels()] == names(count)
    assert [label.get_text() for label in ax.get_xticklabels()] == names(2 * count)
    assert len(ax.patches) == count


@COUNTS
def test_each_kind_of_network_is_a_row_of_the_matrix_and_trainings_are_named_once(count, ax):
    kinds = pd.MultiIndex.from_product([["standard", "robust"], names(count)])
    plots.kinds_matrix(pd.DataFrame(0.5, kinds, kinds), ax=ax)
    assert [label.get_text() for label in ax.get_yticklabels()] == 2 * names(count)
    assert [text.get_text() for text in ax.texts] == 2 * ["standard", "robust"]
    plots.kinds_matrix(pd.DataFrame(0.5, kinds, kinds), rows=False, bar=False, ax=ax)
    assert sum(text.get_text() != "" for text in ax.texts) == 6


@COUNTS
def test_each_set_of_metamers_is_a_row_and_a_missing_cell_is_empty(count, ax):
    table = grid(generator_training=["robust"], matched=names(count), stage=["a", "b"])
    table = table.assign(kept=table["mean"], beyond=1.0).iloc[:-1]
    plots.kept_matrix(table, ax=ax)
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        f"robust, {name}" for name in names(count)]
    assert len(ax.texts) == 2 * count - 1
    assert {text.get_fontweight() for text in ax.texts} == {"bold"}


@COUNTS
def test_each_picture_has_its_words(count, ax):
    words = [[f"cat\n{k}" for k in range(count)], ["dog"] * count]
    plots.answered([torch.zeros(count, 3, 8, 8)] * 2, words, ["reference", "metamer"], ax=ax)
    assert [text.get_text() for text in ax.texts] == sum(words, [])
    assert (np.asarray(ax.images[-1].get_array()) == 0).all(-1).sum() == 2 * count * 64


@COUNTS
def test_each_case_is_a_reference_above_its_metamer(count, ax):
    rows = pd.DataFrame({"image": [0, *range(count)], "generator": "a", "observer": "zoo/b-c"})
    black = torch.zeros(count, 3, 8, 8)
    plots.cases(rows, black, {"a": black}, count=4, ax=ax)
    assert (np.asarray(ax.images[-1].get_array()) == 0).all(-1).sum() == 2 * min(count, 4) * 64
    assert len(ax.get_xticklabels()) == min(count, 4)


@pytest.mark.parametrize("count", [2, 5, 30])
def test_each_model_is_a_leaf(count, ax):
    linkage = hierarchy.linkage(np.arange(count)[:, None])
    plots.clustered(pd.DataFrame(0.5, names(count), names(count)), linkage, ax=ax)
    assert len(ax.child_axes[0].collections[0].get_paths()) == count - 1


@COUNTS
def test_each_estimate_is_a_line(count, ax):
    plots.estimates(grid(name=names(count)), names(count), zero=0.5, ax=ax)
    assert [label.get_text() for label in ax.get_yticklabels()] == names(count)


@COUNTS
def test_each_pair_is_a_cell(count, ax):
    values = {pair: 1.0 for pair in zip(names(count), names(count)[1:] + names(1))}
    plots.pairs(values, label="km", ax=ax)
    assert len(ax.texts) == len(values)


@COUNTS
def test_each_test_is_a_row(count, ax):
    plots.rejection_rates(pd.Series(0.05, names(count)), 100, ax=ax)
    assert [label.get_text() for label in ax.get_yticklabels()] == names(count)


@COUNTS
def test_each_observer_is_a_row_and_a_stage_that_it_lacks_is_empty(count, ax):
    table = grid(observer=names(count), stage=names(count, "stage")[:9])
    table = table.assign(recognised=0.5).iloc[:-1] if count > 1 else table.assign(recognised=0.5)
    plots.observers_by_stages(table, "mean", marked=table["mean"] > 0.5, ax=ax)
    assert [label.get_text() for label in ax.get_yticklabels()] == names(count)
    assert len(ax.texts) == len(table) + count


@COUNTS
def test_each_kind_is_a_cloud(count, ax):
    table = grid(kind=[*plots.KINDS, *names(count)], image=range(3))
    plots.similarity_clouds(table.assign(similarity=table["mean"]), ax=ax)
    assert len(ax.collections) == len(plots.KINDS) + count


@COUNTS
def test_each_end_has_arrows(count, ax):
    points = np.arange(6.0).reshape(3, 2)
    plots.displacements(points, {name: points + number for number, name in
                                 enumerate(names(count))}, points, ax=ax)
    assert {f"to {name}" for name in names(count)} <= set(legend(ax))


@COUNTS
def test_each_map_and_picture_is_there(count, ax):
    plots.heat_maps([np.ones((count, 4, 4)), np.ones((count, 2, 2))], ["a", "b"], names(count),
                    label="km", ax=ax)
    assert np.isfinite(ax.images[0].get_array().filled(np.nan)).sum() == 2 * count * 16
    plots.montage(torch.zeros(count, 2, 3, 4, 4), names(count), ["a", "b"], ax=ax)
    assert (np.asarray(ax.images[-1].get_array()) == 0).all(-1).sum() == 2 * count * 16


@COUNTS
def test_each_value_is_a_tick(count, ax):
    null = SimpleNamespace(quantile=lambda q: {"pearson": 0.9 * q}, maximum={"pearson": 0.9})
    plots.null_and_metamers(null, "pearson", np.linspace(0.1, 0.95, count), ax=ax)
    ticks, = (line for line in ax.lines if line.get_label() == "metamers")
    assert len(ticks.get_xdata()) == count


@COUNTS
def test_each_metamer_is_below_its_reference(count):
    metamers = SimpleNamespace(images=torch.zeros(count, 3, 8, 8),
                               references=torch.zeros(count, 3, 8, 8))
    figure = plots.metamers_below_references(metamers, n=count, labels=names(count))
    labels = [label.get_text() for ax in figure.axes for label in ax.get_xticklabels()]
    assert labels == names(count)


def test_figures_are_stored_with_a_palette_unless_they_have_photographs():
    photograph = np.random.default_rng(0).random((200, 200, 3))
    modes = []
    for picture in (np.full((200, 200, 3), 0.5), photograph):
        file, (figure, ax) = io.BytesIO(), plt.subplots()
        ax.imshow(picture)
        figure.savefig(file, format="png", pil_kwargs={"format": PALETTE_PNG})
        plt.close(figure)
        modes.append(Image.open(file).mode)
    assert modes == ["P", "RGB"] and Image.open(file).format == "PNG"


# --- Seconds and hours --------------------------------------------------------------------------


@COUNTS
def test_each_procedure_has_its_hours(count, ax):
    table = grid(way=names(count)).set_index("way").assign(core_hours=10.0, gpu_hours=1.0)
    plots.machine_hours(table.assign(low=5.0, high=20.0), marks={8: "a day"}, ax=ax)
    assert [label.get_text() for label in ax.get_yticklabels()] == names(count)
    assert legend(ax) == ["one core", "one GPU"]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_each_image_size_and_batch_has_a_marker(count, ax):
    sizes = grid(side=range(count), stage=["a", "b"]).assign(operations=[1e9, 1e10] * count,
                                                             seconds=0.1)
    plots.seconds_by_operations(sizes, ax=ax)
    assert len(legend(ax)) == count + 2 and len(set(looks(ax))) == count + 2
    _, other = plt.subplots()
    rows = grid(batch=range(1, count + 1), way=["a", "b"]).rename(columns={"mean": "share of bare"})
    plots.speeds(rows, ["a", "b", "missing"], ax=other)
    assert len(legend(other)) == count and len(other.get_yticklabels()) == 3
    plt.close(other.figure)


def test_thresholds_are_drawn_for_each_that_is_shown():
    curves = pd.DataFrame({"shown": ["metamers", "metamers", "JPEG", "JPEG"], "p": [1e-6, 0.1] * 2,
                           "passed": [0.1, 0.5, 0.9, 1.0]})
    ax = plots.by_threshold(curves, ax=plt.subplots()[1])
    assert ax.get_xscale() == "log"
    assert ax.get_legend_handles_labels()[1] == ["metamers", "JPEG"]
    assert ax.lines[1].get_ydata().tolist() == [0.9, 1.0]
