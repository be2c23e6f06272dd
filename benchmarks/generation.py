"""How fast is the loop, beside the published procedure, plenoptic and a bare loop, in one run?

    python benchmarks/generation.py                  # all parts, on a GPU where there is one
    python benchmarks/generation.py --parts speed

Each part writes a table, results/benchmark-speed.parquet and so on, and keeps the rows of other
machines there:

- `speed`: speed and memory
- `rules`: seconds of an evaluation by update rule, on bundled networks
- `rivals`: the seconds until the final match of the published procedure is reached, and those of
  plenoptic
- `precision`: the match that is reached in other arithmetic

These ways are compared:

- `published`: the published procedure, transcribed with its waste, which is a forward pass that is
  thrown away and the whole network for every stage
- `plenoptic`: its Metamer with its own settings (Adam with AMSGrad, rate 0.01, mean square, penalty
  on the range)
- `bare`: forward and backward pass through the layers up to the stage, called by hand, and a step
  without any bookkeeping. This is the limit. It is also measured with these layers compiled; on a
  CPU with freed memory given back, as glibc does where `metalib.generate` does not run; and on a
  GPU with deterministic kernels, as in `metalib`, or recorded as a CUDA graph
- `metalib`: `metalib.generate`, also with the options for the device

Arithmetic is float32 without TF32, unless the name of the way says otherwise. Seconds of a step
come from two runs, one of them with three times as many steps: the difference of their times over
the difference of their steps, the median over interleaved repetitions. Image-steps are gradient
evaluations times images. Memory is the peak above what was in use before the run: on a CPU, of a
separate process; on a GPU, of what PyTorch allocates. The networks are an untrained ResNet-50, an
untrained EfficientNet-Lite0 and a bundled one.
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
import tables
import torch
from torch import nn

from metalib import Compute, generate, load_images, load_model, studies
from metalib.generation.compute import PRECISIONS, keep_freed_memory
from metalib.generation.graphs import Graphed
from metalib.models.stages import hooked

RULES = ("published", "adam", "spectral_adam", "lbfgs", "spectral_lbfgs")
RESNET50 = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2"]
VGG = ["stem", "group1", "group2", "group3"]
LITE0 = ["conv_stem", "bn1", "blocks.0", "blocks.1"]
CASES = [("zoo/vgg-standard-0", "group1", VGG[:2]), ("zoo/vgg-standard-0", "group3", VGG),
         ("torchvision/resnet50", "layer2", RESNET50),
         ("timm/tf_efficientnet_lite0", "blocks.1", LITE0)]  # and the layers up to the stage
BATCH = {"cpu": 8, "cuda": 32}  # the bundled network is given single images, too


class UpTo(nn.Module):
    """The activations of a stage as the output of a module, for plenoptic."""

    def __init__(self, model, stage):
        super().__init__()
        self.model, self.stage = model, stage
        self.training = False

    def forward(self, images):
        return self.model.unchecked_activations(images, self.stage)


def relative(difference, target):
    units = tuple(range(1, target.ndim))
    return (torch.linalg.vector_norm(difference, dim=units)
            / torch.linalg.vector_norm(target, dim=units))


def plenoptic_metamer(model, stage, references, start):
    import plenoptic
    metamer = plenoptic.Metamer(references, UpTo(model, stage))
    metamer.setup(initial_image=start)
    return metamer


def quietly(metamer, steps):
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metamer.synthesize(max_iter=steps, stop_criterion=0)


def ways(name, stage, layers, batch, device, keep=True):  # noqa: C901, one closure for each way
    """The ways that are compared: by name, functions of a number of steps."""
    if keep and device == "cpu":
        keep_freed_memory()  # for all ways
    model = load_model(name, pretrained=name.startswith("zoo/"), device=device)
    random = torch.Generator().manual_seed(0)
    references, start = (
        torch.rand(batch, 3, model.input_size, model.input_size, generator=random).to(device)
        for _ in range(2))
    layers = nn.Sequential(*(model.module.get_submodule(layer) for layer in layers))
    with torch.no_grad():
        target = layers(model.normalised(references))

    def published(steps):
        x = start
        for _ in range(steps):
            with torch.no_grad():
                model(x)
            x = x.detach().requires_grad_()
            outputs = {}
            with hooked(model.module, stage, functools.partial(outputs.__setitem__, stage)):
                model(x)
            loss = relative(outputs[stage] - target, target)
            gradient, = torch.autograd.grad(loss.sum(), x)
            norm = torch.linalg.vector_norm(gradient.flatten(1), dim=1).view(-1, 1, 1, 1)
            x = (x - gradient / (norm + 1e-10)).clamp(0, 1)
            loss.tolist()  # the procedure reads it in every step

    def gradient(x, layers=layers):
        x = x.detach().requires_grad_()
        y = layers(((x - model.mean) / model.std).contiguous(memory_format=model.memory_format))
        return torch.autograd.grad(relative(y - target, target).sum(), x)

    def bare_graphed(steps):
        x, graphed = start, Graphed(gradient)
        for _ in range(steps):
            x = (x - 0.01 * graphed(x)[0]).clamp(0, 1)

    def bare(steps, layers=layers):
        x = start
        for _ in range(steps):
            x = (x - 0.01 * gradient(x, layers)[0]).clamp(0, 1)

    def metalib(**options):
        return lambda steps: generate(
            model, references, stage, start=start, steps=steps, progress=False, **options)

    def plenoptic(steps):
        quietly(plenoptic_metamer(model, stage, references, start), steps)

    found = {"published": published, "plenoptic": plenoptic, "bare": bare,
             "metalib, published": metalib(optimizer="published")}
    if batch > 1:
        found["bare, torch.compile"] = functools.partial(bare, layers=torch.compile(layers))
    options = {"": {}}
    if device == "cuda":
        found["bare, deterministic"] = torch.backends.cudnn.flags(
            enabled=True, deterministic=True, allow_tf32=False)(bare)
        found["bare, CUDA graph"] = bare_graphed
        options |= {", cuda_graphs": {"compute": Compute(cuda_graphs=True)},
                    ", tf32": {"compute": Compute(precision="tf32")},
                    ", bfloat16": {"compute": Compute(precision="bfloat16")}}
    elif batch == 1:
        options[", exact_batches=False"] = {"compute": Compute(exact_batches=False)}
    return found | {f"metalib, {rule}{text}": metalib(**optimizer, **device_options)
                    for text, device_options in options.items()
                    for rule, optimizer in (("adam", {"optimizer": "adam"}), ("default", {}))}


def seconds(function, steps, device):
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    synchronize()
    began = time.perf_counter()
    function(steps)
    synchronize()
    return time.perf_counter() - began


def peak(case, way, steps):
    """Peak memory on a CPU, in MB above that before the run; call it in a process of its own."""
    function = ways(*case, "cpu")[way]
    Path("/proc/self/clear_refs").write_text("5")  # Linux: sets the peak back to what is in use
    before = peak_of_process()
    function(steps)
    return peak_of_process() - before


def step_alone(case, steps, keep):
    """Seconds of a step of the bare loop; call it in a process of its own.

    With `keep`, the process keeps the memory that it frees; otherwise it gives it back.
    """
    bare = ways(*case, "cpu", keep)["bare"]
    bare(2)
    return (seconds(bare, 3 * steps, "cpu") - seconds(bare, steps, "cpu")) / (2 * steps)


def share_given_back(case, steps, repetitions):
    """Speed of the bare loop with freed memory given back, over its speed with it kept."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        kept, given_back = zip(*(
            pool.starmap(step_alone, [(case, steps, keep) for keep in (True, False)], chunksize=1)
            for _ in range(repetitions)))
    return np.median(kept) / np.median(given_back)


