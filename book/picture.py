"""Draw book/picture.jpg for the README: photographs and their metamers for three trainings.

    make picture
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch

from metalib import generate, load_images, load_model, plots

TRAININGS = {"standard": "trained on photographs", "noise": "trained on noisy photographs",
             "robust": "trained on adversarial photographs"}
STAGES = ("group1", "group2", "group3", "features")
SHOWN = (4, 7, 17)  # of the bundled photographs, chosen before a metamer was made

plots.use_style()
figure, axes = plt.subplots(1, 3, figsize=(9, 5.1), layout="constrained")
for (training, words), ax in zip(TRAININGS.items(), axes):
    model = load_model(f"zoo/photo-resnet-{training}-0")
    images = load_images("imagenet-samples", size=model.input_size)[list(SHOWN)]
    rows = [images.images, *(generate(model, images, stage, steps=500).images for stage in STAGES)]
    labels = ["reference", *STAGES] if ax is axes[0] else [""] * len(rows)
    plots.montage(torch.stack(rows), labels, ax=ax)
    ax.set_title(words)
figure.savefig(Path(__file__).with_name("picture.jpg"), dpi=145, pil_kwargs={"quality": 80})
