"""What does an evaluation cost, by network, stage and number of images, on a CPU thread or a GPU?

    python benchmarks/scaling.py                 # some minutes; results/benchmark-scaling.parquet
    python benchmarks/scaling.py --device cuda   # larger batches and CUDA graphs

Each run adds rows for the networks that the table lacks for that device. On a CPU, seconds are
those of the processor and not of the clock, so a busy machine changes them little; on a GPU they
are of the clock. A cost is the difference of a longer and a shorter run of `generate`, over the
evaluations between them; the time of each run is the least of some repeats. Arithmetic is float32,
on a GPU without TF32. Operations are counted by torch (torch.utils.flop_counter: matrix products
and convolutions, a multiplication and an addition as two). ImageNet networks have random weights
here, which takes as long; their stages are the eight that lie nearest to evenly spaced depths.
Parts, per image:

- evaluation: one evaluation (forward to the stage, backward to the pixels) with the published
  update rule, and the bytes that its forward pass keeps for the backward pass
- rule: what `spectral_lbfgs` itself adds to an evaluation once its history is full; it depends only
  on the number of pixels
- batch: an evaluation in batches of several sizes
- show: a forward pass through the whole network
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import tables
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from metalib import Compute, generate, load_images, load_model
from metalib.generation.metamers import FILE, save

SMALL = ["zoo/vgg-standard-0", "zoo/resnet-standard-0", "zoo/cct-standard-0",
         "zoo/convnext-standard-0"]
LARGE = ["torchvision/alexnet", "torchvision/vgg19", "torchvision/resnet18",
         "torchvision/resnet50", "torchvision/convnext_tiny", "torchvision/vit_b_16"]

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("models", nargs="*", default=[*SMALL, *LARGE])
parser.add_argument("--repeats", type=int, default=3)
parser.add_argument("--images", type=int,
                    help="that an ImageNet network is timed with, default 2, on a GPU 32")
parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
parser.add_argument("--folder", type=Path, default=tables.FOLDER, help="of the table")
arguments = parser.parse_args()
GPU = arguments.device == "cuda"
LONGER = 10 if GPU else 1  # by this factor, runs on a GPU have more steps
torch.set_num_threads(1)
torch.backends.cudnn.allow_tf32 = False


def clock():
    if GPU:
        torch.cuda.synchronize()
    return time.perf_counter() if GPU else time.process_time()


def seconds(work):
    """Seconds that a function takes, the least of some repeats."""
    took = []
    for _ in range(arguments.repeats):
        began = clock()
        work()
        took.append(clock() - began)
    return min(took)


def evaluation(model, images, stage, rule="published", first=1, last=5):
    """Seconds of an evaluation of one image, from runs of `first` and of `last` steps.

    On a GPU the two are ten times as far apart.
    """
    def run(steps):
        return lambda: generate(
            model, images, stage, optimizer=rule, steps=steps,
            compute=Compute(batch_size=len(images), exact_batches=False, cuda_graphs=GPU))

    more = LONGER * (last - first)
    run(1)()
    return (seconds(run(first + more)) - seconds(run(first))) / more / len(images)


def operations(model, image, stage):
    """Operations of an evaluation of one image, and of a forward pass of the whole network."""
    with FlopCounterMode(display=False) as both:
        pixels = image.clone().requires_grad_()
        model.unchecked_activations(pixels, stage).square().sum().backward()
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        model(image)
    return both.get_total_flops(), forward.get_total_flops()


def kept(model, image, stage):
    """Bytes that the forward pass of one image keeps for the backward pass, without the weights.

    They are counted, not measured.
    """
    weights = {tensor.untyped_storage().data_ptr() for tensor in model.module.state_dict().values()}
    sizes = {}

    def keep(tensor):
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        # these hold all tensors that were kept, so that no address is used twice
        activations = model.unchecked_activations(image.clone().requires_grad_(), stage)
    keep(activations)
    return sum(size for address, size in sizes.items() if address not in weights)


def stored(model, images, stage):
    """Bytes of one stored metamer with its reference and its start."""
    with tempfile.TemporaryDirectory() as folder:
        save(generate(model, images, stage, steps=1), folder)
        return (Path(folder) / FILE).stat().st_size // len(images)


for name in arguments.models:
    done = tables.read("scaling", arguments.folder)
    if len(done) and name in set(done.loc[done["device"] == arguments.device, "model"]):
        continue
    rows, large = [], name in LARGE
    model = load_model(name, pretrained=not large, device=arguments.device)
    samples = load_images("imagenet-samples" if large else "cifar10-samples",
                          size=model.input_size).images
    samples = samples.repeat((2 if large else 52) if GPU else 1, 1, 1, 1)
    images = (samples[:arguments.images or (32 if GPU else 2)] if large
              else samples[:128 if GPU else 10])
    on_device = images.to(arguments.device)
    depths = (np.linspace(0, len(model.stages) - 1, 8).round().astype(int) if large
              else range(len(model.stages)))
    about = {"model": name, "side": model.input_size,
             "parameters": sum(p.numel() for p in model.parameters())}
    for stage in [model.stages[depth] for depth in dict.fromkeys(depths)]:
        both, forward = operations(model, on_device[:1], stage)
        rows.append({"part": "evaluation", **about, "stage": stage,
                     "units": int(np.prod(model.shapes[stage])), "images": len(images),
                     "operations": both, "kept": kept(model, on_device[:1], stage),
                     "seconds": evaluation(model, images, stage, last=3 if large else 9)})
        print(name, stage, f"{both / 1e9:.3f} G, {1000 * rows[-1]['seconds']:.1f} ms", flush=True)
    with torch.no_grad():
        rows.append({"part": "show", **about, "images": len(images), "operations": forward,
                     "seconds": seconds(
                         lambda model=model, on_device=on_device: model(on_device)) / len(images)})
    if name in (SMALL[0], LARGE[0]):
        first = model.stages[0]
        rows[-1]["bytes"] = stored(model, images, first)
        ours, plain = (evaluation(model, images, first, rule, 25, 45)
                       for rule in ("spectral_lbfgs", "published"))
        rows.append({"part": "rule", **about, "stage": first, "images": len(images),
                     "seconds": ours - plain})
    if name in (SMALL[0], SMALL[2]):
        rows += [{"part": "batch", **about, "stage": "group3", "images": size,
                  "seconds": evaluation(model, samples[:size], "group3", last=9)}
                 for size in ((1, 4, 16, 64, 256, 1024) if GPU else (1, 2, 4, 8, 16))]
    tables.add("scaling", rows, arguments.folder, device=arguments.device, threads=1,
               repeats=arguments.repeats)