def peak_on_gpu(function, steps):
    """Peak of the memory that PyTorch allocates on the GPU, in MB above that before the run."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    function(steps)
    return (torch.cuda.max_memory_allocated() - before) / 2 ** 20


def peak_of_process():
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def speed(arguments):
    rows, many = [], BATCH[arguments.device]
    for case in [(*layers, batch) for layers in CASES
                 for batch in ([1, many] if layers[0].startswith("zoo/") else [many])]:
        functions = ways(*case, arguments.device)
        for function in functions.values():
            function(2)
        once = seconds(functions["bare"], 2, arguments.device) / 2
        steps = max(1, min(100, round(arguments.seconds / once)))
        times = {way: [] for way in functions}
        for _ in range(arguments.repetitions if once < 1 else 2):
            for way, function in functions.items():
                short, long = (seconds(function, count, arguments.device)
                               for count in (steps, 3 * steps))
                times[way].append((long - short) / (2 * steps))
        print(f"\n{case[0]}, {case[1]}, batch {case[3]}: image-steps a second, share of the bare "
              f"loop's, peak memory (MB) after {steps} steps and after {3 * steps}")
        runs = [(way, factor * steps) for way in functions
                for factor in ((1, 3) if way.startswith("metalib") else (1,))]
        if arguments.device == "cuda":
            memory = {(way, count): peak_on_gpu(functions[way], count) for way, count in runs}
        else:
            with multiprocessing.get_context("spawn").Pool(2, maxtasksperchild=1) as pool:
                memory = dict(zip(runs, pool.starmap(
                    peak, [(case, *run) for run in runs], chunksize=1)))
            share = share_given_back(case, steps, min(3, arguments.repetitions))
            times["bare, memory given back"] = [np.median(times["bare"]) / share]
        for way in times:
            rows.append({"model": case[0], "stage": case[1], "batch": case[3], "way": way,
                         "steps": steps, "timed": "between runs",
                         "image-steps a second": case[3] / np.median(times[way]),
                         "share of bare": np.median(times["bare"]) / np.median(times[way]),
                         "peak (MB)": memory.get((way, steps), np.nan),
                         "peak, three times the steps (MB)": memory.get((way, 3 * steps), np.nan)})
            print("  {way:36s}{image-steps a second:9.1f}{share of bare:8.2f}{peak (MB):10.0f}"
                  "{peak, three times the steps (MB):10.0f}".format(**rows[-1]), flush=True)
        save("speed", rows, arguments)


def rules(arguments):
    """Seconds of an evaluation of a batch, rules side by side; the machine should be at rest."""
    rows, images = [], load_images("cifar10-samples", n=arguments.batch)
    for name in arguments.rule_models:
        model = load_model(name, device=arguments.device)
        for stage in ("group1", "group3", "features"):
            functions = {rule: lambda steps, rule=rule, model=model, stage=stage: generate(
                model, images, stage, optimizer=rule, steps=steps, progress=False)
                for rule in RULES}
            times = {rule: [] for rule in RULES}
            for repetition in range(arguments.repetitions + 1):
                for rule, function in functions.items():
                    short, long = (seconds(function, count, arguments.device)
                                   for count in (30, 90))
                    if repetition:  # the first one warms up
                        times[rule].append((long - short) / 60)
            rows += [{"model": name, "stage": stage, "batch": len(images), "optimizer": rule,
                      "seconds": np.median(some)} for rule, some in times.items()]
            print(name, stage, *(f"{rule} {1000 * np.median(some):.1f} ms"
                                 for rule, some in times.items()), flush=True)
            save("rules", rows, arguments)


def rivals(arguments):
    """Seconds until the median match is that of the published procedure after all 24,000 steps."""
    published = studies.table("published")
    published = published[published["evaluations"] == published["evaluations"].max()]
    rows = []
    for (name, stage), ends in published.groupby(["model", "stage"], sort=False):
        if name not in arguments.models:
            continue
        goal = 10 ** (-ends["unrounded_db"].median() / 20)
        model, images = (load_model(name, device=arguments.device),
                         load_images("cifar10-samples", n=len(ends)))
        ours = generate(model, images, stage, steps=arguments.steps,
                        compute=Compute(cuda_graphs=arguments.device == "cuda"))
        reached = (ours.loss.median(1).values <= goal).nonzero().flatten()
        evaluations = reached[0].item() + 1 if len(reached) else None
        taken = ours.seconds * evaluations / arguments.steps if evaluations else float("nan")

        references = images.images.to(arguments.device)
        metamer = plenoptic_metamer(model, stage, references, ours.starts.to(arguments.device))
        target, spent, steps, loss = (
            model.unchecked_activations(references, stage), 0.0, 0, torch.inf)
        while (loss > goal and steps < arguments.plenoptic_steps
               and not spent > 60 * arguments.minutes):
            spent += seconds(
                lambda count, metamer=metamer: quietly(metamer, count), 100, arguments.device)
            steps += 100
            with torch.no_grad():
                activations = model.unchecked_activations(metamer.metamer.clamp(0, 1), stage)
            loss = relative(activations - target, target).median().item()
        rows.append({"model": name, "stage": stage, "goal (dB)": -20 * np.log10(goal),
                     "evaluations": evaluations, "seconds": taken,
                     "plenoptic: steps": steps, "plenoptic: seconds": spent,
                     "plenoptic: dB": -20 * np.log10(loss)})
        print(*(f"{key} {value:.1f}" if isinstance(value, float) else value
                for key, value in rows[-1].items()), flush=True)
        save("rivals", rows, arguments)


def precision(arguments):
    """The match that is reached in each arithmetic, judged in float32, and the seconds it takes."""
    rows = []
    for name in arguments.models:
        model, images = (load_model(name, device=arguments.device),
                         load_images("cifar10-samples"))
        for stage in model.stages:
            rows.append({"model": name, "stage": stage, "evaluations": arguments.steps})
            for kind in PRECISIONS:
                metamers = generate(model, images, stage, steps=arguments.steps,
                                    compute=Compute(precision=kind))
                target, activations = (model.activations(x.to(arguments.device), stage)
                                       for x in (images.images, metamers.images))
                loss = relative(activations - target, target).median().item()
                with np.errstate(divide="ignore"):  # an image that is the reference itself
                    rows[-1] |= {f"{kind} (dB)": -20 * np.log10(loss),
                                 f"{kind} (s)": metamers.seconds}
            print(*(f"{key} {value:.1f}" if isinstance(value, float) else value
                    for key, value in rows[-1].items()), flush=True)
            save("precision", rows, arguments)


def save(part, rows, arguments):
    """Write the rows of a part, and keep the rows of other machines."""
    tables.replace(part, rows, arguments.folder, threads=torch.get_num_threads())


PARTS = {"speed": speed, "rules": rules, "rivals": rivals, "precision": precision}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument(
        "--seconds", type=float, default=2.0, help="of the bare loop in one repetition")
    parser.add_argument("--folder", type=Path, default=tables.FOLDER, help="of the tables")
    parser.add_argument(
        "--models", nargs="*", default=["zoo/vgg-robust-0"], help="for rivals and precision")
    parser.add_argument("--rule-models", nargs="*", help="for rules", default=[
        f"zoo/{name}-robust-0" for name in ("vgg", "resnet", "convnext", "cct")])
    parser.add_argument("--batch", type=int, default=10, help="of images, for rules")
    parser.add_argument(
        "--steps", type=int, default=480, help="of metalib, for rivals and precision")
    parser.add_argument("--plenoptic-steps", type=int, default=5000)
    parser.add_argument(
        "--minutes", type=float, default=3, help="time allowed to plenoptic for one stage")
    arguments = parser.parse_args()
    torch.backends.cudnn.allow_tf32 = False  # convolutions in float32, as matrix products are
    print(f"{arguments.device}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for part in arguments.parts:
        PARTS[part](arguments)
