"""A Wan pipeline's autoencoder, text encoder and transformer, of stock classes, tiny and random."""

from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel

from v4s_lib.training.tiny import TINY_AUTOENCODER, save_encoders, save_text_encoder, tiny_autoencoder

__all__ = ["TINY_AUTOENCODER", "save_encoders", "save_pipeline", "save_text_encoder", "tiny_transformer", "tiny_wan"]


def tiny_wan(seed: int = 0, **changes: object) -> AutoencoderKLWan:
    return tiny_autoencoder(TINY_AUTOENCODER | changes, seed)


def tiny_transformer() -> WanTransformer3DModel:
    """For the latents of ``tiny_wan`` and the text of ``save_text_encoder``; 16 pixels a token."""
    sizes = {"num_attention_heads": 2, "attention_head_dim": 24, "num_layers": 2, "ffn_dim": 64, "freq_dim": 32}
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = WanTransformer3DModel(in_channels=3, out_channels=3, text_dim=8, **sizes)
        for parameter in model.parameters():  # norms start at one and biases at zero: there a swap would not show
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def save_pipeline(folder: Path) -> Path:
    """The parts of a Wan pipeline in folders of their own, as diffusers and transformers save them."""
    tiny_transformer().save_pretrained(folder / "transformer")
    return save_encoders(folder)
