"""Frames of any size to the size that a model sees: the middle is kept, and the camera follows."""

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from v4s_lib.worlds.cameras import Camera

CHUNK = 64  # frames turned into float32 at once


def fit_frames(frames: Tensor, height: int, width: int) -> Tensor:
    """Cut the middle out of frames in the wanted shape, and scale it; frames of that size come back as they are.

    Args:
        frames: uint8 (F, H, W, 3).
        height, width: wanted, pixels.

    Returns:
        uint8 (F, height, width, 3), scaled with an antialiased bilinear filter; our choice.
    """
    if tuple(frames.shape[1:3]) == (height, width):
        return frames
    rows, columns = cut_size(frames.shape[1], frames.shape[2], height, width)
    top, left = (frames.shape[1] - rows) // 2, (frames.shape[2] - columns) // 2
    cut = frames[:, top : top + rows, left : left + columns].permute(0, 3, 1, 2)
    result = torch.empty(len(frames), height, width, 3, dtype=torch.uint8)
    for start in range(0, len(frames), CHUNK):
        part = cut[start : start + CHUNK].float()
        scaled = interpolate(part, (height, width), mode="bilinear", antialias=True).round().clamp(0, 255)
        result[start : start + CHUNK] = scaled.permute(0, 2, 3, 1).to(torch.uint8)
    return result


def fit_camera(camera: Camera, height: int, width: int) -> Camera:
    """The camera of frames that ``fit_frames`` has made that size: what is cut off at the sides narrows its view."""
    columns = cut_size(camera.height, camera.width, height, width)[1]
    if columns == camera.width:
        return replace(camera, height=height, width=width)
    slope = math.tan(math.radians(camera.horizontal_fov) / 2) * columns / camera.width
    return Camera(height, width, math.degrees(2 * math.atan(slope)))


def cut_size(rows: int, columns: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the largest middle of a frame that has the shape of ``height`` x ``width``."""
    return min(rows, round(columns * height / width)), min(columns, round(rows * width / height))
