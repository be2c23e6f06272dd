"""Draw book/picture.png for the README: references and their metamers for two bundled networks.

    make picture
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch

from metalib import generate, load_images, load_model, plots

STAGES = ("group1", "group2", "group3", "logits")

images = load_images("cifar10-samples")[:7]
plots.use_style()
figure, axes = plt.subplots(1, 2, figsize=(13, 5))
for name, ax in zip(("zoo/resnet-standard-0", "zoo/resnet-robust-0"), axes):
    model = load_model(name)
    rows = [images.images, *(generate(model, images, stage, steps=500).images for stage in STAGES)]
    plots.montage(torch.stack(rows), ["reference", *STAGES], ax=ax)
    ax.set_title(f"metamers of {name}, by matched stage", fontsize=13)
figure.tight_layout()
figure.savefig(Path(__file__).with_name("picture.png"), dpi=70)
