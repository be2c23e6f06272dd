"""Tune one option of every method by the same protocol.

    python benchmarks/tuning.py --images cifar10

Each option has five values, and where the largest of them was the best, a sixth. They are tried on
networks and images that the report does not show: two residual networks, and six test images that
are not among the bundled photographs. There are two goals: "criterion", the gradient evaluations
until an image first passes, within 200 (one that does not pass counts as 400), at three stages; and
"match", the loss after 240 evaluations, at one stage. The score is the geometric mean over models,
stages and images; lower is better. Rows go to `results/benchmark-tuning.parquet`; those that are
there already are passed over.
"""

import argparse

import numpy as np
import tables
import torch

from metalib import generate, load_images, load_model, load_null

RATES = [0.005, 0.01, 0.02, 0.04, 0.08]
LENGTHS = [rate / 4 for rate in RATES]  # momentum of 0.9 makes steps up to ten times as long
VALUES = {  # optimizer: the option that is tuned, its values
    "gradient_descent": ("learning_rate", RATES), "sgd": ("learning_rate", LENGTHS),
    "nesterov": ("learning_rate", LENGTHS),
    "sgd_raw": ("learning_rate", [0.3, 1.0, 3.0, 10.0, 30.0]),
    "rmsprop": ("learning_rate", RATES), "adam": ("learning_rate", RATES),
    "amsgrad": ("learning_rate", RATES), "spectral_adam": ("learning_rate", [*RATES, 0.16]),
    "sign": ("learning_rate", RATES), "lion": ("learning_rate", RATES),
    "conjugate_gradient": ("first_step", RATES), "lbfgs": ("first_step", [*RATES, 0.16]),
    "spectral_lbfgs": ("exponent", [0.125, 0.25, 0.375, 0.5, 0.75]),
}
GOALS = {"criterion": ["group1", "group3", "features"], "match": ["group3"]}

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--images", default="cifar10",
                    help="a source of load_images with a split named test")
parser.add_argument("--models", nargs="*", default=["zoo/resnet-standard-1", "zoo/resnet-robust-1"])
parser.add_argument("--goals", nargs="*", default=list(GOALS), choices=list(GOALS))
parser.add_argument("--optimizers", nargs="*", default=list(VALUES), choices=list(VALUES))
parser.add_argument("--device", default="cpu")
parser.add_argument("--folder", default=tables.FOLDER, help="of the table")
arguments = parser.parse_args()

images = load_images(arguments.images, split="test", n=10, seed=1, size=32)
bundled = load_images("cifar10-samples").images
# near ones are the same photograph, compressed once more as JPEG
known = torch.cdist(images.images.flatten(1), bundled.flatten(1)).amin(1) < 2
images = images[~known][:6]
models = [load_model(name, device=arguments.device) for name in arguments.models]
for goal in arguments.goals:
    for optimizer in arguments.optimizers:
        option, values = VALUES[optimizer]
        for value in values:
            done = tables.read("tuning", arguments.folder)
            if len(done) and ((done["goal"] == goal) & (done["optimizer"] == optimizer)
                              & np.isclose(done["value"].astype(float), value)).any():
                continue
            scores, failed = [], 0
            for model in models:
                for stage in GOALS[goal]:
                    null = load_null(model, stage)
                    metamers = generate(
                        model, images, stage, optimizer=(optimizer, {option: value}),
                        check_every=2, **({"stop": null, "steps": 200} if goal == "criterion"
                                          else {"steps": 240}))
                    passed = torch.tensor([status == "passed" for status in metamers.status])
                    failed += int((~passed).sum()) if goal == "criterion" else 0
                    cost = torch.where(passed, metamers.evaluations, 400)
                    scores.append(
                        (cost.float() if goal == "criterion" else metamers.loss[-1]).log())
            row = {"goal": goal, "optimizer": optimizer, "option": option, "value": value,
                   "score": torch.stack(scores).mean().exp().item(), "failed": failed,
                   "models": " ".join(arguments.models), "images": images.name, "n": len(images)}
            tables.add("tuning", [row], arguments.folder)
            print(f"{goal:10s}{optimizer:20s}{option} {value:<8g} {row['score']:8.4g}   "
                  f"{failed} failed", flush=True)
