"""Figures of reference networks."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes


def accuracy_and_robustness(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Accuracy under attack against accuracy, one point per model.

    Intervals are plus and minus two standard errors.

    Args:
        table: one row per model with the columns `architecture`, `training`, `accuracy`, `robust`
            and `n` (the number of test images).
    """
    ax = ax or plt.gca()
    x, y = (2 * np.sqrt(table[column] * (1 - table[column]) / table["n"])
            for column in ("accuracy", "robust"))
    ax.errorbar(table["accuracy"], table["robust"], xerr=x, yerr=y, fmt="none", color="0.6",
                linewidth=1, zorder=1)
    sns.scatterplot(table, x="accuracy", y="robust", hue="architecture", style="training", s=80,
                    alpha=0.75, ax=ax)
    ax.set(xlabel="accuracy on unaltered test images", ylabel="accuracy under attack")
    sns.move_legend(ax, "center left", bbox_to_anchor=(1.02, 0.5))
    return ax
