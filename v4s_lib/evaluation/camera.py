"""Where was this frame taken? Camera following by render and compare in the known room (DESIGN §7).

The camera that best explains a frame is looked for over the whole free space: a bank of poses on a grid, then the
cross-entropy method (sample around the best poses so far, keep the best, repeat). The instructed pose is never among
the starts. Poses have five degrees of freedom, without roll, as all instructed paths have.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, pad

from v4s_lib.worlds.cameras import Camera, pose
from v4s_lib.worlds.raycast import render
from v4s_lib.worlds.scenes import Scenes

GRID = 5  # bank positions along x and y each
BANK_HEIGHT = 1.45  # metres; refinement goes over HEIGHTS
BANK_YAWS = 24  # every 15 degrees
BANK_PITCHES = (-28.0, -15.0, -5.0)  # degrees
HEIGHTS, PITCHES = (1.1, 1.8), (-40.0, 20.0)  # metres and degrees that refinement may reach
BLUR = 0.7  # pixels; without it the distance is as rough as the pictures' edges
CONTRAST_FLOOR = 0.03  # a frame with less contrast than this (rms, 0..1) is not stretched to look like one with more
ROBUST = 0.1  # differences well below this, in standard deviations of a picture, count squared, larger ones as such
ELSEWHERE = math.radians(45)  # from here on two cameras look elsewhere
INFLATION = 2.0  # of the elite's covariance; below 1.5 the search stalls before it arrives


@dataclass(frozen=True)
class _Level:
    """One stage of the refinement."""

    height: int  # of the compared pictures, pixels
    population: int  # poses rendered a frame and iteration
    iterations: int
    elite: int
    spread: tuple[float, float]  # metres and degrees of sampling added at first; halved every iteration
    chunk: int  # frames rendered at a time


FIRST = _Level(16, 48, 3, 8, (0.10, 4.0), 16)  # from the two best directions, of which the better goes on
COARSE = _Level(16, 48, 3, 8, (0.025, 1.0), 16)
FINE = _Level(32, 24, 4, 6, (0.02, 0.5), 8)


@dataclass(frozen=True)
class Found:
    """The cameras that best explain N frames."""

    c2w: Tensor  # (N, 4, 4)
    residual: Tensor  # (N,) distance of the standardized pictures: 0 equal, about 1 unrelated


class CameraFinder:
    """Finds cameras in one room; made once a room, used for the frames of every method.

    Args:
        scenes: one room.
        camera: intrinsics of the frames; the height must be 16, or a multiple of 32, pixels.
        reach: half width in metres of the square around the room's middle that the bank covers; the paths' own reach.
    """

    def __init__(self, scenes: Scenes, camera: Camera, reach: float = 0.8) -> None:
        if len(scenes) != 1 or (camera.height != COARSE.height and camera.height % FINE.height):
            raise ValueError(
                f"expected one room and frames {COARSE.height} or a multiple of {FINE.height} pixels high, got "
                f"{len(scenes)} rooms and {camera.height} pixels: make one finder a room, resize the frames"
            )
        self.scenes, self.camera = scenes.without_empty_slots(), camera
        low, high = scenes.free_min[0], scenes.free_max[0]
        middle, extent = (low + high) / 2, ((high - low) / 2).clamp(max=reach)
        steps = torch.linspace(-1, 1, GRID)
        self.bank = torch.cartesian_prod(
            middle[0] + extent[0] * steps,
            middle[1] + extent[1] * steps,
            torch.tensor([BANK_HEIGHT]),
            torch.arange(BANK_YAWS) * (2 * math.pi / BANK_YAWS),
            torch.tensor(BANK_PITCHES).deg2rad(),
        )
        self.bank_pictures = self._pictures(self.bank, COARSE)
        limits = [low[0], low[1], HEIGHTS[0], -math.inf, math.radians(PITCHES[0])]
        self.low = torch.tensor(limits)
        self.high = torch.tensor([high[0], high[1], HEIGHTS[1], math.inf, math.radians(PITCHES[1])])

    def find(self, frames: Tensor) -> Found:
        """The camera of each frame (N, H, W, 3) in 0..1, each frame by itself."""
        expected = (self.camera.height, self.camera.width, 3)
        if tuple(frames.shape[1:]) != expected or not torch.isfinite(frames).all():
            raise ValueError(f"expected finite frames (N, {expected}), got {tuple(frames.shape)}: resize them")
        frames = frames.float()
        distance = torch.cdist(self._reduced(frames, COARSE), self.bank_pictures, p=1)
        elite = self._first(frames, distance)
        elite, _ = self._refine(frames, elite, COARSE)
        elite, cost = self._refine(frames, elite[:, : FINE.elite], FINE)
        return Found(_c2w(elite[:, 0]), cost[:, 0])

    def _first(self, frames: Tensor, distance: Tensor) -> Tensor:
        """Elites (N, elite, 5) around the best bank pose, or around the best that looks elsewhere if they lead further.

        ``distance`` (N, bank) is that of the frames from the bank's pictures.
        """
        best = self.bank[distance.argmin(dim=1), 3]
        distance = torch.cat([distance, distance.masked_fill(_turn(self.bank[:, 3], best[:, None]) < ELSEWHERE, 1e9)])
        elite = _together(self.bank[distance.topk(FIRST.elite, largest=False).indices])
        elite, cost = self._refine(frames.repeat(2, 1, 1, 1), elite, FIRST)
        (one, other), (cost, other_cost) = elite.chunk(2), cost[:, 0].chunk(2)
        return torch.where((cost <= other_cost)[:, None, None], one, other)

    def _refine(self, frames: Tensor, elite: Tensor, level: _Level) -> tuple[Tensor, Tensor]:
        """Better elites (N, elite, 5) than the given ones, and their costs, both best first."""
        wanted = self._reduced(frames, level)
        cost = self._cost(elite, wanted, level)
        metres, degrees = level.spread
        spread = torch.tensor([metres, metres, metres / 2, math.radians(degrees), math.radians(degrees)])
        generator = torch.Generator().manual_seed(0)
        for _ in range(level.iterations):
            mean = elite.mean(dim=1, keepdim=True)
            covariance = INFLATION * torch.linalg.vecdot(
                (elite - mean).transpose(1, 2)[:, :, None], (elite - mean).transpose(1, 2)[:, None]
            ) / (elite.shape[1] - 1) + torch.diag(spread**2)
            noise = torch.randn(level.population // 2, 5, generator=generator)  # the same for every frame
            noise = torch.cat([noise, -noise])
            drawn = mean + noise @ torch.linalg.cholesky(covariance).transpose(1, 2)
            drawn = drawn.clamp(self.low, self.high)
            poses = torch.cat([elite, drawn], dim=1)
            cost, order = torch.cat([cost, self._cost(drawn, wanted, level)], dim=1).topk(level.elite, largest=False)
            elite = poses.gather(1, order[..., None].expand(-1, -1, 5))
            spread = spread / 2
        return elite, cost

    def _cost(self, poses: Tensor, wanted: Tensor, level: _Level) -> Tensor:
        """Robust distance (N, K) of the pictures at ``poses`` (N, K, 5) to ``wanted`` (N, D)."""
        pictures = self._pictures(poses.flatten(0, 1), level).unflatten(0, poses.shape[:2])
        return ((pictures - wanted[:, None]).square() + ROBUST**2).sqrt().mean(dim=-1) - ROBUST

    def _pictures(self, poses: Tensor, level: _Level) -> Tensor:
        """The room seen from ``poses`` (N, 5), standardized, (N, D)."""
        height = min(level.height, self.camera.height)
        camera = Camera(height, self.camera.width * height // self.camera.height, self.camera.horizontal_fov)
        room = torch.zeros(len(poses), dtype=torch.long)
        return _standardized(render(self.scenes, room, _c2w(poses), camera, samples=1, chunk=level.chunk).rgb)

    def _reduced(self, frames: Tensor, level: _Level) -> Tensor:
        """Frames (N, H, W, 3) at the level's size, standardized, (N, D)."""
        factor = max(1, self.camera.height // level.height)
        return _standardized(avg_pool2d(frames.permute(0, 3, 1, 2), factor).permute(0, 2, 3, 1))


def _standardized(pictures: Tensor) -> Tensor:
    """Blurred pictures (N, H, W, 3) with each channel's mean taken off, scaled to unit contrast, flat (N, D).

    So a cast of colour or a loss of contrast, as blurry models have them, does not shift the camera that is found.
    """
    weights = torch.exp(-torch.tensor([-2.0, -1, 0, 1, 2]).square() / (2 * BLUR**2))
    weights = (weights / weights.sum()).expand(3, 1, 1, 5)
    blurred = conv2d(pad(pictures.permute(0, 3, 1, 2), (2, 2, 2, 2), mode="replicate"), weights, groups=3)
    blurred = conv2d(blurred, weights.transpose(2, 3), groups=3)
    centred = blurred - blurred.mean(dim=(2, 3), keepdim=True)
    return (centred / (centred.square().mean(dim=(1, 2, 3), keepdim=True).sqrt() + CONTRAST_FLOOR)).flatten(1)


def _together(poses: Tensor) -> Tensor:
    """Bring yaws of (N, K, 5) within half a turn of the first, the best; what looks elsewhere becomes a copy of it."""
    turn = torch.remainder(poses[..., 3] - poses[:, :1, 3] + math.pi, 2 * math.pi) - math.pi
    poses = torch.cat([poses[..., :3], (poses[:, :1, 3] + turn)[..., None], poses[..., 4:]], dim=-1)
    return torch.where((turn.abs() > ELSEWHERE)[..., None], poses[:, :1], poses)


def _turn(yaw: Tensor, other: Tensor) -> Tensor:
    """Angle in radians, at most half a turn, between directions."""
    return (torch.remainder(yaw - other + math.pi, 2 * math.pi) - math.pi).abs()


def _c2w(poses: Tensor) -> Tensor:
    return pose(poses[:, :3], poses[:, 3], poses[:, 4])
