"""Time and memory of the representation test.

    python benchmarks/representation.py      # speed on the bundled observers, and memory

Parts:

- speed: 20 images, all stages, three nulls, 10,000 permutations; with fewer bundled networks than
  `--observers`, some are used twice
- memory: 10,000 images x one stage of 4,096 units, as recorded responses, in a process of its own;
  one permutation, since the time of each grows with the number of pairs
"""

import argparse
import itertools
import multiprocessing
import resource
import time

import numpy as np
import torch

from metalib import Responses, list_models, load_images, load_model, representation_test


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


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=["speed", "memory"],
                        default=["speed", "memory"])
    parser.add_argument("--observers", type=int, default=16)
    arguments = parser.parse_args()
    for part in arguments.parts:
        {"speed": speed, "memory": memory}[part](arguments)
