"""Run the published procedure to its end, 24,000 steps an image, and keep what it reaches.

    python benchmarks/published.py zoo/vgg-robust-0 zoo/cct-standard-0

This takes hours, and is done once. It adds one row per model, stage and image to
`book/full/published.csv`: the loss after each block of 3,000 steps, and the judgement of the 8-bit
image at the end. A stage of a model whose rows are there, made with the same weights, is passed
over, so a run that was stopped goes on. The chapter on generation compares other methods with these
rows.
"""

import argparse
from pathlib import Path

import pandas as pd

from metalib import generate, judge, load_images, load_model, load_null

BLOCK, BLOCKS = 3000, 8
KEYS = ["model", "stage", "weights"]

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("models", nargs="+")
parser.add_argument("--stages", nargs="*", help="default: all stages of each model")
parser.add_argument("--n", type=int, default=10, help="of the bundled photographs")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--device", default="cpu")
parser.add_argument("--out", type=Path,
                    default=Path(__file__).parents[1] / "book" / "full" / "published.csv")
arguments = parser.parse_args()

images = load_images("cifar10-samples", n=arguments.n, seed=arguments.seed)
for name in arguments.models:
    model = load_model(name, device=arguments.device)
    for stage in arguments.stages or model.stages:
        done = (pd.read_csv(arguments.out) if arguments.out.is_file()
                else pd.DataFrame(columns=KEYS))
        key = dict(zip(KEYS, (name, stage, model.card["sha256"][:12])))
        if (done[KEYS] == pd.Series(key)).all(axis=1).any():
            continue
        metamers = generate(model, images, stage, optimizer="published", steps=BLOCK * BLOCKS,
                            seed=arguments.seed)
        table = judge(model, stage, metamers, load_null(model, stage)).assign(
            **key, seed=arguments.seed)
        for block in range(1, BLOCKS + 1):
            table[f"loss_{block * BLOCK}"] = metamers.loss[block * BLOCK - 1]
        table["hours"] = metamers.seconds / 3600
        # once more, since another process may have added rows
        done = pd.read_csv(arguments.out) if arguments.out.is_file() else None
        partial = arguments.out.with_suffix(".partial")
        pd.concat([done, table]).to_csv(partial, index=False, float_format="%.6g")
        partial.replace(arguments.out)
        print(f"{name}, {stage}: median {table['snr_db'].median():.1f} dB, "
              f"worst {table['snr_db'].min():.1f} dB, "
              f"{table['passed'].sum()} of {len(table)} passed, {metamers.seconds / 60:.0f} min",
              flush=True)
