"""Depths that the frames of a context agree on. Not in the paper.

Sight guesses a frame's depths from that frame alone. Once frames stand somewhere, a wall that several of them show has
as many guesses. The logarithm of every cell's depth becomes the mean of its own and of those at which the points of
other frames fall into it, each counted by its doubt. How doubtful it is stays as sight said. Nothing is learnt.
Source: the fusion of depth maps of multi-view stereo; the numbers are our choice, on validation rooms.
"""

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from v4s_lib.model.alignment import points
from v4s_lib.model.cloud import CLOSEST, fine
from v4s_lib.model.sight import Seen, Sight
from v4s_lib.worlds.cameras import Camera, inverse, to_room

APART = 0.2  # of the logarithm of a depth: points that differ by more are of two surfaces
MISPLACED = 0.06  # standard deviation of the same for right points, for poses are off as well


@torch.no_grad()
def agree(sight: Sight, seen: Seen, c2w: Tensor, others: tuple[Seen, Tensor] | None = None) -> Seen:
    """What sight has seen, with the depths that frames agree on.

    Args:
        sight: what saw it.
        seen: (R, P, ...) of P frames in each of R rooms.
        c2w: (R, P, 4, 4) of those frames.
        others: the same of the frames that are to agree with them; None is themselves, each with all but itself.
    """
    count, (rows, columns) = c2w.shape[1], sight.size
    camera = Camera(rows * sight.cell, columns * sight.cell, sight.horizontal_fov)
    told, (other, stand) = points(sight, seen), others or (seen, c2w)
    told_by = points(sight, other)
    with torch.autocast(c2w.device.type, enabled=False):  # metres need more than the 8 bits of bf16
        room = to_room(told_by.place, stand).flatten(1, 2)  # R Q*N 3
        pixel, distance = camera.project(to_room(room[:, None], inverse(c2w)))  # R P Q*N: in every frame
    there = _at(fine(seen.log_depth, sight).unflatten(-1, (camera.height, camera.width)), pixel)
    farther = distance.clamp(min=CLOSEST).log() - there
    column, row = (pixel / sight.cell).floor().long().unbind(-1)
    inside = (distance > CLOSEST) & (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
    weight = inside & (farther.abs() < APART)
    if others is None:
        weight &= ~torch.eye(count, dtype=torch.bool, device=c2w.device).repeat_interleave(rows * columns, dim=1)
    weight = weight / (told_by.doubt.flatten(1)[:, None] ** 2 + MISPLACED**2)
    cell = row.clamp(0, rows - 1) * columns + column.clamp(0, columns - 1)
    pulled, total = (torch.zeros_like(told.doubt).scatter_add(2, cell, part) for part in (weight * farther, weight))
    return Seen(seen.keys, seen.log_depth + pulled / (total + told.doubt**-2), seen.log_doubt)


def _at(maps: Tensor, pixel: Tensor) -> Tensor:
    """Values (R, P, K) of maps (R, P, H, W) at pixels (R, P, K, 2), x and y, between those of the nearest four."""
    size = pixel.new_tensor([maps.shape[-1], maps.shape[-2]])
    grid = (2 * pixel / size - 1).flatten(0, 1)[:, :, None]
    found = grid_sample(maps.flatten(0, 1)[:, None], grid, padding_mode="border", align_corners=False)
    return found[:, 0, :, 0].unflatten(0, maps.shape[:2])
