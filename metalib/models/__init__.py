"""Networks with named stages: found by name or wrapped, read at a stage, checked."""

from metalib.models.model import Model
from metalib.models.registry import list_models, load_model, missing_files
from metalib.models.sources import SOURCES, Source, add_models, full_name
from metalib.models.wrap import wrap_model

from metalib.models import public, zoo  # isort: skip  (each puts its models into SOURCES)

__all__ = ["SOURCES", "Model", "Source", "add_models", "full_name", "list_models", "load_model",
           "missing_files", "public", "wrap_model", "zoo"]
