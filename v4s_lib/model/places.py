"""Context and start frames, placed by what they share; see ``sight``, ``alignment``, ``refinement``, ``fusion``."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from v4s_lib.model.alignment import DEPTHS, Pairs, align, between, chain, pair_up, points
from v4s_lib.model.cloud import fine
from v4s_lib.model.codec import last_frames
from v4s_lib.model.fusion import agree
from v4s_lib.model.localizer import FRAMES, fall, pose_matrix, pose_numbers
from v4s_lib.model.refinement import CLOSE, QUICK, USUAL, Pictures, refine
from v4s_lib.model.sight import Seen, Sight
from v4s_lib.worlds.cameras import Camera, to_room

LOOKING = 3  # in training one frame in so many is looked for among all: they are drawn at random, and logits cost most


@dataclass
class PlacedFrames:
    """The last frames of B contexts' P latents."""

    seen: Seen  # (B, P, ...)
    pictures: Pictures
    c2w: Tensor  # (B, P, 4, 4)
    blind: Tensor  # (B,) which contexts are noise: nothing is to be looked for there

    @cached_property
    def down(self) -> Tensor:
        """Where things fall (B, 3), worked out once for all steps of a sampling."""
        return fall(self.c2w)

    def repeat(self, batch: int) -> "PlacedFrames":
        """One row a target, for ``batch`` targets."""

        times = batch // len(self.c2w)

        def change(value: Tensor) -> Tensor:
            return value.repeat_interleave(times, dim=0)

        return PlacedFrames(self.seen.each(change), self.pictures.repeat(times), change(self.c2w), change(self.blind))

    def points(self, sight: Sight, batch: int) -> Tensor:
        """The points (batch, P * N, 3) that their cells show, in the context's axes."""
        own = points(sight, self.seen).place
        with torch.autocast(own.device.type, enabled=False):
            placed = to_room(own, self.c2w)
        return placed.flatten(1, 2).repeat_interleave(batch // len(placed), dim=0)


@dataclass
class Compared:
    """What sight sees in B contexts' P latents and their B*M start frames, and which cells it takes for one place."""

    context: Seen  # (B, P, ...)
    start: Seen  # (B*M, 1, ...)
    context_logits: Tensor  # (B, A * N, 1 + P * N) of every LOOKING-th frame, see Sight.logits
    start_logits: Tensor  # (B*M, N, 1 + P * N)
    cell: int  # pixels that a cell is wide and high


def look_at(sight: Sight, latents: Tensor, seen: Seen) -> tuple[Pictures, Camera]:
    """The last frames of latents (B, C, P, h, w), with the depths that sight has seen in them."""
    color = last_frames(latents, sight.patch).float()
    camera = Camera(*color.shape[2:4], sight.horizontal_fov)
    depth = fine(seen.log_depth, sight).exp().clamp(*DEPTHS).unflatten(-1, color.shape[2:4])
    return Pictures(color.permute(0, 1, 4, 2, 3), depth, sight.cell), camera


@torch.no_grad()
def place_context(
    sight: Sight,
    latents: Tensor,
    seen: Seen,
    guess: Tensor,
    time_index: Tensor,
    blind: Tensor,
    told: Tensor | None = None,
    quick: bool = False,
) -> tuple[Tensor, PlacedFrames]:
    """Where context frames stand, in the axes of the last one, which stands at the identity.

    Args:
        sight: sees the last frame of each latent; for the other three see ``on_the_way``.
        latents: (B, C, P, h, w).
        seen: (B, P, ...) what sight sees in them.
        guess: (B, P, 4, 4, 4) c2w, by the localizer.
        time_index: (B, P) of the latents.
        blind: (B,) which contexts are noise: in those all is as the localizer guesses.
        told: c2w likewise, in training, where nothing is to be worked out.
        quick: refine in a few steps, as is enough for training, and for a first guess.

    Returns:
        c2w of all frames (B, P, 4, 4, 4), and what start frames are compared with: depths on which frames agree.
    """
    count = guess.shape[1]
    if told is not None:
        seen = agree(sight, seen, told[:, :, -1])
        return told, PlacedFrames(seen, look_at(sight, latents, seen)[0], told[:, :, -1], blind)
    pictures, camera = look_at(sight, latents, seen)
    with torch.autocast(guess.device.type, enabled=False):  # bf16 would turn the cameras
        aligned = torch.eye(4, device=guess.device).repeat(len(guess), count, 1, 1)
        if count > 1:
            others, free = ~torch.eye(count, dtype=torch.bool, device=guess.device), slice(0, count - 1)
            pairs, _ = pair_up(sight, seen, seen, others)
            aligned = align(chain(pairs, count), pairs, free)
            aligned = refine(aligned, pictures, camera, free, QUICK if quick else USUAL)
            seen = agree(sight, seen, aligned)
            pictures, _ = look_at(sight, latents, seen)
            if not quick:
                aligned = refine(aligned, pictures, camera, free, USUAL)
        placed = on_the_way(aligned, time_index)
    placed = torch.where(blind[:, None, None, None, None], guess, placed)
    return placed, PlacedFrames(seen, pictures, placed[:, :, -1], blind)


def on_the_way(last: Tensor, time_index: Tensor) -> Tensor:
    """Poses of all four frames of latents (B, P, 4, 4, 4), for a camera that moves evenly from one latent to the next.

    Args:
        last: (B, P, 4, 4) c2w of their last frames.
        time_index: (B, P) of the latents. What lies before the first one goes on as after it; a scan's latent 0 holds
            one frame.
    """
    if last.shape[1] == 1:
        return last[:, :, None].expand(-1, -1, FRAMES, -1, -1)
    numbers, time = pose_numbers(last), time_index.type_as(last)
    step, passed = numbers.diff(dim=1), time.diff(dim=1).clamp(min=1)
    step, passed = (torch.cat([value[:, :1], value], dim=1) for value in (step, passed))
    before = torch.arange(FRAMES - 1, -1, -1, device=last.device) / FRAMES  # latents before the last frame
    share = (before / passed[..., None]) * (time_index > 0)[..., None]
    return pose_matrix(numbers[:, :, None] - share[..., None, None] * step[:, :, None])


@torch.no_grad()
def place_start(
    sight: Sight,
    latents: Tensor,
    seen: Seen,
    frames: PlacedFrames,
    guess: Tensor,
    told: Tensor | None = None,
    quick: bool = False,
) -> tuple[Tensor, Tensor]:
    """Poses of start frames (B*M, 1, 4, 4, 4), placed among the context's ``frames``, and how much of each those show.

    ``latents`` (B*M, C, 1, h, w) are theirs, ``seen`` (B*M, 1, ...) is what sight sees in them; ``guess``
    (B*M, 1, 4, 4, 4), ``told`` and ``quick`` are as in ``place_context``. The share (B*M,) is 1 for a start frame of
    which the context shows all, and near 0 for one of another room.
    """
    frames = frames.repeat(len(guess))
    count = frames.c2w.shape[1]
    pictures, camera = look_at(sight, latents, seen)
    with torch.autocast(guess.device.type, enabled=False):
        pairs, shown = pair_start(sight, seen, frames)
        shared = shown.mean(dim=1) * ~frames.blind
        if told is not None:
            return told, shared
        stands, weight = between(pairs, 1, count)
        best, row = weight[:, 0].argmax(dim=1), torch.arange(len(guess), device=guess.device)
        first = frames.c2w[row, best] @ stands[row, 0, best]
        pairs.of_one = pairs.of_one + count
        poses = torch.cat([frames.c2w, first[:, None]], dim=1)
        poses = align(poses, pairs, slice(count, None))
        effort = QUICK if quick else CLOSE
        poses = refine(poses, frames.pictures.join(pictures), camera, slice(count, None), effort)
        start = poses[:, -1, None, None].expand_as(guess)
    return torch.where(frames.blind[:, None, None, None, None], guess, start), shared


def pair_start(sight: Sight, seen: Seen, frames: PlacedFrames) -> tuple[Pairs, Tensor]:
    """``pair_up`` of start frames (B*M, 1, ...) with as many contexts' ``frames``."""
    everywhere = torch.ones(1, frames.c2w.shape[1], dtype=torch.bool, device=frames.c2w.device)
    return pair_up(sight, seen, frames.seen, everywhere)


def compare(sight: Sight, context_latents: Tensor, target_latents: Tensor) -> Compared:
    """What teaches sight: contexts (B, C, P, h, w) looked at and compared, with their start frames too."""
    context, start = sight(context_latents), sight(target_latents[:, :, :1])
    keys = context.keys.flatten(1, 2)
    others = ~torch.eye(context.keys.shape[1], dtype=torch.bool, device=keys.device)[::LOOKING]
    looking = context.keys[:, ::LOOKING].flatten(1, 2)
    repeated = keys.repeat_interleave(len(target_latents) // len(keys), dim=0)
    with torch.autocast(keys.device.type, enabled=False):  # as in ``pair_up``
        among = sight.logits(looking, keys, others)
        from_start = sight.logits(start.keys.flatten(1, 2), repeated, torch.ones_like(others[:1]))
    return Compared(context, start, among, from_start, sight.cell)
