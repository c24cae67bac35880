"""A latent cache of small scans with text, and the scale that fits it."""

from dataclasses import replace
from pathlib import Path

from tests.model.tiny_wan import save_text_encoder
from tests.training.tiny_scans import encode, frames, write_scan
from v4s_lib.data.video import write_video
from v4s_lib.training.full import TINY

# The patches of 8x8 pixels are exact and need no weights: 768 channels of 4x6 latent pixels.
MODEL = TINY.model | {"in_channels": 768, "out_channels": 768, "text_dim": 8}
SCALE = replace(TINY, name="cached", model=MODEL, width=48, height=32, pixels_a_latent=8, text_tokens=12)
SCALE = replace(SCALE, mixed_precision="no")
LENGTHS = {"a": 16, "b": 14, "phone": 15, "short": 4}  # latents; a target, the gap and the context need 12


def write_cache(folder: Path) -> Path:
    """Two scans with cameras, a video without, and a scan that is too short; all in float32."""
    for seed, (name, latents) in enumerate(LENGTHS.items()):
        if name == "phone":
            write_video(folder / "episodes" / name / "IMG_1.mov", frames(4 * latents - 3, seed), fps=5)
        else:
            write_scan(folder / "episodes" / name, 4 * latents - 3, seed)
    options = {"text-encoder": save_text_encoder(folder / "text"), "text-tokens": 12}
    encode(folder / "episodes", folder / "cache", **options)
    return folder / "cache"
