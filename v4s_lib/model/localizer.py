"""An optional part that tells a model's later blocks where frames stand. Not in the paper.

Poses, turned into rays, are added to the tokens of the later blocks. Where a model has sight, that says where the
frames of context and start stand (see ``places``). Where it has none, a small head predicts from a latent's tokens the
poses of its four frames, in the axes of the last context frame, and of moving latents without a given path from the
start frame: so it plans. The head is taught with true poses in training; at sampling the model gets nothing but video.
Source: our choice, after prototypes in which localising was the bottleneck.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from v4s_lib.model.blocks import zero_linear
from v4s_lib.model.pose import POSE_FEATURES
from v4s_lib.worlds.cameras import inverse, turning

FRAMES = 4  # a latent
TIME_PERIODS = (4, 8, 16, 32, 64, 128, 256)  # latents, of the waves that tell how long ago a context latent was taken
SMOOTH = 9  # frames, an odd number, over which a head's plan is averaged: two latents and one; our choice
STEEP = 1 - 1e-6  # sine of how far a camera looks up or down at most: straight down has no horizon
LEAN = 1e-3  # radians that a camera which looks straight down is lifted by, for it to have one
KEPT = 1.0  # metres, level, from what a camera goes nearer to; our choice
HELD = 0.002  # how much a video's mean down axis counts for where things fall, beside its right axes; our choice
TIME_WAVES = 2 * len(TIME_PERIODS)


@dataclass
class Told:
    """What the later blocks are told from outside: where frames truly stand, or else which way some of them go."""

    context: Tensor | None = None  # (B, P, 4, 4, 4), in the axes of the last context frame
    target: Tensor | None = None  # (B*M, T, 4, 4, 4), likewise
    path: Tensor | None = None  # (B*M, T, 4, 4, 4), relative to the start frame
    led: Tensor | None = None  # (B*M,) whose planned way this replaces


class Localizer(nn.Module):
    """One zero-initialised adapter of poses' rays for each later block and, without sight, poses from tokens.

    Args:
        dim: width of the tokens.
        tokens: a latent's, for a head; None for a model with sight, which needs none.
        later_blocks: how many there are.
    """

    def __init__(self, dim: int, tokens: int | None, later_blocks: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        if tokens is not None:
            self.hidden = nn.Linear(tokens * dim, 2 * dim)
            self.pose = nn.Linear(2 * dim, FRAMES * 9)
        self.told = Told()
        self.carry = zero_linear(dim, dim)
        self.adapter = nn.ModuleList(zero_linear(POSE_FEATURES["ray_map"], dim) for _ in range(later_blocks))

    def forward(self, states: Tensor, latents: int) -> Tensor:
        """Tokens (B, T*S, D) of T latents to (B, T, 4, 3, 3): right axis, down axis and position of every frame."""
        tokens = self.norm(states.unflatten(1, (latents, -1))).flatten(2)
        numbers = self.pose(nn.functional.gelu(self.hidden(tokens)))
        return numbers.float().unflatten(-1, (FRAMES, 3, 3))

    def way(self, planned: Tensor) -> Tensor:
        """The way (B*M, T, 4, 4, 4) that the later blocks are told where none is given, for the model's own."""
        if self.told.target is not None:
            return self.told.target.expand_as(planned)
        if self.told.path is None:
            return planned
        with torch.autocast(planned.device.type, enabled=False):
            followed = planned[:, :1, -1:] @ self.told.path
        return torch.where(self.told.led[:, None, None, None, None], followed, planned)

    def draw_from(self, embedded: Tensor, states: Tensor) -> Tensor:
        """Tokens for the later blocks: the pixels afresh, and what the blocks before found out about them.

        Blocks that learn to localise drown the pixels they began with, and drawing needs those.
        """
        return embedded + self.carry(self.norm(states)).type_as(embedded)


def pose_numbers(c2w: Tensor) -> Tensor:
    """What the head is to predict for poses (..., 4, 4): right axis, down axis and position, (..., 3, 3)."""
    return torch.stack([c2w[..., :3, 0], c2w[..., :3, 1], c2w[..., :3, 3]], dim=-2)


def pose_matrix(numbers: Tensor) -> Tensor:
    """Rigid c2w (..., 4, 4) from predicted numbers (..., 3, 3), by Gram-Schmidt."""
    right = nn.functional.normalize(numbers[..., 0, :], dim=-1, eps=1e-4)
    down = numbers[..., 1, :] - (right * numbers[..., 1, :]).sum(-1, keepdim=True) * right
    down = nn.functional.normalize(down, dim=-1, eps=1e-4)
    forward = torch.linalg.cross(right, down, dim=-1)
    top = torch.stack([right, down, forward, numbers[..., 2, :]], dim=-1)
    bottom = top.new_tensor([0.0, 0, 0, 1]).expand(*top.shape[:-2], 1, 4)
    return torch.cat([top, bottom], dim=-2)


