"""Public architectures as people bring them: is the loss that is reported the true one?

    python benchmarks/networks.py                      # all, half an hour
    python benchmarks/networks.py timm/xcit_nano_12_p16_224 --folder some

Each untrained network is wrapped, checked, and metamers are made in 5 steps at every default
stage, of one image alone and of a batch of 4. The losses reported for the first and for the last
images are compared with those computed independently: by plain forward hooks on a copy of the
network in float64 that metalib has not touched, one image at a time, so that all that a submodule
returns is that image's. Networks whose rows are there already are passed over, so a run that was
stopped goes on.
"""

import argparse
import copy
import functools
import math
import time
import warnings
from pathlib import Path

import tables
import timm
import torch
import torchvision

from metalib import check_model, generate, load_images, wrap_model

TOLERANCE = 1e-3  # of a loss
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

NETWORKS = {  # side of the images in pixels, and what the library is told
    "torchvision/alexnet": (64, {}),
    "torchvision/convnext_tiny": (64, {}),
    "torchvision/densenet121": (64, {}),
    "torchvision/efficientnet_b0": (64, {}),
    "torchvision/googlenet": (64, {"init_weights": False}),
    "torchvision/inception_v3": (96, {"init_weights": False}),
    "torchvision/maxvit_t": (224, {}),
    "torchvision/mnasnet0_5": (64, {}),
    "torchvision/mobilenet_v2": (64, {}),
    "torchvision/mobilenet_v3_small": (64, {}),
    "torchvision/regnet_y_400mf": (64, {}),
    "torchvision/resnet18": (64, {}),
    "torchvision/resnet50": (64, {}),
    "torchvision/shufflenet_v2_x0_5": (64, {}),
    "torchvision/squeezenet1_1": (64, {}),
    "torchvision/swin_t": (64, {}),
    "torchvision/swin_v2_t": (64, {}),
    "torchvision/vgg11_bn": (64, {}),
    "torchvision/vit_b_16": (64, {"image_size": 64}),
    "timm/beit_base_patch16_224": (64, {"img_size": 64}),
    "timm/botnet26t_256": (128, {"img_size": 128}),
    "timm/cait_xxs24_224": (64, {"img_size": 64}),
    "timm/coat_lite_tiny": (64, {"img_size": 64}),
    "timm/coatnet_pico_rw_224": (64, {"img_size": 64}),
    "timm/convmixer_768_32": (64, {}),
    "timm/crossvit_9_240": (120, {"img_size": 120}),
    "timm/davit_tiny": (64, {}),
    "timm/deit_tiny_distilled_patch16_224": (64, {"img_size": 64}),
    "timm/deit3_small_patch16_224": (64, {"img_size": 64}),
    "timm/dla34": (64, {}),
    "timm/dpn48b": (64, {}),
    "timm/edgenext_xx_small": (64, {}),
    "timm/efficientformer_l1": (224, {}),
    "timm/efficientvit_m0": (128, {"img_size": 128}),
    "timm/eva02_tiny_patch14_224": (56, {"img_size": 56}),
    "timm/fastvit_t8": (64, {}),
    "timm/focalnet_tiny_srf": (64, {}),
    "timm/ghostnetv2_100": (64, {}),
    "timm/gmlp_ti16_224": (64, {"img_size": 64}),
    "timm/hiera_tiny_224": (64, {"img_size": (64, 64)}),
    "timm/hrnet_w18_small": (64, {}),
    "timm/levit_128s": (64, {"img_size": 64}),
    "timm/mixer_s32_224": (64, {"img_size": 64}),
    "timm/mobilenetv4_conv_small": (64, {}),
    "timm/mobilevit_xxs": (64, {}),
    "timm/mvitv2_tiny": (64, {"img_size": 64}),
    "timm/nest_tiny": (64, {"img_size": 64}),
    "timm/nf_ecaresnet26": (64, {}),
    "timm/pit_ti_distilled_224": (64, {"img_size": 64}),
    "timm/poolformer_s12": (64, {}),
    "timm/pvt_v2_b0": (64, {}),
    "timm/repvgg_a0": (64, {}),
    "timm/repvit_m0_9": (64, {}),
    "timm/resmlp_12_224": (64, {"img_size": 64}),
    "timm/resnest14d": (64, {}),
    "timm/sequencer2d_s": (64, {"img_size": 64}),
    "timm/skresnet18": (64, {}),
    "timm/swinv2_cr_tiny_224": (64, {"img_size": 64}),
    "timm/tiny_vit_5m_224": (224, {}),
    "timm/tnt_s_patch16_224": (64, {"img_size": 64}),
    "timm/twins_svt_small": (64, {"img_size": 64}),
    "timm/vit_small_patch14_reg4_dinov2": (56, {"img_size": 56}),
    "timm/vit_tiny_patch16_224": (224, {}),
    "timm/volo_d1_224": (64, {"img_size": 64}),
    "timm/xcit_nano_12_p16_224": (64, {"img_size": 64}),
}


