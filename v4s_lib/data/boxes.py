"""The red-box tail of the paper's grounding clips (PAPER.md §5): the camera stands still while a box fades in.

The box is magenta here, for red is the colour of some objects, and one pixel thick, for frames are small.
"""

import torch
from torch import Tensor

BOX_COLOR = (1.0, 0.0, 1.0)


def mask_box(mask: Tensor) -> Tensor:
    """First and last row, first and last column (4,) of the pixels in ``mask`` (H, W); of nothing, ``ValueError``."""
    rows, columns = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
    if len(rows) == 0:
        raise ValueError("expected a mask that holds the object, got an empty one: choose a frame that shows it")
    return torch.stack([rows[0, 0], rows[-1, 0], columns[0, 0], columns[-1, 0]])


def outline(box: Tensor, height: int, width: int) -> Tensor:
    """The pixels (H, W) of a frame one pixel around ``box``, cut off at the picture's edge."""
    row, column = torch.arange(height)[:, None], torch.arange(width)[None]
    top, bottom, left, right = (box + torch.tensor([-1, 1, -1, 1])).tolist()
    inside = (row >= top) & (row <= bottom) & (column >= left) & (column <= right)
    inner = (row > top) & (row < bottom) & (column > left) & (column < right)
    return inside & ~inner


def box_tail(last: Tensor, box: Tensor, frames: int) -> Tensor:
    """``frames`` copies of the frame ``last`` (H, W, 3) on which the box fades in: (frames, H, W, 3)."""
    strength = torch.linspace(1 / frames, 1, frames)[:, None, None, None]
    line = outline(box, *last.shape[:2])[None, ..., None]
    return torch.where(line, (1 - strength) * last + strength * torch.tensor(BOX_COLOR), last)