def place_path(path: Tensor | None, mask: Tensor | None, planned: Tensor, has_context: bool) -> Tensor:
    """The camera path (B, T, 4, 4, 4) in the context's axes or, without a context, in the start frame's.

    Args:
        path: relative to the start frame; None if none is known: then it goes as ``planned``.
        mask: (B,) False where the path is not known; None if all are.
        planned: (B, T, 4, 4, 4) c2w as predicted, the start frame's first.
        has_context: whether the axes are the context's.
    """
    start = planned[:, :1, -1:]
    if not has_context:
        start = torch.eye(4, device=planned.device).expand_as(start)
        with torch.autocast(planned.device.type, enabled=False):
            planned = inverse(planned[:, :1, -1:]) @ planned
    planned = torch.cat([start.expand_as(planned[:, :1]), planned[:, 1:]], dim=1)
    if path is None:
        return planned
    with torch.autocast(path.device.type, enabled=False):  # as in ray_map: bf16 would turn it
        moved = start @ path
    return moved if mask is None else torch.where(mask[:, None, None, None, None], moved, planned)


def smooth(planned: Tensor) -> Tensor:
    """A planned path (B, T, 4, 4, 4) as one movement: every pose a mean over time, the start latent's as it was.

    The head plans each latent by itself, so that plans jump where one ends and the next begins. The mean of the first
    moving frame is of the frames up to it, or it would jump to where the path goes; four frames later it is centred.
    """
    numbers = pose_numbers(planned.flatten(1, 2)).flatten(2).transpose(1, 2)  # B 9 4T
    wide = nn.functional.pad(numbers, [SMOOTH // 2] * 2, mode="replicate")
    mean = nn.functional.avg_pool1d(wide, SMOOTH, stride=1).transpose(1, 2).unflatten(2, (3, 3))
    middle = torch.arange(mean.shape[1], device=mean.device)
    middle[FRAMES : 2 * FRAMES] = 2 * middle[FRAMES : 2 * FRAMES] - 2 * FRAMES
    moved = pose_matrix(mean[:, middle]).view_as(planned)
    return torch.cat([planned[:, :1], moved[:, 1:]], dim=1)


def turn_to(start: Tensor, place: Tensor, down: Tensor, frames: int, nearer: float = 0.0) -> Tensor:
    """The path (B, frames, 4, 4) of a camera that turns until it looks at ``place``: geometry alone.

    It turns the shorter way round, level, from rest to rest, and looks up or down as it goes. What looks straight down
    has the top of its picture ahead, what looks straight up the bottom.

    Args:
        start: (B, 4, 4) c2w, from which it goes on; not itself part of the path.
        place: (B, 3) in the same axes.
        down: (B, 3) of unit length, where things fall, see ``fall``.
        frames: of the path.
        nearer: metres that it goes level towards the place as it turns, but no nearer to it than ``KEPT``.
    """
    with torch.autocast(start.device.type, enabled=False):
        time = torch.linspace(0, 1, frames + 1, device=start.device)[1:]
        done = time.square() * (3 - 2 * time)
        front, sunk = start[:, :3, 2], (start[:, :3, 2] * down).sum(dim=-1, keepdim=True)
        front = torch.where(sunk.abs() > STEEP, front - LEAN * sunk.sign() * start[:, :3, 1], front)
        away = place - start[:, :3, 3]
        (dip, ahead), (_, goal) = (_split(way, down) for way in (front, away))
        step = ((away * goal).sum(dim=-1, keepdim=True) - KEPT).clamp(0, nearer) * goal
        last_dip, _ = _split(away - step, down)
        turn = torch.atan2((torch.linalg.cross(ahead, goal, dim=-1) * down).sum(-1), (ahead * goal).sum(-1))
        ahead = (turning(down[:, None] * (done * turn[:, None])[..., None]) @ ahead[:, None, :, None])[..., 0]
        dip = (dip[:, None] + done * (last_dip - dip)[:, None])[..., None]
        looks = dip.cos() * ahead + dip.sin() * down[:, None]
        right = torch.linalg.cross(down[:, None].expand_as(looks), looks, dim=-1)
        moved = start[:, None, :3, 3] + done[:, None] * step[:, None]
        return pose_matrix(torch.stack([right, torch.linalg.cross(looks, right, dim=-1), moved], dim=-2))


def _split(way: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """By how many radians (B,) a direction (B, 3) dips below the horizon, and where it goes along it (B, 3)."""
    way = nn.functional.normalize(way, dim=-1)
    sunk = (way * down).sum(dim=-1)
    return torch.asin(sunk.clamp(-STEEP, STEEP)), nn.functional.normalize(way - sunk[:, None] * down, dim=-1)


def fall(c2w: Tensor) -> Tensor:
    """Where things fall (B, 3), of unit length, for the cameras (B, P, 4, 4) of a video.

    Cameras are held level: their right axes lie in one plane, and down is across it. Where they hardly turn, their
    own down axes decide.
    """
    with torch.autocast(c2w.device.type, enabled=False):
        right, down = c2w[..., :3, 0], c2w[..., :3, 1].mean(dim=1)
        spread = right.transpose(1, 2) @ right / right.shape[1] - HELD * down[:, :, None] * down[:, None]
        across = torch.linalg.eigh(spread.nan_to_num()).eigenvectors[..., 0]  # it raises at what is not finite
        return torch.where((across * down).sum(dim=-1, keepdim=True) < 0, -across, across)


def time_waves(time_index: Tensor) -> Tensor:
    """Sinusoids (B, T, TIME_WAVES) of how long before the last context latent each one was taken."""
    before = (time_index[:, -1:] - time_index).float()[..., None]
    angle = before * (2 * torch.pi / before.new_tensor(TIME_PERIODS))
    return torch.cat([angle.sin(), angle.cos()], dim=-1)
