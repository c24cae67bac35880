"""An exact space-time patch codec: pixels to latents and back without weights and without loss.

Latents are laid out as Wan's codec lays them out: frame 0 alone is latent 0 (repeated to fill it), latent k holds
frames 4k-3 .. 4k. Source: DESIGN of Wan2.2's causal codec; the patches are our choice for small scale.
"""

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from v4s_lib.worlds.paths import FRAMES_PER_LATENT


def to_pixels(latents: Tensor, patch: int) -> Tensor:
    """Latents (B, C, T, h, w) of a codec with patches of that size to their frames (B, T, 4, H, W, 3), scale kept."""
    x = latents.unflatten(1, (FRAMES_PER_LATENT, patch, patch, 3))  # B 4 p p 3 T h w
    return x.permute(0, 5, 1, 6, 2, 7, 3, 4).flatten(3, 4).flatten(4, 5)


def to_latents(frames: Tensor, patch: int) -> Tensor:
    """Frames (B, T, 4, H, W, 3) to latents (B, C, T, H/p, W/p), scale kept."""
    x = frames.unflatten(3, (-1, patch)).unflatten(5, (-1, patch))  # B T 4 h p w p 3
    return x.permute(0, 2, 4, 6, 7, 1, 3, 5).flatten(1, 4)


def last_frames(latents: Tensor, patch: int) -> Tensor:
    """The last frame (B, T, H, W, 3), in -1..1, of each latent (B, C, T, h, w) of a codec with patches of that size."""
    return to_pixels(latents, patch)[:, :, -1]


def older_frames(latents: Tensor, patch: int) -> Tensor:
    """Latents (B, C, 3T, h, w), each filled with one of the frames of latents (B, C, T, h, w) before their last."""
    frames = to_pixels(latents, patch)[:, :, :-1].flatten(1, 2)
    return to_latents(frames[:, :, None].expand(-1, -1, FRAMES_PER_LATENT, -1, -1, -1), patch)


class PatchCodec(ModelMixin, ConfigMixin):
    """Space-to-depth codec with ``4 * 3 * patch_size**2`` channels a latent pixel.

    Args:
        patch_size: side in pixels of the square patch that becomes one latent pixel.
        scale: latents are ``scale * (rgb - 0.5)``; 2 gives the range -1..1, a larger one more contrast.
    """

    @register_to_config
    def __init__(self, patch_size: int = 8, scale: float = 2.0) -> None:
        super().__init__()
        # Diffusers saves, loads and moves a model by its tensors; a model without any breaks ``to`` and loading.
        self.register_buffer("anchor", torch.zeros(1))

    @property
    def channels(self) -> int:
        return FRAMES_PER_LATENT * 3 * self.config.patch_size**2

    def group(self, frames: Tensor) -> Tensor:
        """Frames (B, F, H, W, 3) to the groups (B, T, 4, H, W, 3) that share a latent; frame 0 fills the first."""
        if frames.shape[1] % FRAMES_PER_LATENT != 1:
            raise ValueError(f"expected 4k+1 frames, got {frames.shape[1]}: drop frames at the end")
        first = frames[:, :1].repeat_interleave(FRAMES_PER_LATENT, dim=1)
        return torch.cat([first, frames[:, 1:]], dim=1).unflatten(1, (-1, FRAMES_PER_LATENT))

    def encode_groups(self, groups: Tensor) -> Tensor:
        """Groups (B, T, 4, H, W, 3) in 0..1 to latents (B, C, T, H/p, W/p)."""
        patch = self.config.patch_size
        height, width = groups.shape[3:5]
        if height % patch or width % patch:
            raise ValueError(f"expected height and width to be multiples of {patch}, got {height}x{width}: resize")
        return (to_latents(groups, patch) - 0.5) * self.config.scale

    def encode(self, frames: Tensor) -> Tensor:
        """Frames (B, F, H, W, 3) in 0..1, F = 4k+1, to latents (B, C, k+1, H/p, W/p)."""
        return self.encode_groups(self.group(frames))

    def decode_groups(self, latents: Tensor) -> Tensor:
        """Latents (B, C, T, h, w) to groups (B, T, 4, H, W, 3) in 0..1; values outside are clipped."""
        return (to_pixels(latents, self.config.patch_size) / self.config.scale + 0.5).clamp(0, 1)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, T, h, w) of a video to its 4T-3 frames (B, F, H, W, 3); latent 0 gives one frame."""
        groups = self.decode_groups(latents)
        first = groups[:, :1].mean(dim=2)
        return torch.cat([first, groups[:, 1:].flatten(1, 2)], dim=1)
