"""An optional part that sees which places two frames share, and how far away they are. Not in the paper.

A small convolutional network gives every cell of a frame a key, by what is seen there, and an estimate of its depth.
Cells of two frames with like keys show the same place; from many such pairs follows where the frames stand (see
``alignment``). Taught in training by rendered depth and true poses; at sampling there is video alone. It looks at
pixels, so it is for latents of the patch codec.
Source: our choice, after DROID-SLAM (arXiv 2108.10869): learned matches, and geometry that is solved, not learned.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from v4s_lib.model.codec import last_frames
from v4s_lib.model.pose import token_rays

CELLS = (4, 8, 16, 32)  # pixels that a cell may be wide and high: halved twice, and by half each
LEAST_CELL = CELLS[0]
WIDTHS = (24, 48, 96)  # of the convolutions
WHOLE = 512  # numbers that describe the whole frame
KEY = 64  # numbers in a key
NOMINAL_LOG_DEPTH, NOMINAL_LOG_DOUBT = 0.7, -2.3  # 2 m and 10%, about: where training begins; our choice


def halvings(width: int, cell: int) -> list[nn.Module]:
    """Convolutions that bring ``cell`` pixels down to ``LEAST_CELL``, by half each."""
    layers = []
    while cell > LEAST_CELL:
        layers += [nn.Conv2d(width, width, 3, stride=2, padding=1), nn.GELU()]
        cell //= 2
    return layers


@dataclass
class Seen:
    """What is seen in the N cells of some frames."""

    keys: Tensor  # (..., N, KEY), of length 1
    log_depth: Tensor  # (..., N), of metres along the optical axis
    log_doubt: Tensor  # (..., N), of the mean absolute error expected of ``log_depth``

    def each(self, change: Callable[[Tensor], Tensor]) -> "Seen":
        """The same with every tensor changed."""
        return Seen(*(change(value) for value in (self.keys, self.log_depth, self.log_doubt)))


class Sight(nn.Module):
    """Keys and depths of the cells of frames.

    Args:
        patch: pixels that a latent's patch is wide and high.
        size: rows and columns of patches in a frame.
        horizontal_fov: of the camera, degrees.
        cell: pixels that a cell is wide and high, 4, 8, 16 ...; of larger frames larger ones, or there are too many.
    """

    def __init__(self, patch: int, size: tuple[int, int], horizontal_fov: float, cell: int = LEAST_CELL) -> None:
        super().__init__()
        self.patch, self.horizontal_fov, self.cell = patch, horizontal_fov, cell
        self.size = rows, columns = size[0] * patch // cell, size[1] * patch // cell
        fine, middle, wide = WIDTHS
        coarse = ((rows + 1) // 2, (columns + 1) // 2)
        whole = ((coarse[0] + 1) // 2) * ((coarse[1] + 1) // 2)
        self.pixels = nn.Sequential(
            nn.Conv2d(3, fine, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(fine, middle, 3, stride=2, padding=1),
            nn.GELU(),
            *halvings(middle, cell),
        )
        self.place = nn.Parameter(torch.zeros(middle, 2 * rows, 2 * columns))  # where in the frame
        self.cells = nn.Sequential(
            nn.Conv2d(middle, wide, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(wide, wide, 3, padding=1),
            nn.GELU(),
        )
        self.areas = nn.Sequential(
            nn.Conv2d(wide, wide, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(wide, wide, 3, padding=1),
            nn.GELU(),
        )
        self.whole = nn.Sequential(
            nn.Conv2d(wide, 2 * wide, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(2 * wide * whole, WHOLE),
            nn.GELU(),
            nn.Linear(WHOLE, wide * coarse[0] * coarse[1]),
            nn.Unflatten(1, (wide, *coarse)),
        )
        self.join_areas = nn.Sequential(nn.Conv2d(2 * wide, wide, 3, padding=1), nn.GELU())
        self.join_cells = nn.Sequential(nn.Conv2d(2 * wide, wide, 3, padding=1), nn.GELU())
        self.tell = nn.Conv2d(wide, KEY + 2, 1)
        self.log_scale = nn.Parameter(torch.tensor(2.5))  # of the products of keys
        self.nothing = nn.Parameter(torch.tensor(0.0))  # the product at which a place is shared by nothing

    def forward(self, latents: Tensor) -> Seen:
        """Look at the last frame of each latent (B, C, T, h, w); what is seen has the leading axes (B, T)."""
        frames = last_frames(latents, self.patch)
        cells = self.cells(self.pixels(frames.flatten(0, 1).permute(0, 3, 1, 2)) + self.place)
        areas = self.areas(cells)
        areas = self.join_areas(torch.cat([areas, self.whole(areas)], dim=1))
        areas = nn.functional.interpolate(areas, size=cells.shape[-2:], mode="nearest")
        told = self.tell(self.join_cells(torch.cat([cells, areas], dim=1))).flatten(2).transpose(1, 2).float()
        keys = nn.functional.normalize(told[..., :KEY], dim=-1)
        seen = Seen(keys, told[..., KEY] + NOMINAL_LOG_DEPTH, told[..., KEY + 1] + NOMINAL_LOG_DOUBT)
        return seen.each(lambda value: value.unflatten(0, frames.shape[:2]))

    def rays(self, device: torch.device | str = "cpu") -> Tensor:
        """Rays (N, 3) through the middles of the cells, camera axes, scaled to z = 1."""
        direction, _ = token_rays(torch.eye(4, device=device)[None, None, None], *self.size, self.horizontal_fov)
        return direction[0, 0, 0] / direction[0, 0, 0, :, 2:]

    def logits(self, queries: Tensor, keys: Tensor, allowed: Tensor) -> Tensor:
        """How alike the cells of A frames and those of P frames look: (..., A * N, 1 + P * N).

        ``queries`` are (..., A * N, KEY), ``keys`` (..., P * N, KEY), and ``allowed`` (A, P) says which frames are
        compared. The first column stands for "nothing here shows this place".
        """
        cells = self.size[0] * self.size[1]
        barred = ~allowed.repeat_interleave(cells, dim=0).repeat_interleave(cells, dim=1)
        scale = self.log_scale.exp()
        products = ((scale * queries) @ keys.transpose(-1, -2)).masked_fill_(barred, -1e4)
        nothing = (scale * self.nothing).expand(*products.shape[:-1], 1)
        return torch.cat([nothing, products], dim=-1)
