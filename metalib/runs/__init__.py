"""Long runs: recipes, sweeps, notebooks as functions, and the training of the bundled zoo."""
