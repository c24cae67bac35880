"""What sight makes of two frames: the cells that it takes for one place, and how far away it holds them to be."""

import IPython.display
import torch
from matplotlib.figure import Figure
from torch import Tensor

from v4s_lib.model.sight import Seen, Sight
from v4s_lib.viewing.plots import NAME_BOX, show

SHOWN = 14  # matches


def matches(sight: Sight, seen: Seen, frames: Tensor, one: int, other: int) -> IPython.display.Image:
    """The surest matches of two out of P frames (P, H, W, 3), and the depth of each, in metres.

    ``seen`` (1, P, ...) is what sight sees in the frames. Of cells that match each other the surest
    bear one number.
    """
    rows, columns = sight.size
    figure, ends = Figure(figsize=(8, 4.4), layout="tight"), surest(seen.keys[0, one], seen.keys[0, other], SHOWN)
    for place, (frame, cells) in enumerate(zip((one, other), ends, strict=True)):
        axes = figure.add_subplot(2, 2, place + 1, title=f"context frame {frame}")
        axes.imshow(frames[frame].clamp(0, 1).numpy())
        across, down = (((cells % columns, cells // columns)[axis] + 0.5) * sight.cell - 0.5 for axis in (0, 1))
        for number, point in enumerate(zip(across.tolist(), down.tolist(), strict=True), start=1):
            axes.text(*point, str(number), fontsize=7, ha="center", va="center", bbox=NAME_BOX)
        depth = figure.add_subplot(2, 2, place + 3, title="how far away each cell is, metres")
        seen_depth = seen.log_depth[0, frame].exp().unflatten(0, (rows, columns))
        figure.colorbar(depth.imshow(seen_depth.numpy(), cmap="viridis"), ax=depth)
        for picture in (axes, depth):
            picture.set_axis_off()
    return show(figure)


def surest(one: Tensor, other: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Numbers (n,) of the cells of two frames with keys (N, KEY) each that match each other, the best first."""
    alike = one @ other.T
    best, met = alike.max(dim=1)
    mutual = alike.argmax(dim=0)[met] == torch.arange(len(met))
    chosen = best.masked_fill(~mutual, -torch.inf).topk(min(most, int(mutual.sum()))).indices
    return chosen, met[chosen]
