"""Long runs: recipes, sweeps, notebooks as functions, and the training of the bundled zoo."""

from metalib import names

__getattr__ = names.on_demand(__name__)
