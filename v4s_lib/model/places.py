"""Context and start frames, placed by what they share; see ``sight``, ``alignment``, ``refinement``, ``fusion``."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from v4s_lib.model.alignment import DEPTHS, Pairs, align, between, chain, pair_up, points
from v4s_lib.model.cloud import fine
from v4s_lib.model.codec import last_frames, older_frames, to_pixels
from v4s_lib.model.fusion import agree
from v4s_lib.model.localizer import FRAMES, fall
from v4s_lib.model.refinement import ALL, CLOSE, CLOSER, QUICK, USUAL, Pictures, refine
from v4s_lib.model.sight import Seen, Sight
from v4s_lib.worlds.cameras import Camera, inverse, rotation_vector, to_room, turning

LOOKING = 3  # in training one frame in so many is looked for among all: they are drawn at random, and logits cost most


@dataclass
class PlacedFrames:
    """The last frames of B contexts' P latents, and n frames whose pixels are looked for in a start frame."""

    seen: Seen  # (B, P, ...)
    c2w: Tensor  # (B, P, 4, 4)
    blind: Tensor  # (B,) which contexts are noise: nothing is to be looked for there
    pictures: Pictures  # (B, n, ...): those last frames or, where sampling works poses out, all four of each latent
    stand: Tensor  # (B, n, 4, 4) of the pictures

    @cached_property
    def down(self) -> Tensor:
        """Where things fall (B, 3), worked out once for all steps of a sampling."""
        return fall(self.c2w)

    def repeat(self, batch: int) -> "PlacedFrames":
        """One row a target, for ``batch`` targets."""

        times = batch // len(self.c2w)

        def change(value: Tensor) -> Tensor:
            return value.repeat_interleave(times, dim=0)

        placed = self.seen.each(change), change(self.c2w), change(self.blind)
        return PlacedFrames(*placed, self.pictures.repeat(times), change(self.stand))

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
    time_index: Tensor,
    blind: Tensor,
    told: Tensor | None = None,
    quick: bool = False,
) -> tuple[Tensor, PlacedFrames]:
    """Where context frames stand, in the axes of the last one, which stands at the identity.

    Args:
        sight: sees the last frame of each latent; for the other three see ``on_the_way`` and ``refine_all``.
        latents: (B, C, P, h, w).
        seen: (B, P, ...) what sight sees in them.
        time_index: (B, P) of the latents.
        blind: (B,) which contexts are noise: those stand at the identity, all of them.
        told: c2w likewise, in training or for ``posed``: no pose is worked out, but depths agree under these.
        quick: refine the last frames alone, in a few steps, and let depths agree among those alone: for training.

    Returns:
        c2w of all frames (B, P, 4, 4, 4), and what start frames are compared with: depths on which frames agree.
    """
    count, device = latents.shape[2], latents.device
    if told is not None:
        last = told[:, :, -1]
        seen = agree(sight, seen, last)
        if not quick:
            _, seen = agree_all(sight, latents, seen, told)
        return told, PlacedFrames(seen, last, blind, look_at(sight, latents, seen)[0], last)
    pictures, camera = look_at(sight, latents, seen)
    with torch.autocast(device.type, enabled=False):  # bf16 would turn the cameras
        aligned = nowhere = torch.eye(4, device=device).repeat(len(latents), count, 1, 1)
        if count > 1:
            others, free = ~torch.eye(count, dtype=torch.bool, device=device), slice(0, count - 1)
            pairs, _ = pair_up(sight, seen, seen, others)
            aligned = align(chain(pairs, count), pairs, free)
            aligned = refine(aligned, pictures, camera, free, QUICK if quick else USUAL)
            seen = agree(sight, seen, aligned)
            pictures, _ = look_at(sight, latents, seen)
            if not quick:
                aligned = refine(aligned, pictures, camera, free, USUAL)
        aligned = torch.where(blind[:, None, None, None], nowhere, aligned)
        frames = to_pixels(latents, sight.patch)
        still = (frames[:, :, 0] == frames[:, :, -1]).flatten(2).all(dim=-1)
        placed = on_the_way(aligned, time_index, still)
    if quick or count == 1:
        return placed, PlacedFrames(seen, placed[:, :, -1], blind, pictures, placed[:, :, -1])
    return refine_all(sight, latents, seen, placed, blind)


def refine_all(sight: Sight, latents: Tensor, seen: Seen, placed: Tensor, blind: Tensor) -> tuple[Tensor, PlacedFrames]:
    """Refine the poses ``placed`` (B, P, 4, 4, 4) of all four frames of each latent; the last one of all stays.

    Four times as many frames tell more of where each of them stands, and of how far away things are. The other
    arguments and what is returned are as in ``place_context``.
    """
    count = latents.shape[2]
    before, last = placed[:, :, :-1].flatten(1, 2), placed[:, :, -1]
    older, (told, seen) = older_frames(latents, sight.patch), agree_all(sight, latents, seen, placed)
    (pictures, camera), (newest, _) = look_at(sight, older, told), look_at(sight, latents, seen)
    pictures, stand = pictures.join(newest), torch.cat([before, last], dim=1)
    with torch.autocast(latents.device.type, enabled=False):
        refined = refine(stand, pictures, camera, slice(0, FRAMES * count - 1), ALL, met=slice(-count, None))
    stand = torch.where(blind[:, None, None, None], stand, refined)
    before, last = stand[:, :-count].unflatten(1, (count, FRAMES - 1)), stand[:, -count:]
    return torch.cat([before, last[:, :, None]], dim=2), PlacedFrames(seen, last, blind, pictures, stand)


