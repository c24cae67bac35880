"""The model: latent codec, transformer, pipeline."""
