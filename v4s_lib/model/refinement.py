"""Poses made exact by the pixels themselves: direct image alignment, once places have been matched. Not in the paper.

A cell is some 7 degrees wide, so cells alone tell where a frame stands to a few degrees. A pixel of one frame, put into
the room by its depth, should have its colour in every other frame that shows it: where it has another, the slope of the
picture tells which way the poses are off. A few Gauss-Newton steps follow it, first on blurred pictures, whose slopes
reach farther. Colours are compared as logarithms, and what all pixels of a pair of frames share is taken out: so the
exposure may differ. A pixel counts less the more its colour would change if its depth were wrong. Nothing is learnt;
depths stay as they are given (letting them move gained nothing, model card).
Source: direct sparse odometry (Engel et al., arXiv 1607.02565), without its depths; the numbers are our choice, on
validation rooms.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import conv2d, grid_sample, pad

from v4s_lib.model.alignment import change
from v4s_lib.model.cloud import CLOSEST
from v4s_lib.model.sight import LEAST_CELL
from v4s_lib.worlds.cameras import Camera, cross_matrix, inverse, to_room

BLACK = 0.3  # of 1, added to a colour before its logarithm is taken
DEEPER = 0.2  # standard deviation of a depth, relative: what it would do to the colour found adds to a pixel's doubt
GUESS = (0.3, 0.6)  # standard deviations of the poses that come in: radians, metres
AT_ONCE = {"cpu": 2**15, "cuda": 2**22}  # pixels compared at once: as many as a CPU's cache, or a GPU's memory, holds
BEFORE, BEHIND = 0.6, 1.2  # of the depth that a frame shows there: a pixel that falls outside of it is hidden


@dataclass(frozen=True)
class Effort:
    """How thoroughly frames are compared."""

    blurs: tuple[float, ...] = (0.25, 0.25, 0.25, 0.125, 0.125, 0.125)  # of a cell, standard deviation; a step each
    neighbours: int = 5  # frames whose pixels are looked for in a free one: those that show most of it
    compared: int = 2  # pixels a cell, both ways, at most LEAST_CELL
    different: float = 0.25  # standard deviation of logarithms' differences: where a pixel begins to be let go
    mutual: bool = False  # whether a free frame's pixels are looked for in its neighbours, too; for one free frame


USUAL = Effort()
QUICK = Effort((0.25, 0.125))  # in training
ALL = Effort((0.25, 0.125, 0.125), neighbours=8, different=0.1)  # of all four frames of every latent, together
# Of a start frame, on whose pose a whole clip rests. CLOSE looks for the context's pixels in it, so its own depths, not
# yet agreed on, only choose neighbours and say what is hidden. CLOSER looks for its own pixels, too.
CLOSE = Effort((0.25, 0.25, 0.25, 0.125), neighbours=63, compared=4, different=0.1)
CLOSER = replace(CLOSE, blurs=(0.125, 0.125, 0.0625, 0.0625), mutual=True)


@dataclass
class Pictures:
    """What R rooms' n frames show."""

    color: Tensor  # (R, n, 3, H, W) in -1..1
    depth: Tensor  # (R, n, H, W) metres along the optical axis
    cell: int = LEAST_CELL  # pixels that a cell is wide and high

    def join(self, other: "Pictures") -> "Pictures":
        """The frames of both."""
        pairs = ((self.color, other.color), (self.depth, other.depth))
        return Pictures(*(torch.cat(pair, dim=1) for pair in pairs), self.cell)

    def repeat(self, times: int) -> "Pictures":
        """Every room so many times in a row."""
        return Pictures(*(part.repeat_interleave(times, dim=0) for part in (self.color, self.depth)), self.cell)


def refine(
    guess: Tensor,
    pictures: Pictures,
    camera: Camera,
    free: slice,
    effort: Effort = USUAL,
    met: slice = slice(None),
) -> Tensor:
    """Poses (R, n, 4, 4) under which frames that show one place agree on its colour.

    Args:
        guess: (R, n, 4, 4) rigid c2w in axes common to the room, a few pixels off at most.
        pictures: of those frames.
        camera: of all of them.
        free: which frames may move, at least one; the others stay as they are.
        effort: Gauss-Newton steps, and what is compared in each.
        met: which frames the free ones are compared with. Neighbours in time show most of each other and tell least of
            where they stand: a clip of many frames is better compared with some.
    """
    poses = guess.clone()
    rooms, count = poses.shape[:2]
    one, other = _neighbours(poses, pictures, camera, free, met, effort.neighbours)
    if effort.mutual:
        one, other = torch.cat([one, other]), torch.cat([other, one])
    stride = pictures.cell // effort.compared
    rays = camera.rays(device=poses.device)[::stride, ::stride, 0].flatten(0, 1)
    brightness = ((pictures.color.flatten(0, 1) / 2 + 0.5).clamp(min=0) + BLACK).log()
    depth = pictures.depth.flatten(0, 1)
    local = (depth[:, ::stride, ::stride].flatten(1)[..., None] * rays).transpose(1, 2)  # R*n 3 N
    moved = torch.zeros(rooms, count, 6, device=poses.device)
    blur = None
    for step in effort.blurs:
        if step != blur:
            blur, color = step, blurred(brightness, step * pictures.cell)
            shown = torch.cat([color, *_slopes(color), depth[:, None]], dim=1)
            own = color[..., ::stride, ::stride].flatten(2)  # R*n 3 N
        normal, slope = _equations(poses, one, other, (local, own, shown), camera, effort.different)
        change(poses, moved, normal, slope, GUESS, free)
    return poses


