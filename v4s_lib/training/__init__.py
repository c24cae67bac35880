"""Training: presets, loss, optimizer, checkpoints, the loop."""
