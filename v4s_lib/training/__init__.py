"""Training: presets, loss, optimizers, checkpoints, the loop."""
