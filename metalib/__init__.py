"""Model metamers: images that differ from a reference but evoke the same activations at a stage of a network."""
from metalib import classes, combinations, crossed, external, metrics, nulls, optimizers, priors, representation, starts, store, zoo
from metalib.conformance import check_model
from metalib.data import ImageSet, load_images
from metalib.generate import Metamers, generate
from metalib.models import Model, list_models, load_model, wrap_model
from metalib.nulls import NullDistribution, judge, load_null, null_distribution
from metalib.representation import Responses, representation_test
from metalib.transfer import transfer_study
from metalib.version import __version__

__all__ = ["ImageSet", "Metamers", "Model", "NullDistribution", "Responses", "__version__", "check_model", "classes",
           "combinations", "crossed", "external", "generate", "judge", "list_models", "load_images", "load_model", "load_null",
           "metrics", "null_distribution", "nulls", "optimizers", "priors", "representation", "representation_test", "starts",
           "store", "transfer_study", "wrap_model", "zoo"]
