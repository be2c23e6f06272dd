"""Seconds of a gradient of pooled texture statistics, beside plenoptic's global ones, in one run.

    OMP_NUM_THREADS=1 python benchmarks/texture.py

A line for each size and layout of windows: the median of paired ratios, ours over theirs.
"""

import time
from statistics import median

import plenoptic
import torch

from metalib.models.texture import PooledStatistics
from metalib.models.windows import log_polar, uniform


def seconds(model: torch.nn.Module, image: torch.Tensor) -> float:
    """Of one evaluation of the statistics and their gradient."""
    image = image.clone().requires_grad_()
    began = time.perf_counter()
    model(image).square().sum().backward()
    return time.perf_counter() - began


for size in (64, 224, 256):
    scales, grain = (3, 1) if size == 64 else (4, 4)
    image = torch.rand(1, 1, size, size)
    theirs = plenoptic.models.PortillaSimoncelli((size, size), n_scales=scales)
    for windows in (uniform(size, 1), uniform(size, 3), log_polar(size, 0.5),
                    log_polar(size, 0.5, fixation=(size / 2, -0.7 * size))):
        ours = PooledStatistics(windows, scales, grain=grain)
        ratios = [seconds(ours, image) / seconds(theirs, image) for _ in range(9)]
        print(f"{size} pixels, {len(windows)} windows ({windows.about['layout']}): "
              f"{median(ratios):.2f} times plenoptic's")
