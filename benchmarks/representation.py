"""Time and memory of the representation test, and its results with many natural images.

    python benchmarks/representation.py      # speed on the bundled observers, and memory
    python benchmarks/representation.py --parts record --images folder:PATH

Parts:

- speed: 20 images, all stages, three nulls, 10,000 permutations; with fewer bundled networks than
  `--observers`, some are used twice
- memory: 10,000 images x one stage of 4,096 units, as recorded responses, in a process of its own;
  one permutation, since the time of each grows with the number of pairs
- record: metamers of two generators at three stages, shown to all bundled networks whose seed is 0,
  with nulls of a thousand natural images (the default run of the chapter has twenty); writes
  book/full/representation.csv
"""

import argparse
import itertools
import multiprocessing
import resource
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from metalib import Responses, generate, list_models, load_images, load_model, representation_test
from metalib.data import stratified
from metalib.evaluation.representation import NULLS, verdict

GENERATORS, MATCHED = ["zoo/vgg-standard-0", "zoo/vgg-robust-0"], ["group1", "group3", "features"]


def speed(arguments):
    images = load_images("cifar10-samples")
    noise = 0.2 * torch.randn(images.images.shape, generator=torch.Generator().manual_seed(0))
    observers = []
    for name in itertools.islice(itertools.cycle(list_models("zoo/*")), arguments.observers):
        observers.append(load_model(name))
        observers[-1].name += f" ({len(observers)})"
    began = time.perf_counter()
    table = representation_test(observers, images, (images.images + noise).clamp(0, 1), cache=False)
    seconds = time.perf_counter() - began
    print(f"speed: {len(images)} images, {len(table.summary())} stages of {len(observers)} "
          f"observers ({len(list_models('zoo/*'))} networks), three nulls, 10,000 permutations: "
          f"{seconds:.0f} s, {torch.get_num_threads()} threads")


def large_case():
    random = np.random.default_rng(0)
    references = random.standard_normal((10_000, 4_096), dtype=np.float32)
    metamers = 0.2 * references + random.standard_normal(references.shape, dtype=np.float32)
    began = time.perf_counter()
    table = representation_test(
        Responses("large", {"stage": references}, {"stage": metamers}), None, None,
        nulls="random", labels=np.arange(10_000) % 10, permutations=1, resamples=2)
    cell = table.summary().loc[0]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** 20
    print(f"memory: 10,000 images x 4,096 units: peak {peak:.1f} GB, "
          f"{time.perf_counter() - began:.0f} s with one permutation; "
          f"debiased CKA {cell['cka']:.3f}, share identified {cell['top1']:.2f}")


def memory(_arguments):
    process = multiprocessing.get_context("spawn").Process(target=large_case)
    process.start()
    process.join()


def record(arguments):
    images = load_images(arguments.images, split="test", size=32)
    chosen = stratified(images.labels, arguments.natural)
    natural = images[chosen]
    references = natural[stratified(natural.labels, arguments.references)]
    observers, rows = [load_model(name) for name in list_models("zoo/*-0")], []
    for generator, matched in itertools.product(GENERATORS, MATCHED):
        began = time.perf_counter()
        metamers = generate(load_model(generator), references, matched, steps=60)
        table = representation_test(observers, references, metamers, natural=natural,
                                    nulls=NULLS, cache=arguments.cache)
        others, summary = table[table["observer"] != generator], table.summary()
        summary = summary[summary["observer"] != generator]
        by_stage = summary.groupby("stage").agg(
            primary=("primary_p", lambda p: (p <= 0.05).sum()), top1=("top1", "mean"),
            recognised=("recognised", "mean"))
        rows.append(verdict(others).join(by_stage, on="stage").assign(
            generator=generator, matched=matched))
        print(f"record: {generator}, {matched}: {time.perf_counter() - began:.0f} s", flush=True)
    table = pd.concat(rows)
    table = table[["generator", "matched",
                   *(name for name in table if name not in ("generator", "matched"))]]
    table.round(4).to_csv(
        Path(__file__).parents[1] / "book" / "full" / "representation.csv", index=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=["speed", "memory", "record"],
                        default=["speed", "memory"])
    parser.add_argument("--observers", type=int, default=16)
    parser.add_argument("--images", help="CIFAR-10, for the record: folder:PATH or cifar10",
                        default="cifar10")
    parser.add_argument("--references", type=int, default=40)
    parser.add_argument("--natural", type=int, default=1000)
    parser.add_argument("--cache", default=None)
    arguments = parser.parse_args()
    for part in arguments.parts:
        {"speed": speed, "memory": memory, "record": record}[part](arguments)
