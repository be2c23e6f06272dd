"""Time and memory of a null of a million pairs, beside a loop over pairs with scipy, in one run.

    python benchmarks/nulls.py --images 10000 --model zoo/vgg-robust-0 --stage features
    python benchmarks/nulls.py       # an untrained network whose stage has 4,096 units
    python benchmarks/nulls.py --images 800 --size 224 --stage 0    # 802,816 units, in a file

Images are random; neither time nor memory depends on what they show.
"""

import argparse
import resource
import time

import torch
from scipy import stats

from metalib import load_model, null_distribution, wrap_model

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--images", type=int, default=10_000)
parser.add_argument("--pairs", type=int, default=1_000_000)
parser.add_argument("--model")
parser.add_argument("--stage", default="1")
parser.add_argument("--size", type=int, default=32, help="side of the images, in pixels")
parser.add_argument("--memory", type=float, default=2e9, help="bytes")
arguments = parser.parse_args()

side, channels = arguments.size, 64 if arguments.size > 32 else 16
network = torch.nn.Sequential(
    torch.nn.Conv2d(3, channels, 4, stride=2, padding=1), torch.nn.ReLU(), torch.nn.Flatten(),
    torch.nn.Linear(channels * (side // 2) ** 2, 10))
model = (load_model(arguments.model) if arguments.model
         else wrap_model(network, stages=["0", "1"], name="untrained", input_size=side))
images = torch.rand(arguments.images, 3, 1, 1) * torch.rand(arguments.images, 3, side, side)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # kilobytes on Linux

began = time.perf_counter()
null = null_distribution(
    model, arguments.stage, images, pairs=arguments.pairs, memory=arguments.memory)
ours = time.perf_counter() - began
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6

activations = model.activations(images[:101], arguments.stage).numpy()
began = time.perf_counter()
for a, b in zip(activations[:-1], activations[1:]):
    stats.pearsonr(a, b), stats.spearmanr(a, b)
loop = (time.perf_counter() - began) / 100 * null.pairs
print(f"{null.pairs:,} pairs of {arguments.images:,} images, {null.units:,} units, "
      f"{torch.get_num_threads()} threads")
print(f"metalib: {ours:.1f} s, peak memory {peak:.2f} GB, of which {before:.2f} GB before "
      "(libraries and images)")
print(f"scipy, pair by pair: {loop / 60:.0f} min, by 100 pairs; {loop / ours:.0f} times as long")
