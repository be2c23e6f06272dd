"""How fast is the loop? Beside the published procedure, plenoptic and a bare loop, in one run, on a CPU or a GPU.

    python benchmarks/generation.py              # speed and memory; time to the published procedure's final match; bfloat16
    python benchmarks/generation.py --parts speed

Ways: (a) `published`, transcribed with its waste: a forward pass that is thrown away and the whole network for every stage;
(b) `plenoptic`, its Metamer with its own settings (Adam with AMSGrad, rate 0.01, mean square, penalty on the range); (c) `bare`,
forward and backward pass through the layers up to the stage, called by hand, and a step without any bookkeeping: the limit,
also with these layers compiled; (d) `metalib.generate`. Times are medians over interleaved repetitions; image-steps are gradient
evaluations times images.
Memory is the peak of a process of its own above that before the run. Networks: ResNet-50, untrained, and a bundled one.
"""
import argparse
import contextlib
import functools
import io
import multiprocessing
import re
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from metalib import generate, load_images, load_model
from metalib.generate import PRECISIONS
from metalib.stages import hooked

RESNET50 = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2"]
CASES = [("zoo/vgg-standard-0", "group1", ["stem", "group1"], 1), ("zoo/vgg-standard-0", "group1", ["stem", "group1"], 32),
         ("zoo/vgg-standard-0", "group3", ["stem", "group1", "group2", "group3"], 1),
         ("zoo/vgg-standard-0", "group3", ["stem", "group1", "group2", "group3"], 32),
         ("torchvision/resnet50", "layer2", RESNET50, 1), ("torchvision/resnet50", "layer2", RESNET50, 32)]


class UpTo(nn.Module):
    """The activations of a stage as the output of a module, for plenoptic."""

    def __init__(self, model, stage):
        super().__init__()
        self.model, self.stage = model, stage
        self.training = False

    def forward(self, images):
        return self.model.unchecked_activations(images, self.stage)


def relative(difference, target):
    return torch.linalg.vector_norm(difference, dim=1) / torch.linalg.vector_norm(target, dim=1)


def plenoptic_metamer(model, stage, references, start):
    import plenoptic
    metamer = plenoptic.Metamer(references, UpTo(model, stage))
    metamer.setup(initial_image=start)
    return metamer


def quietly(metamer, steps):
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metamer.synthesize(max_iter=steps, stop_criterion=0)


def ways(name, stage, layers, batch, device):
    """A dict of functions of a number of steps."""
    model = load_model(name, pretrained=name.startswith("zoo/"), device=device)
    random = torch.Generator().manual_seed(0)
    references, start = (torch.rand(batch, 3, model.input_size, model.input_size, generator=random).to(device) for _ in range(2))
    layers = nn.Sequential(*(model.module.get_submodule(layer) for layer in layers))
    with torch.no_grad():
        target = model.unchecked_activations(references, stage)

    def published(steps):
        x = start
        for _ in range(steps):
            with torch.no_grad():
                model(x)
            x = x.detach().requires_grad_()
            kept = {}
            with hooked(model.module, stage, functools.partial(kept.__setitem__, stage)):
                model(x)
            loss = relative(kept[stage].flatten(1) - target, target)
            gradient, = torch.autograd.grad(loss.sum(), x)
            norm = torch.linalg.vector_norm(gradient.flatten(1), dim=1).view(-1, 1, 1, 1)
            x = (x - gradient / (norm + 1e-10)).clamp(0, 1)
            loss.tolist()  # it is read in every step

    def bare(steps, layers=layers):
        x = start
        for _ in range(steps):
            x = x.detach().requires_grad_()
            y = layers(((x - model.mean) / model.std).contiguous(memory_format=model.memory_format))
            gradient, = torch.autograd.grad(relative(y.flatten(1) - target, target).sum(), x)
            x = (x - 0.01 * gradient).clamp(0, 1)

    def metalib(**options):
        return lambda steps: generate(model, references, stage, start=start, steps=steps, progress=False, **options)

    def plenoptic(steps):
        quietly(plenoptic_metamer(model, stage, references, start), steps)

    compiled = functools.partial(bare, layers=torch.compile(layers))
    return {"published": published, "plenoptic": plenoptic, "bare": bare, "bare, torch.compile": compiled,
            "metalib, published": metalib(optimizer="published"), "metalib, adam": metalib(optimizer="adam"),
            "metalib, default": metalib(),
            **({"metalib, adam, exact_batches=False": metalib(optimizer="adam", exact_batches=False),
                "metalib, default, exact_batches=False": metalib(exact_batches=False)} if batch == 1 else {})}


def seconds(function, steps, device):
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    synchronize()
    began = time.perf_counter()
    function(steps)
    synchronize()
    return time.perf_counter() - began