def _equations(
    poses: Tensor,
    one: Tensor,
    other: Tensor,
    frames: tuple[Tensor, Tensor, Tensor],
    camera: Camera,
    different: float,
) -> tuple[Tensor, Tensor]:
    """The blocks (R * n * n, 6, 6) and the right side (R * n, 6) of the normal equations, see ``alignment.change``.

    Args:
        poses: (R, n, 4, 4) c2w.
        one, other: (E,) numbers, among all R * n frames, of those whose pixels are looked for in others, and of these.
        frames: what all R * n frames give ``_compare``: ``local``, ``own`` and ``shown``.
        camera, different: as there.
    """
    rooms, count = poses.shape[:2]
    normal = torch.zeros(rooms * count * count, 6, 6, device=poses.device)
    slope = torch.zeros(rooms * count, 6, device=poses.device)
    (local, own, shown), stand = frames, poses.flatten(0, 1)
    most = max(1, AT_ONCE.get(poses.device.type, AT_ONCE["cuda"]) // local.shape[2])
    for a, b in zip(one.split(most), other.split(most), strict=True):
        jacobian, apart = _compare(stand[a], stand[b], local[a], own[a], shown[b], camera, different)
        both = _other_too(stand[a], stand[b])  # E 6 12
        pull = both.transpose(1, 2) @ (jacobian @ jacobian.transpose(1, 2)) @ both  # E 12 12
        push = ((jacobian @ apart[..., None]).transpose(1, 2) @ both)[:, 0]  # E 12
        sides = ((slice(0, 6), a), (slice(6, 12), b))
        for part, row in sides:
            slope.index_add_(0, row, push[:, part])
            for second, column in sides:
                normal.index_add_(0, row * count + column % count, pull[:, part, second])
    return normal, slope


def blurred(pictures: Tensor, deviation: float) -> Tensor:
    """Pictures (N, C, H, W) under a Gaussian of so many pixels."""
    reach, channels = math.ceil(2 * deviation), pictures.shape[1]
    kernel = torch.exp(-(torch.arange(-reach, reach + 1, device=pictures.device) ** 2) / (2 * deviation**2))
    kernel = (kernel / kernel.sum()).expand(channels, 1, 1, -1)
    wide = pad(pictures, [reach] * 4, mode="replicate")
    return conv2d(conv2d(wide, kernel, groups=channels), kernel.transpose(2, 3), groups=channels)


def _slopes(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """How pictures (N, C, H, W) change from pixel to pixel, to the right and down."""
    wide = pad(pictures, [1] * 4, mode="replicate")
    return (wide[..., 1:-1, 2:] - wide[..., 1:-1, :-2]) / 2, (wide[..., 2:, 1:-1] - wide[..., :-2, 1:-1]) / 2


def _neighbours(
    poses: Tensor, pictures: Pictures, camera: Camera, free: slice, met: slice, most: int
) -> tuple[Tensor, Tensor]:
    """Numbers (E,), among the frames of all rooms in a row, of frames and of the free ones that show much of them.

    There are ``most`` of them, out of those ``met``, for each free one, or one less than are met.
    """
    rooms, count = poses.shape[:2]
    cell = pictures.cell
    coarse = Camera(camera.height // cell, camera.width // cell, camera.horizontal_fov)
    far = pictures.depth[:, :, cell // 2 :: cell, cell // 2 :: cell].flatten(2)  # R n N
    into = inverse(poses[:, met])[:, None] @ poses[:, free, None]  # R A m 4 4, from a free frame to each
    points = far[:, free, :, None] * coarse.rays(device=poses.device).flatten(0, 2)
    pixel, distance = coarse.project(to_room(points[:, :, None], into))  # R A m N
    column, row = pixel.floor().long().unbind(-1)
    inside = (distance > CLOSEST) & (column >= 0) & (column < coarse.width) & (row >= 0) & (row < coarse.height)
    place = row.clamp(0, coarse.height - 1) * coarse.width + column.clamp(0, coarse.width - 1)
    depth = far[:, None, met].expand(-1, place.shape[1], -1, -1).gather(3, place)
    shown = (inside & _in_sight(distance, depth)).float().mean(dim=-1)  # R A m
    frames = torch.arange(count, device=poses.device)
    shown = shown.masked_fill(frames[free, None] == frames[met], -1.0)
    near = frames[met][shown.topk(min(most, shown.shape[-1] - 1), dim=-1).indices]
    room = count * torch.arange(rooms, device=poses.device)[:, None, None]
    one, other = ((room + number).flatten() for number in (frames[free, None].expand_as(near), near))
    return other, one


def _compare(
    one: Tensor, other: Tensor, local: Tensor, own: Tensor, shown: Tensor, camera: Camera, different: float
) -> tuple[Tensor, Tensor]:
    """How far pixels' colours are from those found in other frames, and what would change it.

    Args:
        one, other: (E, 4, 4) poses of the pixels' frames and of those that they are looked for in.
        local: (E, 3, N) the pixels' points in their frames' axes.
        own: (E, 3, N) their colours, as logarithms.
        shown: (E, 10, H, W) of the other frames: colours likewise, their slopes to the right and down, depth.
        camera: of all frames.
        different: as in ``Effort``.

    Returns:
        by how much a small turn and shift of the pixels' camera change the differences (E, 6, 3 * N), and the
        differences (E, 3 * N); both weighted: less where colours differ much, or hang on a depth, and 0 where a pixel
        is not to be seen.
    """
    rotation = other[:, :3, :3]
    turned = one[:, :3, :3] @ local
    away = turned + (one[:, :3, 3] - other[:, :3, 3])[..., None]
    x, y, far = (rotation.transpose(1, 2) @ away).unbind(1)
    far = far.clamp(min=CLOSEST)
    scale = camera.focal / far
    right, down = x * scale * 2 / camera.width, y * scale * 2 / camera.height  # -1..1 over the frame
    met = grid_sample(shown, torch.stack([right, down], dim=-1)[:, None], align_corners=False, padding_mode="border")
    color, to_right, downwards, depth = met[:, :, 0].split([3, 3, 3, 1], dim=1)
    apart = color - own
    seen = (far > CLOSEST) & (right.abs() < 1) & (down.abs() < 1) & _in_sight(far, depth[:, 0])
    to_right, downwards = to_right * scale[:, None], downwards * scale[:, None]
    towards = -(to_right * x[:, None] + downwards * y[:, None]) / far[:, None]
    by_point = torch.stack([to_right, downwards, towards], dim=1).flatten(2)  # in the other camera's axes
    by_point = (rotation @ by_point).unflatten(2, (3, -1))  # E 3 3 N: axis, colour, pixel
    by_depth = (by_point * turned[:, :, None]).sum(dim=1).square().mean(dim=1)
    apart = apart - _mean(apart, seen[:, None])
    certainty = (different**2 + DEEPER**2 * by_depth).rsqrt()  # 1 / standard deviation
    weight = (certainty * seen / (1 + apart.square().mean(dim=1) / different**2))[:, None]
    apart = apart - _mean(apart, weight**2)  # what the pixels share is another exposure
    jacobian = torch.cat([_cross(turned[:, :, None], by_point), by_point], dim=1)
    jacobian = (jacobian - _mean(jacobian, weight[:, None] ** 2)) * weight[:, None]
    return jacobian.flatten(2), (apart * weight).flatten(1)


def _cross(one: Tensor, other: Tensor) -> Tensor:
    """The cross product along the second dimension; ``torch.linalg.cross`` takes 1.3 times as long here."""
    after, before = [1, 2, 0], [2, 0, 1]
    return one[:, after] * other[:, before] - one[:, before] * other[:, after]


def _other_too(one: Tensor, other: Tensor) -> Tensor:
    """What leads (E, 6, 12) from a turn and shift of one camera, and of another, to a turn and shift of the one.

    The pixels that two cameras share change in the same way when the other one is moved backwards; it turns about
    itself, so the one is shifted, too.
    """
    both = torch.eye(6, device=one.device).repeat(len(one), 1, 2)
    both[:, :, 6:] *= -1
    both[:, 3:, 6:9] = cross_matrix(one[:, :3, 3] - other[:, :3, 3])
    return both


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    """Weighted means (..., 1) of values (..., N)."""
    return (values * weight).sum(dim=-1, keepdim=True) / weight.sum(dim=-1, keepdim=True).clamp(min=1e-6)


def _in_sight(far: Tensor, depth: Tensor) -> Tensor:
    """Whether points so far away are what a frame shows there, which has that depth."""
    return (far > BEFORE * depth) & (far < BEHIND * depth)
