"""Depth beside a scan's video: ``depth.npz``, what a sensor has measured at the poses of the scan's latents.

Its ``millimetres`` are uint16 (T, h, w), along the optical axis, of frames 0, 4, 8, ... in the view of the frames but
at any size, 0 where nothing was measured. These frames do for every stride: the latents of every n-th frame end at the
frames 0, 4n, 8n, ... Our choice; the paper's data has no depth (PAPER.md, section 1).
"""

from pathlib import Path
from zipfile import BadZipFile
from zlib import error as ZlibError

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from v4s_lib.data.fitting import cut_size
from v4s_lib.worlds.paths import FRAMES_PER_LATENT

DEPTH_NAME = "depth.npz"
DEPTH_ROWS = 128  # at most, of a depth that is written; our choice: an iPad's sensor has 192


def write_depth(path: Path, depth: Tensor, frames: int) -> None:
    """Write the depth (T, h, w) of every fourth of so many frames, metres; 0 is unknown, 65 metres are the most."""
    if depth.dim() != 3 or len(depth) != count_depths(frames):
        got = tuple(depth.shape)
        raise ValueError(f"expected the depth of {count_depths(frames)} frames, got {got}: give every fourth frame's")
    millimetres = (1000 * depth).round().clamp(0, 65535).to(torch.int32).numpy().astype(np.uint16)
    np.savez_compressed(path, millimetres=millimetres)


def read_depth(path: Path, frames: int) -> Tensor | None:
    """What ``write_depth`` has written, float32 (T, h, w), metres; None where there is no file."""
    if not path.exists():
        return None
    try:
        with np.load(path) as content:
            millimetres = content["millimetres"]
    except (OSError, EOFError, KeyError, ValueError, BadZipFile, ZlibError) as error:
        raise ValueError(f"expected millimetres in {path}, got {error}: write the episode again") from error
    if millimetres.dtype != np.uint16 or millimetres.ndim != 3 or len(millimetres) != count_depths(frames):
        got = f"{millimetres.dtype} {millimetres.shape}"
        raise ValueError(
            f"expected uint16 ({count_depths(frames)}, h, w) in {path}, got {got}: write video and depth together"
        )
    return torch.from_numpy(millimetres.astype(np.float32)) / 1000


def count_depths(frames: int) -> int:
    """How many of so many frames have a depth: the first, and every fourth after it."""
    return -(-frames // FRAMES_PER_LATENT)


def fit_depth(depth: Tensor, height: int, width: int) -> Tensor:
    """The middle of depths (F, h, w) in the wanted shape, as ``fit_frames`` cuts it; no value lies between two."""
    rows, columns = cut_size(depth.shape[1], depth.shape[2], height, width)
    top, left = (depth.shape[1] - rows) // 2, (depth.shape[2] - columns) // 2
    cut = depth[:, None, top : top + rows, left : left + columns]
    return interpolate(cut, (height, width), mode="nearest-exact")[:, 0]
