"""The cost of the transfer study, beside bare forward passes of the images that it shows.

    python benchmarks/transfer.py       # 16 generators, 4 stages, 200 images, all bundled observers
    python benchmarks/transfer.py --generators 4 --images 50       # a small form

Metamers are made before, with few steps, since the cost of showing images does not depend on their
content. For each observer, bare passes of exactly as many batches are timed in the same run, right
before and after a study that shows the metamers. The study includes loading, nulls, similarities,
controls, the files and the table. An observer costs the same however many others there are. On a
CPU, seconds are those of the processor, summed over threads.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch

from metalib import Compute, ImageSet, list_models, load_model, transfer_study

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--generators", type=int, default=16)
parser.add_argument("--stages", nargs="+", default=["group1", "group2", "group3", "features"])
parser.add_argument("--images", type=int, default=200)
parser.add_argument("--batch", type=int, default=100)
parser.add_argument("--observers", nargs="+", default=list_models("zoo/*"))
parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
arguments = parser.parse_args()
# the time of the process does not depend on who else uses the machine
clock = time.perf_counter if arguments.device == "cuda" else time.process_time

pixels = torch.rand(arguments.images, 3, 32, 32, generator=torch.Generator().manual_seed(0))
images = ImageSet((255 * pixels).round() / 255, torch.arange(arguments.images) % 10, (), "noise")
generators = []
for number in range(arguments.generators):
    torch.manual_seed(number)
    name = arguments.observers[number % len(arguments.observers)]
    generators.append(load_model(name, device=arguments.device, pretrained=False))
    generators[-1].name = f"generator {number}"
images_shown = arguments.generators * len(arguments.stages) * arguments.images * 2  # with controls


def bare(name):
    """Seconds for bare forward passes of as many images as an observer is shown."""
    model = load_model(name, device=arguments.device)
    batch = images.images[:arguments.batch].to(arguments.device)
    began = clock()
    with torch.no_grad():
        for _ in range(-(-images_shown // arguments.batch)):
            model(batch)
    if arguments.device == "cuda":
        torch.cuda.synchronize()
    return clock() - began


with tempfile.TemporaryDirectory() as folder:
    options = {"stages": arguments.stages, "steps": 3, "null_images": images, "directory": folder,
               "batch_size": arguments.batch,
               "generation": {"compute": Compute(exact_batches=False)},
               "device": arguments.device, "progress": False}
    transfer_study(generators, generators[:1], images, **options)
    print(f"{arguments.device}, {torch.get_num_threads()} threads, {images_shown:,} images an "
          f"observer, batches of {arguments.batch}")
    ratios = []
    for name in arguments.observers:
        before = bare(name)
        began = clock()
        transfer_study(generators, [name], images, **options)
        assert len(list(Path(folder).glob("*.parquet"))) == (
            (len(ratios) + 2) * images_shown // (2 * arguments.images))
        ours, passes = clock() - began, (before + bare(name)) / 2
        ratios.append((passes, ours))
        print(f"{name}: {images_shown / ours:,.0f} images a second, "
              f"{100 * passes / ours:.0f} % of the speed of bare passes", flush=True)
    print("together: "
          f"{100 * sum(passes for passes, _ in ratios) / sum(ours for _, ours in ratios):.0f} %")
