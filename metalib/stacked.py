"""Models of one architecture, evaluated together: torch.func.vmap over their stacked weights.

`generate(..., stacked=True)` does so. Networks need forward passes that vmap takes: no control flow that depends on numbers, and
on a GPU, with torch 2.11, no batch normalisation.
"""

import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap


class Stacked:
    """Models of one architecture as one: it takes a batch of images for each of them, and gives a batch of activations for each.

    Holds a copy of their weights, so that changes to the models are not seen.

    Args:
        models: Models that are `alike`.
    """

    def __init__(self, models):
        self.models = models
        self.network, self.state = _Reaching(models[0]), stack_module_state([_Reaching(model) for model in models])

    def unchecked_activations(self, images, stage, identity_relu=False):
        """As `Model.unchecked_activations`: activations (N * B, D) of images (N * B, 3, H, W), for one model after the other."""
        inputs = torch.stack([model.normalised(some) for model, some in zip(self.models, images.chunk(len(self.models)))])
        each = vmap(lambda parameters, buffers, inputs: functional_call(
            self.network, (parameters, buffers), (inputs, stage, identity_relu)))
        try:
            return each(*self.state, inputs).flatten(0, 1)
        except RuntimeError as error:
            raise RuntimeError(f"torch cannot evaluate these networks together here ({error}); generate without stacked") from error


class _Reaching(nn.Module):
    """A model as a module that computes as far as a stage, for functional_call."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, inputs, stage, identity_relu):
        return self.model.reach(inputs, stage, identity_relu).flatten(1).float()


def alike(models_and_stages):
    """Lists of the indices of models that can be evaluated together: one architecture on one device, at one stage.

    Args:
        models_and_stages: pairs of a Model and the name of its stage.

    Example:
        >>> from metalib import load_model
        >>> models = [load_model(f"zoo/{name}") for name in ("vgg-standard-0", "cct-standard-0", "vgg-robust-0")]
        >>> alike([(model, "group3") for model in models])
        [[0, 2], [1]]
    """
    kinds = {}
    for index, (model, stage) in enumerate(models_and_stages):
        shapes = tuple((key, value.shape, value.dtype) for key, value in model.state_dict().items())
        kinds.setdefault((str(model.device), stage, repr(model.module), shapes), []).append(index)
    return list(kinds.values())
