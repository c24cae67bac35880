"""The middle of a frame is kept, and the camera's view is that of what is kept."""

import math

import torch

from v4s_lib.data.fitting import cut_size, fit_camera, fit_frames
from v4s_lib.worlds.cameras import Camera


def columns(values: list[int], height: int = 4) -> torch.Tensor:
    """One frame (1, H, W, 3) with a value for every column."""
    return torch.tensor(values, dtype=torch.uint8)[None, None, :, None].expand(1, height, -1, 3)


def test_frames_of_the_wanted_size_come_back_as_they_are():
    frames = columns([1, 2, 3])
    assert fit_frames(frames, 4, 3) is frames


def test_the_sides_are_cut_evenly():
    assert fit_frames(columns([1, 2, 3, 4, 5, 6]), 4, 4)[0, 0, :, 0].tolist() == [2, 3, 4, 5]
    assert cut_size(480, 640, 256, 416) == (394, 640) and cut_size(256, 416, 256, 416) == (256, 416)


def test_smaller_frames_are_averages_and_many_frames_go_in_pieces():
    frames = columns([0, 0, 80, 80, 0, 0, 200, 200], height=8).repeat(130, 1, 1, 1)
    small = fit_frames(frames, 4, 4)
    assert small.shape == (130, 4, 4, 3) and small.dtype == torch.uint8
    middle = small[0, 0, :, 0].tolist()  # of four columns, 1, 3, 3 and 1 eighths; fewer at the edges
    assert middle == [11, 60, 35, 171] and torch.equal(small[0], small[129])


def test_the_camera_sees_what_is_left():
    camera = Camera(height=48, width=96, horizontal_fov=90.0)
    assert fit_camera(camera, 24, 48) == Camera(24, 48, 90.0)
    square = fit_camera(camera, 24, 24)
    assert math.isclose(square.horizontal_fov, 2 * math.degrees(math.atan(0.5)))
    assert math.isclose(square.focal, camera.focal / 2)
    wide = fit_camera(camera, 12, 96)  # rows are cut: the width is seen as before
    assert wide == Camera(12, 96, 90.0)
