"""Functions of plain values, to be swept over a grid (see `metalib.sweep`).

A task of your own is a function like these. With `checked_by`, a wrong cell is found before the
first one is computed.

    task: metalib.tasks:transfer
    grid: {generator: [zoo/vgg-standard-0, zoo/vgg-robust-0], stage: [group1, group3]}
    parameters: {observers: [zoo/resnet-standard-0], n_images: 10}

Without a `size`, images have that which the network takes, or the first of several.
"""

from metalib.runs.tasks.accuracy import accuracy
from metalib.runs.tasks.checks import checked_by
from metalib.runs.tasks.generation import generation
from metalib.runs.tasks.human import human
from metalib.runs.tasks.joint import joint, pairs, partners, prices
from metalib.runs.tasks.match import match, minima
from metalib.runs.tasks.representation import discoveries, rejections, representation
from metalib.runs.tasks.seeing import confidence, inversions, photographs, statistics
from metalib.runs.tasks.starts import starts
from metalib.runs.tasks.transfer import copies, coverage, transfer

__all__ = [
    "accuracy", "checked_by", "confidence", "copies", "coverage", "discoveries", "generation",
    "human", "inversions", "joint", "match", "minima", "pairs", "partners", "photographs", "prices",
    "rejections", "representation", "starts", "statistics", "transfer"]
