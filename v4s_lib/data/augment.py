"""Augmentations of a training scan (claim C6): viewpoint, occlusion, lighting. Targets stay as they are.

What is said about a scan stays true: its poses are the tilted ones, and what is close before the lens has a depth, too.
All strengths are our choice.
"""

import torch
from torch import Tensor

from v4s_lib.worlds.cameras import turning

NEAR = 0.2  # metres: the depth of what hides a part of a frame
HIDDEN = -2  # its instance id: no object's, and not the -1 of "nothing is sought"
SIZE = (0.25, 0.5)  # of what hides a part: least and most of a frame's height and width
CAST = 0.25  # of the exposure's deviation: that of each colour


def tilt_scans(c2w: Tensor, degrees: float, metres: float, generator: torch.Generator) -> Tensor:
    """Walks (S, F, 4, 4), each as a whole tilted up or down, and raised or lowered, by up to so much."""
    tilt, lift = (2 * torch.rand(2, len(c2w), generator=generator) - 1) * torch.tensor([[degrees], [metres]])
    right = torch.tensor([1.0, 0.0, 0.0])
    changed = c2w.clone()
    changed[..., :3, :3] = c2w[..., :3, :3] @ turning(tilt[:, None].deg2rad() * right)[:, None]
    changed[..., 2, 3] += lift[:, None]
    return changed


def hide_parts(
    frames: Tensor, instance: Tensor, depth: Tensor, share: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Put a plain rectangle close before the lens in a ``share`` of the latents, the same in all four frames of one.

    Args:
        frames, instance: (S, P, 4, H, W, 3) and (S, P, 4, H, W) of a scan.
        depth: (S, P, H, W) metres, of each latent's last frame.
        share: of the latents.
        generator: source of randomness, on the CPU.
    """
    count, size = depth.shape[:2], depth.shape[2:]
    hit = torch.rand(count, generator=generator) < share
    inside = []
    for length in size:
        extent = SIZE[0] + (SIZE[1] - SIZE[0]) * torch.rand(count, generator=generator)
        first = (1 - extent) * torch.rand(count, generator=generator)
        place = (torch.arange(length) + 0.5) / length
        inside.append((place >= first[..., None]) & (place < (first + extent)[..., None]))
    hidden = (hit[..., None, None] & inside[0][..., None] & inside[1][:, :, None]).to(frames.device)
    color = torch.rand(*count, 1, 1, 1, 3, generator=generator).to(frames)
    return (
        torch.where(hidden[:, :, None, ..., None], color, frames),
        torch.where(hidden[:, :, None], HIDDEN, instance),
        torch.where(hidden, NEAR, depth),
    )


def relight(frames: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Frames (S, P, 4, H, W, 3) with another exposure and white balance in each latent.

    ``strength`` is the standard deviation of the exposure's logarithm; 0.69 is a factor of two.
    """
    exposure, cast = (torch.randn(*frames.shape[:2], size, generator=generator) for size in (1, 3))
    gain = (strength * (exposure + CAST * cast)).exp().to(frames)
    return (frames * gain[:, :, None, None, None]).clamp(max=1)
