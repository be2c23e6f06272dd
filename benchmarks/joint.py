"""What do several models at once cost? Ratios of times, in one run.

    python benchmarks/joint.py       # some minutes; writes results/benchmark-joint.parquet

It needs two CPU cores or more, and compares:

- a step of joint generation, over the sum of the steps of the models alone
- a step of models of one architecture that are evaluated together, over a step in which they are
  evaluated one after the other
- two ranks with one thread each, over one process with one thread, for the same images

Times are medians over interleaved repetitions; ranks run once.
"""

import functools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import tables
import torch
import yaml

from metalib import Compute, generate, load_images, load_model
from metalib.generation.metamers import load

NAMES = ["zoo/vgg-standard-0", "zoo/vgg-robust-0", "zoo/cct-standard-0", "zoo/convnext-standard-0"]


def seconds(ways, repeats=5):
    """Median seconds of each of the functions `ways`, called in turn."""
    times = {name: [] for name in ways}
    for _ in range(repeats + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - began)
    return {name: float(np.median(some[1:])) for name, some in times.items()}


def joint_cost(stage, batch, steps=10):
    """Seconds of a step of all models at once, over the sum of the seconds of each model alone."""
    models, images = ([load_model(name) for name in NAMES],
                      load_images("cifar10-samples").images[:batch])
    ways = {model.name: lambda model=model: generate(
        model, images, stage, steps=steps, optimizer="adam") for model in models}
    ways["joint"] = lambda: generate(
        models, images, [stage] * len(models), steps=steps, optimizer="adam")
    took = seconds(ways)
    alone = sum(value for name, value in took.items() if name != "joint")
    return {"part": "a step of all, over the sum of the models' own",
            "case": f"{len(models)} models, {stage}, batch {batch}",
            "ratio": took["joint"] / alone}


def together_cost(architecture, stage, batch, count=4, steps=10):
    """Seconds of a step of models of one architecture: evaluated together, over one by one."""
    models = [load_model(f"zoo/{architecture}-standard-0") for _ in range(count)]
    images = load_images("cifar10-samples").images[:batch]
    took = seconds({stacked: functools.partial(
        generate, models, images, [stage] * count, steps=steps, optimizer="adam",
        compute=Compute(exact_batches=False, stacked=stacked)) for stacked in (False, True)})
    return {"part": "a step of all together, over one after the other",
            "case": f"{count} x {architecture}, {stage}, batch {batch}",
            "ratio": took[True] / took[False]}


def ranks_cost(optimizer, steps=60, batch=20):
    """Seconds of the loop with two ranks of one thread, over one process of one thread.

    The images must be the same. Every rank computes the update rule, so a cheap rule gains more.
    """
    recipe = {"models": ["zoo/vgg-standard-0", "zoo/vgg-robust-0"],
              "stages": ["group3", "group3"], "steps": steps, "optimizer": optimizer,
              "images": {"source": "cifar10-samples", "n": batch}}
    with tempfile.TemporaryDirectory() as folder:
        path, made = Path(folder, "recipe.yml"), {}
        path.write_text(yaml.safe_dump(recipe))
        for ranks in (1, 2):
            subprocess.run(
                [sys.executable, "-m", "torch.distributed.run", "--standalone",
                 "--local-addr", "127.0.0.1", "--nproc-per-node", str(ranks), "-m", "metalib.run",
                 path, Path(folder, str(ranks)), "--checkpoint-every", str(steps)],
                check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
            made[ranks] = load(Path(folder, str(ranks)))
    assert torch.equal(made[1].images, made[2].images)
    return {"part": "two ranks of one thread, over one",
            "case": f"2 x vgg, group3, batch {batch}, {optimizer}",
            "ratio": made[2].seconds / made[1].seconds}


if __name__ == "__main__":
    rows = [joint_cost("group1", 4), joint_cost("group3", 20)]
    for architecture in ("resnet", "vgg", "cct", "convnext"):
        rows += [together_cost(architecture, "group3", batch) for batch in (1, 20)]
    rows += [ranks_cost(optimizer) for optimizer in ("adam", "spectral_lbfgs")]
    table = pd.DataFrame(rows)
    print(table.to_string(index=False, float_format="{:.2f}".format))
    tables.replace("joint", rows)
