"""One interface for both codecs: the exact patches of small scale, and Wan's autoencoder of full scale.

Both lay latents out alike: frame 0 alone is latent 0, latent k holds frames 4k-3 .. 4k. Wan's latents are the mode of
its posterior, never a draw, and are normalised with the means and deviations of its config, as its pipelines do it.
Both are loaded in float32, whatever the transformer computes in.
"""

import hashlib
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from v4s_lib.model.codec import PatchCodec
from v4s_lib.model.weights import check_keys, weight_files
from v4s_lib.worlds.paths import FRAMES_PER_LATENT

Codec = PatchCodec | AutoencoderKLWan
CODECS = {"PatchCodec": PatchCodec, "AutoencoderKLWan": AutoencoderKLWan}
PATCH = "patch:"  # before the side of a patch in pixels: a codec that needs no folder


def load_codec(place: str | Path) -> Codec:
    """The codec ``patch:SIDE``, or the one saved in a folder, in float32 and with every key of its weights.

    Raises:
        FileNotFoundError: there is no codec in the folder.
        ValueError: it is none of ``CODECS``, its weights do not fit its config, or its latents are laid out otherwise.
    """
    if str(place).startswith(PATCH):
        side = str(place).removeprefix(PATCH)
        if not side.isdecimal() or int(side) < 1:
            raise ValueError(f"expected {PATCH} and the side of a patch in pixels, got {place}: write {PATCH}8")
        return PatchCodec(int(side)).eval()
    folder = Path(place)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"expected a codec in {folder}, got no config.json: give its folder, or {PATCH}8")
    name = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("_class_name")
    if name not in CODECS:
        raise ValueError(f"expected a codec out of {', '.join(CODECS)} in {folder}, got {name}: choose another folder")
    weight_files(folder)  # names the file that is missing
    loading = {"use_safetensors": True, "output_loading_info": True, "torch_dtype": torch.float32}
    codec, info = CODECS[name].from_pretrained(folder, **loading)
    check_keys(folder, info["missing_keys"], info["unexpected_keys"])
    check_codec(codec)
    return codec.eval()


def check_codec(codec: Codec) -> None:
    """Refuse a Wan autoencoder that does not put four frames into a latent, or states no norm for each channel."""
    if isinstance(codec, PatchCodec):
        return
    frames = 2 ** sum(codec.config.temperal_downsample)  # diffusers' spelling
    if frames != FRAMES_PER_LATENT:
        raise ValueError(f"expected a codec with {FRAMES_PER_LATENT} frames a latent, got {frames}: choose another")
    norms = (len(codec.config.latents_mean), len(codec.config.latents_std))
    if norms != (codec.config.z_dim,) * 2:
        raise ValueError(
            f"expected {codec.config.z_dim} latents_mean and latents_std in the codec's config, got {norms[0]} and "
            f"{norms[1]}: use the config that came with the weights"
        )


def pixels_a_latent(codec: Codec) -> int:
    """Side in pixels of the square that becomes one latent pixel."""
    if isinstance(codec, PatchCodec):
        return codec.config.patch_size
    return 2 ** (len(codec.config.dim_mult) - 1) * (codec.config.patch_size or 1)


def latent_shape(codec: Codec, height: int, width: int) -> tuple[int, int, int]:
    """Channels, rows and columns of one latent of frames of that size in pixels."""
    side = pixels_a_latent(codec)
    if min(height, width) < side or height % side or width % side:
        raise ValueError(
            f"expected height and width to be multiples of the codec's {side} pixels, got {height}x{width}: "
            "choose another size"
        )
    channels = codec.channels if isinstance(codec, PatchCodec) else codec.config.z_dim
    return channels, height // side, width // side


@torch.no_grad()
def encode_video(codec: Codec, frames: Tensor) -> Tensor:
    """Frames (F, H, W, 3), uint8, F = 4k+1, to latents (C, k+1, h, w), float32, on the codec's device."""
    if len(frames) % FRAMES_PER_LATENT != 1:  # Wan's encoder would leave out the last ones and not say so
        raise ValueError(f"expected 4k+1 frames, got {len(frames)}: drop frames at the end")
    latent_shape(codec, *frames.shape[1:3])
    return encode_frames(codec, frames[None] / 255, codec.device)[0]


@torch.no_grad()
def encode_frames(codec: Codec, frames: Tensor, device: str | torch.device) -> Tensor:
    """Frames (B, F, H, W, 3) in 0..1, F = 4k+1, to latents (B, C, k+1, h, w), float32, on ``device``.

    The codec computes there, in its own type; where it is offloaded, it comes for it.
    """
    if isinstance(codec, PatchCodec):
        return codec.encode(frames.to(device))
    video = (2 * frames.permute(0, 4, 1, 2, 3) - 1).to(device, codec.dtype)  # a long scan is gigabytes: moved last
    latents = codec.encode(video).latent_dist.mode().float()
    mean, deviation = _norms(codec, latents)
    return (latents - mean) / deviation


@torch.no_grad()
def decode_latents(codec: Codec, latents: Tensor) -> Tensor:
    """Latents (B, C, T, h, w) to their 4T-3 frames (B, F, H, W, 3) in 0..1, float32; values outside are clipped."""
    if isinstance(codec, PatchCodec):
        return codec.decode(latents)
    mean, deviation = _norms(codec, latents)
    video = codec.decode((latents * deviation + mean).to(codec.dtype)).sample.float()
    return (video.permute(0, 2, 3, 4, 1) + 1) / 2


def _norms(codec: AutoencoderKLWan, latents: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel of latents (B, C, T, h, w), of a shape that meets theirs."""
    norms = (codec.config.latents_mean, codec.config.latents_std)
    return tuple(latents.new_tensor(norm)[:, None, None, None] for norm in norms)


def config_digest(codec: Codec) -> str:
    """sha256 of the codec's config, without the keys in which diffusers notes its version and the folder."""
    config = {key: value for key, value in codec.config.items() if not key.startswith("_")}
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
