"""Smooth camera paths inside a room's free middle, as uniform cubic B-splines.

A B-spline stays inside the convex hull of its control points, and the free middle is convex: no path can collide.
"""

import math

import torch
from torch import Tensor

from v4s_lib.worlds.cameras import pose
from v4s_lib.worlds.scenes import Scenes

APPROACH = 0.6  # metres that a path to an object goes nearer to it than the middle of the room; our choice
FRAMES_PER_LATENT = 4  # as Wan's codec: frame 0 alone is latent 0, latent k holds frames 4k-3 .. 4k


def latent_frames(latents: int) -> int:
    """Number of frames that ``latents`` latents hold."""
    return FRAMES_PER_LATENT * (latents - 1) + 1


def bspline(control: Tensor, frames: int) -> Tensor:
    """Uniform cubic B-spline: control points (S, K, D) to ``frames`` points (S, frames, D), evenly spaced in time."""
    pieces = control.shape[1] - 3
    time = torch.linspace(0, pieces, frames, dtype=torch.float64)
    piece = time.long().clamp(max=pieces - 1)
    t = (time - piece)[:, None]
    weights = [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]
    points = sum(weight / 6 * control[:, piece + k].double() for k, weight in enumerate(weights))
    return points.to(control.dtype)


def _uniform(generator: torch.Generator, shape: tuple[int, ...], low: float, high: float) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)


def _places(scenes: Scenes, generator: torch.Generator, count: int, reach: float) -> Tensor:
    """``count`` positions (S, count, 3) in each free middle, at eye height, within ``reach`` metres of its centre."""
    low, high = scenes.free_min.cpu()[:, None], scenes.free_max.cpu()[:, None]
    middle, extent = (low + high) / 2, ((high - low) / 2).clamp(max=reach)
    place = middle + extent * _uniform(generator, (len(scenes), count, 2), -1, 1)
    height = _uniform(generator, (len(scenes), count, 1), 1.3, 1.6)
    return torch.cat([place, height], dim=-1)


def scan_path(scenes: Scenes, generator: torch.Generator, frames: int, reach: float = 0.8) -> Tensor:
    """A walk that looks around and around, c2w (S, frames, 4, 4).

    The camera turns one way at 4.3 to 4.7 degrees a frame, a little unevenly, while it wanders and nods: which way it
    turns must be seen, how far it has turned the time index nearly tells.
    """
    count = math.ceil(frames / 12) + 3  # one control point every 12 frames
    rate = _uniform(generator, (len(scenes), 1), math.radians(4.3), math.radians(4.7)) * frames / (count - 3)
    sign = torch.randint(0, 2, (len(scenes), 1), generator=generator) * 2 - 1
    steps = sign * rate * _uniform(generator, (len(scenes), count), 0.9, 1.1)
    yaw = _uniform(generator, (len(scenes), 1), -math.pi, math.pi) + steps.cumsum(dim=1)
    pitch = _uniform(generator, (len(scenes), count), math.radians(-20), math.radians(0))
    control = torch.cat([_places(scenes, generator, count, reach), yaw[..., None], pitch[..., None]], dim=-1)
    return _poses(bspline(control, frames))


def target_path(
    scenes: Scenes,
    generator: torch.Generator,
    frames: int,
    reach: float = 0.8,
    turn: tuple[float, float] = (60.0, 200.0),
    around: Tensor | None = None,
    spread: float = 180.0,
) -> Tensor:
    """A path from rest to rest that turns and walks, c2w (S, frames, 4, 4).

    Args:
        scenes: S rooms.
        generator: source of randomness.
        frames: length.
        reach: how far from the middle of the room the path may lead, metres.
        turn: least and most turn from the first frame to the last, degrees, either way.
        around: (S, 4, 4) poses; the first frame looks their way, give or take ``spread`` degrees.
        spread: half width of the uniform offset of the first frame's direction from ``around``.
    """
    count = len(scenes)
    yaw = _uniform(generator, (count,), -math.radians(spread), math.radians(spread))
    if around is not None:
        yaw = yaw + torch.atan2(around[:, 1, 2], around[:, 0, 2])
    sign = torch.randint(0, 2, (count,), generator=generator) * 2 - 1
    total = sign * torch.deg2rad(_uniform(generator, (count,), *turn))
    middle = _uniform(generator, (count,), 0.35, 0.65)
    yaws = torch.stack([yaw, yaw + total * middle, yaw + total], dim=1)
    pitches = _uniform(generator, (count, 3), math.radians(-20), math.radians(0))
    control = torch.cat([_places(scenes, generator, 3, reach), yaws[..., None], pitches[..., None]], dim=-1)
    return _poses(bspline(control[:, [0, 0, 0, 1, 2, 2, 2]], frames))


def object_path(
    scenes: Scenes,
    generator: torch.Generator,
    frames: int,
    goal: Tensor,
    reach: float = 0.8,
    around: Tensor | None = None,
    spread: float = 180.0,
) -> Tensor:
    """A path from rest to rest whose last frame has ``goal`` (S, 3), a point of each room, in its centre.

    It turns the short way and walks up to ``APPROACH`` metres towards the object; the other arguments are those of
    ``target_path``.
    """
    yaw = _uniform(generator, (len(scenes),), -math.radians(spread), math.radians(spread))
    if around is not None:
        yaw = yaw + torch.atan2(around[:, 1, 2], around[:, 0, 2])
    places = _places(scenes, generator, 3, reach)
    low, high = scenes.free_min.cpu(), scenes.free_max.cpu()
    towards = torch.nn.functional.normalize(goal[:, :2] - (low + high) / 2, dim=1)
    near = places[:, 2, :2] + APPROACH * towards
    places[:, 2, :2] = near.clamp(min=low, max=high)
    away = goal - places[:, 2]
    turn = torch.remainder(torch.atan2(away[:, 1], away[:, 0]) - yaw + math.pi, 2 * math.pi) - math.pi
    middle = _uniform(generator, (len(scenes),), 0.35, 0.65)
    yaws = torch.stack([yaw, yaw + turn * middle, yaw + turn], dim=1)
    pitches = _uniform(generator, (len(scenes), 3), math.radians(-20), math.radians(0))
    pitches[:, 2] = torch.atan2(away[:, 2], away[:, :2].norm(dim=1))
    control = torch.cat([places, yaws[..., None], pitches[..., None]], dim=-1)
    return _poses(bspline(control[:, [0, 0, 0, 1, 2, 2, 2]], frames))


def _poses(points: Tensor) -> Tensor:
    return pose(points[..., :3], points[..., 3], points[..., 4])
