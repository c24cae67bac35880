"""Context and start frames, placed by what they share with each other; see ``sight`` and ``alignment``."""

from dataclasses import dataclass

import torch
from torch import Tensor

from v4s_lib.model.alignment import align, pair_up
from v4s_lib.model.sight import Seen, Sight
from v4s_lib.worlds.cameras import inverse


@dataclass
class PlacedFrames:
    """The last frames of B contexts' P latents."""

    seen: Seen  # (B, P, ...)
    c2w: Tensor  # (B, P, 4, 4)
    blind: Tensor  # (B,) which contexts are noise: nothing is to be looked for there

    def repeat(self, batch: int) -> "PlacedFrames":
        """One row a target, for ``batch`` targets."""

        def change(value: Tensor) -> Tensor:
            return value.repeat_interleave(batch // len(self.c2w), dim=0)

        return PlacedFrames(self.seen.each(change), change(self.c2w), change(self.blind))


@dataclass
class Compared:
    """What sight sees in B contexts' P latents and their B*M start frames, and which cells it takes for one place."""

    context: Seen  # (B, P, ...)
    start: Seen  # (B*M, 1, ...)
    context_logits: Tensor  # (B, P * N, 1 + P * N), see Sight.logits
    start_logits: Tensor  # (B*M, N, 1 + P * N)


@torch.no_grad()
def place_context(sight: Sight, latents: Tensor, guess: Tensor, blind: Tensor) -> tuple[Tensor, PlacedFrames]:
    """Where context frames stand, in the axes of the last one.

    Args:
        sight: sees the last frame of each latent. The other three move with it.
        latents: (B, C, P, h, w).
        guess: (B, P, 4, 4, 4) c2w.
        blind: (B,) which contexts are noise: those stay as guessed.

    Returns:
        c2w of all frames (B, P, 4, 4, 4), and what start frames are to be compared with.
    """
    count, seen = guess.shape[1], sight(latents)
    placed = guess
    if count > 1:
        others = ~torch.eye(count, dtype=torch.bool, device=guess.device)
        with torch.autocast(guess.device.type, enabled=False):  # bf16 would turn the cameras
            aligned = align(guess[:, :, -1], pair_up(sight, seen, seen, others), slice(0, count - 1))
            placed = aligned[:, :, None] @ inverse(guess[:, :, -1:]) @ guess
        placed = torch.where(blind[:, None, None, None, None], guess, placed)
    return placed, PlacedFrames(seen, placed[:, :, -1], blind)


@torch.no_grad()
def place_start(sight: Sight, latents: Tensor, frames: PlacedFrames, guess: Tensor) -> Tensor:
    """Poses of targets (B*M, T, 4, 4, 4), with the start frame's placed among the context's ``frames``.

    ``latents`` (B*M, C, T, h, w) are the targets', the start's first; ``guess`` are their poses in the same axes.
    """
    frames = frames.repeat(len(guess))
    count = frames.c2w.shape[1]
    seen = sight(latents[:, :, :1])
    with torch.autocast(guess.device.type, enabled=False):
        pairs = pair_up(sight, seen, frames.seen, torch.ones(1, count, dtype=torch.bool, device=guess.device))
        pairs.of_one = pairs.of_one + count
        poses = torch.cat([frames.c2w, guess[:, 0, -1:]], dim=1)
        start = align(poses, pairs, slice(count, None))[:, -1, None, None].expand_as(guess[:, :1])
    start = torch.where(frames.blind[:, None, None, None, None], guess[:, :1], start)
    return torch.cat([start, guess[:, 1:]], dim=1)


def compare(sight: Sight, context_latents: Tensor, target_latents: Tensor) -> Compared:
    """What teaches sight: contexts (B, C, P, h, w) looked at and compared, with their start frames too."""
    context, start = sight(context_latents), sight(target_latents[:, :, :1])
    keys = context.keys.flatten(1, 2)
    others = ~torch.eye(context.keys.shape[1], dtype=torch.bool, device=keys.device)
    repeated = keys.repeat_interleave(len(target_latents) // len(keys), dim=0)
    return Compared(
        context,
        start,
        sight.logits(keys, keys, others),
        sight.logits(start.keys.flatten(1, 2), repeated, torch.ones_like(others[:1])),
    )
