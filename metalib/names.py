"""Short names of modules: `metalib.starts` is `metalib.generation.starts`, and so on.

    from metalib import plots, starts           # as attributes, imported when they are first used
    from metalib.starts import noise            # as modules
    python -m metalib.sweep study.yml study     # as commands

Each is the module itself under a second name, not a copy. To change a short name, edit `MODULES`.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from importlib.abc import InspectLoader, Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType

MODULES = {
    "classes": "labels",
    "conformance": "models.check",
    "external": "models.public",
    "stages": "models.stages",
    "texture": "models.texture",
    "windows": "models.windows",
    "zoo": "models.zoo",
    "zoo.architectures": "models.zoo.architectures",
    "zoo.train": "runs.train_zoo",
    "combinations": "generation.combinations",
    "feedforward": "generation.feedforward",
    "generate": "generation.generate",
    "graphs": "generation.graphs",
    "optimizers": "generation.optimizers",
    "priors": "generation.priors",
    "spectra": "generation.spectra",
    "stacked": "generation.stacked",
    "starts": "generation.starts",
    "confidence": "evaluation.confidence",
    "coverage": "evaluation.coverage",
    "crossed": "evaluation.crossed",
    "nulls": "evaluation.nulls",
    "representation": "evaluation.representation",
    "seeing": "evaluation.images",
    "transfer": "evaluation.transfer",
    "chapters": "runs.notebooks",
    "claims": "runs.claims",
    "run": "runs.recipe",
    "studies": "runs.studies",
    "sweep": "runs.sweep",
    "tasks": "runs.tasks",
    "plots": "plots",
}
PREFIX = "metalib."


class ShortNames(MetaPathFinder, Loader):
    """Finds modules by their short names."""

    def find_spec(self, fullname, path=None, target=None) -> ModuleSpec | None:
        short = fullname.removeprefix(PREFIX)
        if not fullname.startswith(PREFIX) or MODULES.get(short, short) == short:
            return None
        found = importlib.util.find_spec(PREFIX + MODULES[short])
        return ModuleSpec(fullname, self, origin=found and found.origin)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = module_of(spec.name.removeprefix(PREFIX))
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """The module was executed under its own name; give it back its own spec."""
        if module.__spec__ is not None:
            module.__spec__ = module.__spec__.loader_state

    def get_code(self, fullname: str) -> CodeType | None:
        """The code that `python -m` runs."""
        name = PREFIX + MODULES[fullname.removeprefix(PREFIX)]
        spec = importlib.util.find_spec(name)
        loader = spec and spec.loader
        return loader.get_code(name) if isinstance(loader, InspectLoader) else None


def module_of(short: str) -> ModuleType:
    """The module that a short name stands for, imported if need be."""
    return importlib.import_module(PREFIX + MODULES[short])


def on_demand(package: str) -> Callable[[str], ModuleType]:
    """A `__getattr__` for a package, by which its modules are imported when they are first used."""
    def getter(name: str) -> ModuleType:
        full = f"{package}.{name}"
        if name.startswith("_") or importlib.util.find_spec(full) is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return importlib.import_module(full)

    return getter


def install() -> None:
    """Make short names known to the import system.

    Modules that are loaded get theirs at once: `import metalib.generate` then leaves the function
    `metalib.generate` alone.
    """
    for short, name in MODULES.items():
        if PREFIX + name in sys.modules:
            sys.modules.setdefault(PREFIX + short, sys.modules[PREFIX + name])
    if not any(isinstance(finder, ShortNames) for finder in sys.meta_path):
        sys.meta_path.insert(0, ShortNames())