def agree_all(sight: Sight, latents: Tensor, seen: Seen, placed: Tensor) -> tuple[Seen, Seen]:
    """Depths of the older three frames of each latent (B, 3 * P, ...) that agree with the newest, then of the newest.

    ``seen`` (B, P, ...) is what sight sees in the newest; all four stand at ``placed`` (B, P, 4, 4, 4).
    """
    older, before, last = older_frames(latents, sight.patch), placed[:, :, :-1].flatten(1, 2), placed[:, :, -1]
    told = agree(sight, sight(older), before, (seen, last))
    return told, agree(sight, seen, last, (told, before))


def on_the_way(last: Tensor, time_index: Tensor, still: Tensor) -> Tensor:
    """Poses of all four frames of latents (B, P, 4, 4, 4), for a camera that moves evenly.

    Args:
        last: (B, P, 4, 4) c2w of their last frames.
        time_index: (B, P) of the latents: how long a camera took from one to the next. Of the two steps that a latent
            is part of, the shorter one says how quickly it moved.
        still: (B, P) whether a latent holds one frame, as a scan's first does.
    """
    if last.shape[1] == 1:
        return last[:, :, None].expand(-1, -1, FRAMES, -1, -1)
    taken = time_index.diff(dim=1).type_as(last).clamp(min=1)
    step = inverse(last[:, :-1]) @ last[:, 1:]
    speed = torch.cat([rotation_vector(step[..., :3, :3]), step[..., :3, 3]], dim=-1) / taken[..., None]
    speed[..., 3:] = (last[:, :-1, :3, :3] @ speed[..., 3:, None])[..., 0]  # in the axes of all
    into, out = (torch.cat(parts, dim=1) for parts in ((speed[:, :1], speed), (speed, speed[:, -1:])))
    first = torch.cat([taken[:, :1], taken], dim=1) <= torch.cat([taken, taken[:, -1:]], dim=1)
    speed = torch.where(first[..., None], into, out) * ~still[..., None]
    back = torch.arange(FRAMES - 1, -1, -1, device=last.device) / FRAMES  # latents before the last frame
    moved = -back[:, None] * speed[:, :, None]  # B P 4 6
    poses = last[:, :, None].repeat(1, 1, FRAMES, 1, 1)
    poses[..., :3, :3] = poses[..., :3, :3] @ turning(moved[..., :3])
    poses[..., :3, 3] = poses[..., :3, 3] + moved[..., 3:]
    return poses


@torch.no_grad()
def place_start(
    sight: Sight,
    latents: Tensor,
    seen: Seen,
    frames: PlacedFrames,
    told: Tensor | None = None,
    quick: bool = False,
) -> tuple[Tensor, Tensor]:
    """Poses of start frames (B*M, 1, 4, 4, 4), placed among the context's ``frames``, and how much of each those show.

    ``latents`` (B*M, C, 1, h, w) are theirs, ``seen`` (B*M, 1, ...) is what sight sees in them; ``told``
    (B*M, 1, 4, 4, 4) is as in ``place_context``. Unless ``quick``, they are refined twice: by the context's pixels and,
    once their depths agree with the context's, by their own, too; those depths serve that alone. Where the context is
    noise they stand at the identity.
    The share (B*M,) is 1 for a start frame of which the context shows all, and near 0 for one of another room.
    """
    frames = frames.repeat(len(latents))
    count = frames.c2w.shape[1]
    pictures, camera = look_at(sight, latents, seen)
    with torch.autocast(latents.device.type, enabled=False):
        pairs, shown = pair_start(sight, seen, frames)
        shared = shown.mean(dim=1) * ~frames.blind
        if told is not None:
            return told, shared
        stands, weight = between(pairs, 1, count)
        best, row = weight[:, 0].argmax(dim=1), torch.arange(len(latents), device=latents.device)
        first = frames.c2w[row, best] @ stands[row, 0, best]
        pairs.of_one = pairs.of_one + count
        poses = torch.cat([frames.c2w, first[:, None]], dim=1)
        first = align(poses, pairs, slice(count, None))[:, count:]
        poses, last = torch.cat([frames.stand, first], dim=1), slice(frames.stand.shape[1], None)
        poses = refine(poses, frames.pictures.join(pictures), camera, last, QUICK if quick else CLOSE)
        if not quick:
            seen = agree(sight, seen, poses[:, -1:], (frames.seen, frames.c2w))
            pictures, _ = look_at(sight, latents, seen)
            poses = refine(poses, frames.pictures.join(pictures), camera, last, CLOSER)
        nowhere = torch.eye(4, device=latents.device)
        start = torch.where(frames.blind[:, None, None], nowhere, poses[:, -1])
    return start[:, None, None].expand(-1, -1, FRAMES, -1, -1), shared


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
