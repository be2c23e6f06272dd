"""Model metamers: images that differ from a reference but evoke the same activations in a network.

All that a notebook needs is here. Modules are reached by their short names, such as
`metalib.plots` or `metalib.starts`; `metalib.names` lists them.
"""

import metalib.loading  # noqa: F401, first: it answers Ctrl-C while the others are imported

# isort: split
from metalib import labels, metrics, names, store
from metalib.data import ImageSet, load_images
from metalib.evaluation import crossed, nulls, representation, transfer
from metalib.evaluation.criterion import Criterion, NullDistribution, judge
from metalib.evaluation.nulls import load_null, null_distribution
from metalib.evaluation.representation import Responses, representation_test
from metalib.evaluation.transfer import transfer_study
from metalib.generation import combinations, metamers, optimizers, priors, starts
from metalib.generation.compute import Compute
from metalib.generation.generate import generate
from metalib.generation.metamers import Metamers
from metalib.models import Model, add_models, list_models, load_model, wrap_model, zoo
from metalib.models import public as external
from metalib.models.check import check_model
from metalib.version import __version__

classes = labels

__all__ = [
    "Compute", "Criterion", "ImageSet", "Metamers", "Model", "NullDistribution", "Responses",
    "__version__", "add_models", "check_model", "classes", "combinations", "crossed", "external",
    "generate", "judge", "list_models", "load_images", "load_model", "load_null", "metrics",
    "null_distribution", "nulls", "optimizers", "priors", "representation", "representation_test",
    "starts", "store", "transfer", "transfer_study", "wrap_model", "zoo"]

names.install()
for _name in ("FILE", "save", "load", "export"):  # of metamers; they were in `store` until 0.1
    setattr(store, _name, getattr(metamers, _name))

__getattr__ = names.on_demand(__name__)  # metalib.plots, metalib.sweep, ...
