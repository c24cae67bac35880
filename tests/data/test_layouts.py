"""A filmed room is read back as the renderer knows it."""

import pytest
import torch

from v4s_lib.data.episodes import load_episode
from v4s_lib.data.layouts import PHONE, film_room
from v4s_lib.data.readers import read_scan
from v4s_lib.data.readers.scan import write_scan
from v4s_lib.data.rooms import RoomTask
from v4s_lib.data.scans import psnr
from v4s_lib.worlds.cameras import Camera
from v4s_lib.worlds.raycast import render


def test_a_filmed_room_becomes_the_episode_that_the_renderer_knows(tmp_path):
    scenes, c2w = film_room(tmp_path / "scene", 3, RoomTask(Camera(32, 48)), latents=2)
    scan = read_scan("scannetpp", tmp_path / "scene")
    assert scan.metric and scan.places == (0, 1, 2, 3, 4)  # the sixth frame has no pose
    camera = write_scan(scan, tmp_path / "episode", 32, 48)
    assert camera == Camera(32, 48, PHONE.horizontal_fov)  # rows are cut off, columns are not
    episode = load_episode(tmp_path / "episode")
    assert (episode.c2w - c2w).abs().max() < 1e-5
    assert [item.label for item in episode.objects] == [item.label for item in scenes.objects[0]]
    for item, true in zip(episode.objects, scenes.objects[0], strict=True):
        assert item.box_min == pytest.approx(true.box_min, abs=1e-5)
        assert item.box_max == pytest.approx(true.box_max, abs=1e-5)
    likeness = {}
    for fov in (74.0, 75.0, 76.0):
        seen = render(scenes, torch.zeros(5, dtype=torch.long), c2w, Camera(32, 48, fov), 3).rgb
        likeness[fov] = psnr(episode.frames, (seen * 255).round().to(torch.uint8))
    assert max(likeness, key=likeness.get) == PHONE.horizontal_fov and likeness[75.0] > 31