class Independent:
    """The losses of images, by forward hooks on a network in float64, one image after another.

    Args:
        network: a copy in float64.
        stages: whose activations are kept for images that come again.
    """

    def __init__(self, network, stages):
        self.network, self.stages, self.kept = network, stages, {}

    def losses(self, images, references, stage, kept=True):
        """The loss (B,) of each image; NaN for 0 / 0. With `kept`, the images may come again."""
        made = [self._remembered(image) if kept else self.activations(image, [stage])
                for image in images]
        goal = [self._remembered(image) for image in references]
        return torch.stack([
            (a[stage] - b[stage]).norm() / b[stage].norm() for a, b in zip(made, goal)])

    def activations(self, image, stages):
        """For each stage all that its submodule returns (or takes), flattened; the first of it."""
        found = {}

        def keep(stage, inputs, named, output):
            if stage.endswith(":input"):
                output = inputs[0] if inputs else next(iter(named.values()))
            while isinstance(output, (tuple, list)):
                output = output[0]
            found[stage] = output.detach().clone().flatten()

        handles = [
            self.network.get_submodule(stage.removesuffix(":input")).register_forward_hook(
                lambda _module, inputs, named, output, stage=stage:
                keep(stage, inputs, named, output), with_kwargs=True)
            for stage in stages]
        mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1)
                     for values in (MEAN, STD))
        with torch.no_grad():
            self.network(((image.double() - mean) / std)[None])
        for handle in handles:
            handle.remove()
        return found

    def _remembered(self, image):
        key = image.numpy().tobytes()
        if key not in self.kept:
            self.kept[key] = self.activations(image, self.stages)
        return self.kept[key]


def built(name, options):
    """An untrained network, always with the same weights."""
    library, _, rest = name.partition("/")
    torch.manual_seed(0)
    make = timm.create_model if library == "timm" else torchvision.models.get_model
    return make(rest, **options).eval()


def compared(model, independent, references, stage, remarks):
    """The largest difference between reported and independent losses."""
    metamers = generate(model, references, stage, steps=5, progress=False)
    again = generate(model, references, stage, start=metamers.images, steps=1, progress=False)
    reported = torch.stack([metamers.loss[0], again.loss[0]]).double()
    true = torch.stack([independent.losses(metamers.starts, references, stage),
                        independent.losses(metamers.images, references, stage, kept=False)])
    if not (true.isfinite().any() or reported.isfinite().any()):
        remarks.append(f"{stage} is constant, its loss undefined")
        return 0.0
    difference = (reported - true).abs().nan_to_num(torch.inf).max().item()
    if difference > TOLERANCE:
        remarks.append(f"{stage} differs")
    return difference


def tried(function, remarks):
    """What a function returns, or None; an error becomes a remark."""
    try:
        return function()
    except Exception as error:  # noqa: BLE001, whatever goes wrong is the result
        text = " ".join(str(error).rpartition("does not conform:")[2].split()).lstrip("- ")[:300]
        remarks.append(text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}")
        return None


def verdict_of(differences, remarks):
    if None in differences:
        return "fails"
    if max(differences) > TOLERANCE:
        return "differs"
    return "agrees, see the remark" if remarks else "agrees"


def row_of(name, side, options, references):
    began, remarks = time.perf_counter(), []
    network = built(name, options)
    untouched = copy.deepcopy(network).double()
    model = tried(lambda: wrap_model(network, mean=MEAN, std=STD, input_size=side, name=name),
                  remarks)
    if model is None:
        return {"network": name, "pixels": side, "verdict": "refused", "remark": remarks[0]}
    tried(lambda: check_model(model), remarks)
    independent = Independent(untouched, model.stages)
    found = {count: [tried(functools.partial(
        compared, model, independent, references[:count], stage, remarks), remarks)
        for stage in model.stages] for count in (1, len(references))}
    alone, together = (max((difference for difference in differences if difference is not None),
                           default=math.nan) for differences in found.values())
    return {"network": name, "pixels": side, "stages": len(model.stages),
            "names": " ".join(model.stages), "alone": alone,
            "batch of 4": together, "seconds": round(time.perf_counter() - began),
            "verdict": verdict_of(sum(found.values(), []), remarks),
            "remark": "; ".join(dict.fromkeys(remarks))}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--folder", type=Path, default=tables.FOLDER, help="of the table")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    done = set(tables.read("networks", arguments.folder).get("network", []))
    for name in dict.fromkeys(arguments.networks):
        if name in done:
            continue
        side, options = NETWORKS[name]
        row = row_of(name, side, options, load_images("imagenet-samples", n=4, size=side).images)
        tables.add("networks", [row], arguments.folder)
        print(*(f"{value}" for value in row.values()), sep=" | ", flush=True)


if __name__ == "__main__":
    main()
