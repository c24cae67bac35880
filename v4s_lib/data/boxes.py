"""The red-box tail of the paper's grounding clips (PAPER.md §5): the camera stands still while a box fades in.

The box is magenta here, for red is the colour of some objects. Its line is one pixel thick in small frames and three in
those of the paper's size, where it is 2 to 4.
"""

import torch
from torch import Tensor

BOX_COLOR = (1.0, 0.0, 1.0)
LEAST_SHARE = 1 / 128  # of the picture that an object must cover: 12 pixels of 32x48, about 4x3; our choice
LINE = 1 / 85  # of the picture's height, in whole pixels, at least one: 3 of 256
CENTRE = 1 / 6  # of the picture's size: how far the object's middle may be from the picture's


def is_shown(mask: Tensor) -> bool:
    """Whether the object of a mask (H, W), or of one of several (F, H, W), is large enough to be seen."""
    return bool(mask.float().mean(dim=(-2, -1)).max() >= LEAST_SHARE)


def is_centred(mask: Tensor) -> bool:
    """Whether the object of a mask (H, W) is large enough and has its middle near the picture's."""
    if not is_shown(mask):
        return False
    middle = mask.nonzero().float().mean(dim=0) + 0.5
    size = torch.tensor(mask.shape, dtype=torch.float32, device=mask.device)
    return bool(((middle / size - 0.5).abs() <= CENTRE).all())


def mask_box(mask: Tensor) -> Tensor:
    """First and last row, first and last column (4,) of the pixels in ``mask`` (H, W); of nothing, ``ValueError``."""
    rows, columns = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
    if len(rows) == 0:
        raise ValueError("expected a mask that holds the object, got an empty one: choose a frame that shows it")
    return torch.stack([rows[0, 0], rows[-1, 0], columns[0, 0], columns[-1, 0]])


def draw_tail(clip: Tensor, mask: Tensor, frames: int) -> None:
    """Let a box around ``mask`` (H, W) fade in over the last ``frames`` of ``clip`` (F, H, W, 3), in place."""
    clip[-frames:] = box_tail(clip[-frames - 1], mask_box(mask), frames).to(clip)


def line_width(height: int) -> int:
    """Pixels that the box's line is thick in frames of ``height`` pixels."""
    return max(1, int(height * LINE))


def outline(box: Tensor, height: int, width: int) -> Tensor:
    """The pixels (H, W) of a line around ``box``, cut off at the picture's edge."""
    row, column = torch.arange(height)[:, None], torch.arange(width)[None]

    def within(margin: int) -> Tensor:
        top, bottom, left, right = box.tolist()
        rows = (row >= top - margin) & (row <= bottom + margin)
        return rows & (column >= left - margin) & (column <= right + margin)

    return within(line_width(height)) & ~within(0)


def fading(frames: int, device: torch.device | str = "cpu") -> Tensor:
    """How strongly (frames,) the box shows in each frame of the tail; fully in the last."""
    return torch.linspace(1 / frames, 1, frames, device=device)


def box_tail(last: Tensor, box: Tensor, frames: int) -> Tensor:
    """``frames`` copies of the frame ``last`` (H, W, 3) on which the box fades in: (frames, H, W, 3)."""
    strength = fading(frames, last.device)[:, None, None, None]
    line = outline(box.cpu(), *last.shape[:2]).to(last.device)[None, ..., None]
    return torch.where(line, (1 - strength) * last + strength * last.new_tensor(BOX_COLOR), last)
