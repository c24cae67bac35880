"""Which latents of a scan serve as context (PAPER.md §3).

The unit is one latent of the codec: latent 0 holds frame 0 alone, latent k holds frames 4k-3 to 4k.
"""

import torch
from torch import Tensor

from v4s_lib.worlds.paths import FRAMES_PER_LATENT


def latent_frame_range(latent: int) -> range:
    """Frames that a latent holds: one for latent 0, four for every other."""
    if latent < 0:
        raise ValueError(f"expected a latent index of 0 or more, got {latent}: count latents from 0")
    last = FRAMES_PER_LATENT * latent
    return range(max(0, last - FRAMES_PER_LATENT + 1), last + 1)


def sample_context(
    num_latents: int,
    count: int,
    generator: torch.Generator,
    target_start: int | None = None,
    target_latents: int = 0,
    gap: int = 4,
) -> Tensor:
    """Draw context latents of a scan uniformly, without replacement, and keep them in time order (PAPER.md §3).

    Args:
        num_latents: latents in the scan.
        count: how many to draw.
        generator: source of randomness, on the CPU.
        target_start: first latent of the target window; ``None`` when the target is no window of the scan.
        target_latents: length of the target window.
        gap: latents on either side of the target window that hold no context; the paper's is 50.

    Returns:
        Sorted latent indices, int64 (count,).

    Raises ``ValueError`` when the target leaves the scan, or when fewer than ``count`` latents are left for context.
    """
    allowed = torch.arange(num_latents)
    if target_start is not None:
        end = target_start + target_latents
        if target_start < 0 or target_latents < 1 or end > num_latents:
            raise ValueError(
                f"expected a target window inside the scan's {num_latents} latents, "
                f"got {target_start} to {end - 1}: move or shorten it"
            )
        allowed = allowed[outside_gap(num_latents, target_start, target_latents, gap)]
    if not 0 < count <= len(allowed):
        raise ValueError(
            f"expected 1 to {len(allowed)} context latents (the scan has {num_latents}, target and gap taken out), "
            f"got {count}: ask for fewer or use a longer scan"
        )
    chosen = torch.randperm(len(allowed), generator=generator)[:count]
    return allowed[chosen].sort().values


def outside_gap(num_latents: int, first: int, length: int, gap: int) -> Tensor:
    """Which latents (T,) of a scan may be context of the window of ``length`` latents from ``first`` on."""
    latent = torch.arange(num_latents)
    return (latent < first - gap) | (latent >= first + length + gap)


def grouped_frames(latents: Tensor) -> Tensor:
    """Frame numbers (P, 4) that latents (P,) of a scan hold; latent 0 names its one frame four times."""
    return (FRAMES_PER_LATENT * latents[:, None] + torch.arange(1 - FRAMES_PER_LATENT, 1)).clamp(min=0)
