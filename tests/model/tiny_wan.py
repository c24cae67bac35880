"""A Wan pipeline's autoencoder, text encoder and transformer, of stock classes, tiny and random."""

from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

# The switches of Wan2.2-TI2V-5B (residual, patches of 2, 4 frames a latent), two levels less, 8 pixels a latent pixel.
TINY_WAN = {
    "base_dim": 4,
    "z_dim": 3,
    "dim_mult": [1, 1, 1],
    "num_res_blocks": 1,
    "temperal_downsample": [True, True],
    "latents_mean": [0.1, -0.2, 0.3],
    "latents_std": [0.5, 1.0, 2.0],
    "is_residual": True,
    "patch_size": 2,
    "in_channels": 12,
    "out_channels": 12,
    "scale_factor_spatial": 8,
}


def tiny_wan(seed: int = 0, **changes: object) -> AutoencoderKLWan:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoencoderKLWan(**TINY_WAN | changes).eval()


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
    tiny_wan().save_pretrained(folder / "vae")
    return save_text_encoder(folder)


def save_text_encoder(folder: Path) -> Path:
    """A random UMT5 of width 8 with a closed vocabulary, saved as a Wan pipeline saves its own."""
    words = ["<pad>", "</s>", "<unk>", *"the camera moves smoothly in a room".split()]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    marks = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **marks).save_pretrained(folder / "tokenizer")
    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 2, "num_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = UMT5EncoderModel(UMT5Config(vocab_size=len(words), **sizes))
    encoder.save_pretrained(folder / "text_encoder")
    return folder
