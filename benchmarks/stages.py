"""The cost of early exit at a stage, beside the layers up to it run by hand; and loading times.

    python benchmarks/stages.py

Ratios are of medians over interleaved repetitions in one run, each of as many calls as take about
50 ms. By hand means: normalise, then call the layers one after the other. Networks are untrained
where their weights would have to be downloaded.
"""

import argparse
import time

import torch

from metalib import list_models, load_model

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--batch", type=int, default=20)
parser.add_argument("--repetitions", type=int, default=15)
parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
arguments = parser.parse_args()

CASES = [  # model, whether its weights are at hand, and the layers up to its first stage
    ("torchvision/resnet50", False, ["conv1", "bn1", "relu"]),
    ("torchvision/vit_b_16", False, ["conv_proj"]),
    ("zoo/resnet-standard-0", True, ["stem"]),
]


def seconds(function, calls=1):
    if arguments.device == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(calls):
        function()
    if arguments.device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / calls


def median(values):
    return sorted(values)[len(values) // 2]


print(f"{arguments.device}, {torch.get_num_threads()} threads, batches of {arguments.batch}, "
      f"torch {torch.__version__}")
for name, pretrained, layers in CASES:
    model = load_model(name, pretrained=pretrained, device=arguments.device)
    images = torch.rand(
        arguments.batch, 3, model.input_size, model.input_size, device=arguments.device)
    modules, stage = [model.module.get_submodule(layer) for layer in layers], model.stages[0]

    def by_hand(model=model, images=images, modules=modules):
        x = ((images - model.mean) / model.std).contiguous(memory_format=model.memory_format)
        for module in modules:
            x = module(x)
        return x.flatten(1)

    with torch.no_grad():
        assert torch.equal(by_hand(), model.activations(images, stage))
        ways = {"stage": lambda model=model, images=images, stage=stage:
                model.activations(images, stage),
                "hand": by_hand, "all": lambda model=model, images=images: model(images)}
        calls = {way: max(1, round(0.05 / min(seconds(function) for _ in range(3))))
                 for way, function in ways.items()}
        times = {way: [] for way in ways}
        for _ in range(arguments.repetitions):
            for way, function in ways.items():
                times[way].append(seconds(function, calls[way]))
    ours, hand, network = (median(times[way]) for way in ("stage", "hand", "all"))
    print(f"{name}, {stage}: {1000 * ours:.1f} ms, {ours / hand:.2f} times its layers by hand; "
          f"the whole network takes {network / ours:.1f} times as long")

for name in list_models("zoo/*"):
    load_model(name)
loads = [seconds(lambda name=name: load_model(name)) for name in list_models("zoo/*")]
print(f"load_model of the {len(loads)} bundled models: {1000 * median(loads):.0f} ms, "
      f"the slowest {1000 * max(loads):.0f} ms")