def peak(case, way, steps, device):
    """Peak memory in MB above that before the run, in a process of its own."""
    function = ways(*case, device)[way]
    if device == "cuda":
        function(steps)
        return torch.cuda.max_memory_allocated() / 2 ** 20
    Path("/proc/self/clear_refs").write_text("5")  # Linux: sets the peak back to what is in use
    before = peak_of_process()
    function(steps)
    return peak_of_process() - before


def peak_of_process():
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def speed(arguments):
    for case in CASES:
        functions = ways(*case, arguments.device)
        once = seconds(functions["bare"], 2, arguments.device) / 2
        steps = max(3, min(200, round(2 / once)))
        times = {way: [] for way in functions}
        for _ in range(arguments.repetitions if once < 1 else 2):
            for way, function in functions.items():
                times[way].append(seconds(function, steps, arguments.device) / steps)
        print(f"\n{case[0]}, {case[1]}, batch {case[3]}: image-steps a second, share of the bare loop's, peak memory (MB) after "
              f"{steps} steps and after {3 * steps}")
        for way in functions:
            peaks = []
            for factor in (1, 3):
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    peaks.append(pool.apply(peak, (case, way, factor * steps, arguments.device)))
            print(f"  {way:36s}{case[3] / np.median(times[way]):9.1f}{np.median(times['bare']) / np.median(times[way]):8.2f}"
                  f"{peaks[0]:10.0f}{peaks[1]:10.0f}", flush=True)


def match(arguments):
    """Seconds until the median image matches as the published procedure does after all of its 24,000 steps."""
    published = pd.read_csv(Path(__file__).parents[1] / "book" / "full" / "published.csv")
    for (name, stage), rows in published.groupby(["model", "stage"], sort=False):
        if name not in arguments.models:
            continue
        goal = rows["loss_24000"].median()
        model, images = load_model(name, device=arguments.device), load_images("cifar10-samples", n=len(rows))
        ours = generate(model, images, stage, steps=arguments.steps)
        reached = (ours.loss.median(1).values <= goal).nonzero().flatten()
        evaluations = reached[0].item() + 1 if len(reached) else None
        mine = ours.seconds * evaluations / arguments.steps if evaluations else float("nan")

        references = images.images.to(arguments.device)
        metamer = plenoptic_metamer(model, stage, references, ours.starts.to(arguments.device))
        target, spent, steps, loss = model.unchecked_activations(references, stage), 0.0, 0, torch.inf
        while loss > goal and steps < arguments.plenoptic_steps and not spent > 60 * arguments.minutes:
            spent += seconds(lambda count, metamer=metamer: quietly(metamer, count), 100, arguments.device)
            steps += 100
            with torch.no_grad():
                there = model.unchecked_activations(metamer.metamer.clamp(0, 1), stage)
            loss = relative(there - target, target).median().item()
        print(f"{name:22s}{stage:9s} goal {-20 * np.log10(goal):5.1f} dB   metalib: {evaluations} evaluations, {mine:6.1f} s   "
              f"plenoptic: {'' if loss <= goal else f'only {-20 * np.log10(loss):.1f} dB after '}{steps} steps, {spent:6.1f} s   "
              f"ratio of seconds {'' if loss <= goal else 'above '}{spent / mine:.1f}", flush=True)


def precision(arguments):
    """The match that is reached with each arithmetic, judged in float32, and the seconds that it takes."""
    for name in arguments.models:
        model, images = load_model(name, device=arguments.device), load_images("cifar10-samples")
        for stage in model.stages:
            cells = []
            for kind in PRECISIONS:
                metamers = generate(model, images, stage, precision=kind, steps=arguments.steps)
                target, there = (model.activations(x.to(arguments.device), stage) for x in (images.images, metamers.images))
                loss = relative(there - target, target).median().item()
                cells.append(f"{kind} {-20 * np.log10(loss):6.1f} dB, {metamers.seconds:6.1f} s")
            print(f"{name:22s}{stage:9s} after {arguments.steps} evaluations, as 8-bit images: {';  '.join(cells)}", flush=True)


PARTS = {"speed": speed, "match": match, "precision": precision}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--models", nargs="*", default=["zoo/vgg-robust-0"], help="for match and precision")
    parser.add_argument("--steps", type=int, default=480, help="of metalib, for match and precision")
    parser.add_argument("--plenoptic-steps", type=int, default=5000)
    parser.add_argument("--minutes", type=float, default=3, help="time allowed to plenoptic for one stage")
    arguments = parser.parse_args()
    print(f"{arguments.device}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for part in arguments.parts:
        PARTS[part](arguments)
