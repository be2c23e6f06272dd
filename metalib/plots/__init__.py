"""Figures: functions that take data and an Axes, draw, and return the Axes.

`ax` is the Axes to draw on, by default the current one. Nothing else in metalib draws. One function
makes a Figure of its own: `metamers_below_references`, which is `Metamers.plot`. `shown` gives a
table as a page shows it.
"""

from metalib.plots.common import estimates, side_by_side
from metalib.plots.generation import (
    LABELS,
    RULES,
    cost_and_distinctness,
    cost_by_stage,
    match_by_evaluations,
    null_and_metamers,
    pairs,
    share_passed,
    times_fewer,
    worse_ends,
)
from metalib.plots.hours import machine_hours, seconds_by_operations, speeds
from metalib.plots.human import critical_windows, kept_by_method, pooling_windows
from metalib.plots.models import accuracy_and_robustness
from metalib.plots.pictures import metamers_below_references, montage
from metalib.plots.representation import (
    KINDS,
    by_stage,
    cases,
    discoveries,
    fisher,
    kept_matrix,
    observers_by_stages,
    power_curves,
    rejection_rates,
    similarity_clouds,
)
from metalib.plots.seeing import against_natural, concentration, displacements, heat_maps
from metalib.plots.style import (
    COLUMN,
    LINES,
    MARKERS,
    PALETTE,
    as_jpeg,
    look,
    short,
    styled,
    use_style,
)
from metalib.plots.tables import Shown, shown
from metalib.plots.transfer import (
    answered,
    by_depth,
    by_threshold,
    clustered,
    kinds_matrix,
    people_and_networks,
    transfer_matrix,
)

__all__ = [
    "COLUMN", "KINDS", "LABELS", "LINES", "MARKERS", "PALETTE", "RULES", "Shown",
    "accuracy_and_robustness", "against_natural", "answered", "as_jpeg", "by_depth", "by_stage",
    "by_threshold", "cases", "clustered", "concentration", "cost_and_distinctness", "cost_by_stage",
    "critical_windows", "discoveries", "displacements", "estimates", "fisher", "heat_maps",
    "kept_by_method", "kept_matrix", "kinds_matrix", "look", "machine_hours",
    "match_by_evaluations", "metamers_below_references", "montage", "null_and_metamers",
    "observers_by_stages", "pairs", "people_and_networks", "pooling_windows", "power_curves",
    "rejection_rates", "seconds_by_operations", "share_passed", "short", "shown", "side_by_side",
    "similarity_clouds", "speeds", "styled", "times_fewer", "transfer_matrix", "use_style",
    "worse_ends",
]
