"""Is an evaluation faster with the channels last in memory? Both orders, side by side in one run.

    python benchmarks/layouts.py

The table, results/benchmark-layouts.parquet, has the seconds of an evaluation of a batch up to an
early and a late stage in either order, medians over interleaved repetitions, and their ratio, above
1 where channels last are faster. `wrap_model` takes that order for networks with convolutions that
work with it. Public architectures are untrained.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import tables
import torch

from metalib import generate, load_model

ORDERS = {"channels first": torch.contiguous_format, "channels last": torch.channels_last}
NETWORKS = ["torchvision/alexnet", "torchvision/vgg11_bn", "torchvision/squeezenet1_1",
            "torchvision/resnet18", "torchvision/resnet50", "torchvision/densenet121",
            "torchvision/mobilenet_v2", "torchvision/shufflenet_v2_x1_0",
            "torchvision/efficientnet_b0", "torchvision/convnext_tiny", "torchvision/vit_b_16",
            "timm/tf_efficientnet_lite0", "zoo/resnet-standard-0", "zoo/convnext-standard-0",
            "zoo/cct-standard-0"]


def seconds(model, images, stage, steps):
    began = time.perf_counter()
    generate(model, images, stage, steps=steps, optimizer="adam", progress=False)
    return time.perf_counter() - began


def row_of(name, stage, models, arguments):
    images = torch.rand(arguments.batch, 3, *(models["channels last"].input_shape[1:]))
    times = {order: [] for order in models}
    for repetition in range(arguments.repetitions + 1):
        for order, model in models.items():
            short, long = (seconds(model, images.to(arguments.device), stage, count)
                           for count in (1, 1 + arguments.steps))
            if repetition:  # the first one warms up
                times[order].append((long - short) / arguments.steps)
    found = {order: float(np.median(some)) for order, some in times.items()}
    return {"model": name, "stage": stage, "pixels": images.shape[-1], "batch": arguments.batch,
            **found, "times faster": found["channels first"] / found["channels last"]}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=tables.FOLDER, help="of the table")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    rows = []
    for name in arguments.networks:
        models = {}
        for order, memory_format in ORDERS.items():
            model = load_model(name, pretrained=name.startswith("zoo/"),
                               device=arguments.device)
            model.memory_format = memory_format
            model.module.to(memory_format=memory_format)
            models[order] = model
        stages = models["channels last"].stages
        for stage in (stages[len(stages) // 4], stages[-1]):
            rows.append(row_of(name, stage, models, arguments))
            print(*(f"{key} {value:.3f}" if isinstance(value, float) else value
                    for key, value in rows[-1].items()), flush=True)
            tables.replace("layouts", rows, arguments.folder, threads=torch.get_num_threads())


if __name__ == "__main__":
    main()
