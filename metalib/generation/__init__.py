"""From references to metamers: objective, update rule, loop."""
