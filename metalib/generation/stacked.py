"""Models of one architecture, evaluated together: torch.func.vmap over their stacked weights.

`generate(..., compute=Compute(stacked=True))` does this. Networks need forward passes that vmap
takes: no control flow that depends on values and, on a GPU with torch 2.11, no batch
normalisation.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from metalib.models.model import Model


class Stacked:
    """Models of one architecture as one.

    It takes a batch of images for each model, and gives a batch of activations for each. It holds
    a copy of the models' weights, so later changes to the models have no effect on it.

    Args:
        models: Models that are `alike`.
    """

    def __init__(self, models: Sequence[Model]):
        self.models = models
        self.network, self.state = (
            _Reaching(models[0]), stack_module_state([_Reaching(model) for model in models]))

    def unchecked_activations(
        self, images: Tensor, stage: str, identity_relu: bool = False,
    ) -> Tensor:
        """Activations (N * B, D) of images (N * B, 3, H, W), B for each of the N models in turn.

        Otherwise as `Model.unchecked_activations`.

        Raises:
            RuntimeError: networks that vmap does not take.
        """
        inputs = torch.stack([model.normalised(batch) for model, batch
                              in zip(self.models, images.chunk(len(self.models)))])
        each = vmap(lambda parameters, buffers, inputs: functional_call(
            self.network, (parameters, buffers), (inputs, stage, identity_relu)))
        try:
            return each(*self.state, inputs).flatten(0, 1)
        except RuntimeError as error:
            raise RuntimeError(f"torch cannot evaluate these networks together here ({error}); "
                               "generate without stacked") from error


class _Reaching(nn.Module):
    """A model as a module that computes as far as a stage, for functional_call."""

    def __init__(self, model: Model):
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor, stage: str, identity_relu: bool) -> Tensor:
        return self.model.reach(inputs, stage, identity_relu).flatten(1).float()


def alike(models_and_stages: Iterable[tuple[Model, str]]) -> list[list[int]]:
    """Lists of the indices of models that can be evaluated together.

    They have the same architecture, are on the same device and are matched at the same stage.

    Args:
        models_and_stages: pairs of a Model and the name of its stage.

    Example:
        >>> from metalib import load_model
        >>> names = ("vgg-standard-0", "cct-standard-0", "vgg-robust-0")
        >>> models = [load_model(f"zoo/{name}") for name in names]
        >>> alike([(model, "group3") for model in models])
        [[0, 2], [1]]
    """
    kinds: dict[tuple, list[int]] = {}
    for index, (model, stage) in enumerate(models_and_stages):
        shapes = tuple((key, value.shape, value.dtype)
                       for key, value in [*model.named_parameters(), *model.named_buffers()])
        kinds.setdefault((str(model.device), stage, repr(model.module), shapes), []).append(index)
    return list(kinds.values())
