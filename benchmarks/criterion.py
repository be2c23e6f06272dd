"""Gradient evaluations to the criterion on images that no default run uses.

    python benchmarks/criterion.py --images folder:PATH --n 100
    python benchmarks/criterion.py --images cifar10 --n 100 --device cuda

For every bundled model and stage: how many of n CIFAR-10 test images pass within --steps evaluations, and the median, by optimiser,
with the same references and starting images.
"""
import argparse

from metalib import generate, judge, list_models, load_images, load_model, load_null
from metalib.optimizers import OPTIMIZERS

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--images", default="cifar10-samples")
parser.add_argument("--split", help="of the images, such as test")
parser.add_argument("--n", type=int)
parser.add_argument("--steps", type=int, default=200)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--device", default="cpu")
parser.add_argument("--optimizers", nargs="+", default=list(OPTIMIZERS), choices=list(OPTIMIZERS))
parser.add_argument("--models", nargs="+", default=list_models("zoo/*"))
arguments = parser.parse_args()

images = load_images(arguments.images, split=arguments.split, n=arguments.n, seed=arguments.seed, size=32)
print(f"{len(images)} images of {images.name}, at most {arguments.steps} evaluations; passed, median evaluations, seconds in all")
print(f"{'':32s}" + "".join(f"{optimizer:>24s}" for optimizer in arguments.optimizers))
for name in arguments.models:
    model = load_model(name, device=arguments.device)
    for stage in model.stages:
        null = load_null(model, stage)
        cells = []
        for optimizer in arguments.optimizers:
            metamers = generate(model, images, stage, optimizer=optimizer, steps=arguments.steps, seed=arguments.seed, stop=null)
            table = judge(model, stage, metamers, null)
            cells.append(f"{table['passed'].sum():8d}{table['evaluations'].median():8.0f}{metamers.seconds:8.1f}")
        print(f"{name:24s}{stage:8s}" + "".join(cells), flush=True)
