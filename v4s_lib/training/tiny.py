"""Tiny random stand-ins for the parts of a Wan pipeline that encode, of the stock classes, saved as Wan saves its own.

With them the whole way from a scan to a training step runs in seconds, on any machine. They have learnt nothing.
"""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

# The switches of Wan2.2-TI2V-5B (residual, patches of 2, 4 frames a latent), two levels less, 8 pixels a latent pixel.
TINY_AUTOENCODER = {
    "base_dim": 4,
    "z_dim": 3,
    "dim_mult": [1, 1, 1],
    "num_res_blocks": 1,
    "temperal_downsample": [True, True],  # diffusers' spelling
    "latents_mean": [0.1, -0.2, 0.3],
    "latents_std": [0.5, 1.0, 2.0],
    "is_residual": True,
    "patch_size": 2,
    "in_channels": 12,
    "out_channels": 12,
    "scale_factor_spatial": 8,
}
WORDS = ("<pad>", "</s>", "<unk>", "the", "camera", "moves", "smoothly", "in", "a", "room")
TINY_TEXT = {"vocab_size": len(WORDS), "d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 2, "num_heads": 2}


def tiny_autoencoder(config: dict[str, Any], seed: int = 0) -> AutoencoderKLWan:
    """A Wan autoencoder with random weights; ``config`` is ``TINY_AUTOENCODER``, or that with changes."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoencoderKLWan(**config).eval()


def save_text_encoder(folder: Path) -> Path:
    """Write a random UMT5 of the sizes ``TINY_TEXT`` over ``WORDS``, and its tokenizer; returns ``folder``."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    marks = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **marks).save_pretrained(folder / "tokenizer")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = UMT5EncoderModel(UMT5Config(**TINY_TEXT))
    encoder.save_pretrained(folder / "text_encoder")
    return folder


def save_encoders(folder: Path) -> Path:
    """Write both, in the folders that a Wan pipeline has for them; returns ``folder``."""
    tiny_autoencoder(TINY_AUTOENCODER).save_pretrained(folder / "vae")
    return save_text_encoder(folder)
