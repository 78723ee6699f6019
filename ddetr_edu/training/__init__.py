"""Training: configuration, trainer, loop, optimiser, the folder of a run."""
