"""Structure from motion against rendered truth: points on the walls, cameras where they stood, and the same again."""

import pytest
import torch

from tests.evaluation.real.rooms import TASK
from v4s_lib.evaluation.real.reconstruct import reconstruct
from v4s_lib.worlds.cameras import inverse, rotation_angle, to_room, translation_distance


@pytest.fixture(scope="module")
def unposed(room):
    return reconstruct(room.episode.scan.rgb, TASK.camera)


def test_with_poses_points_lie_on_what_was_rendered(room):
    structure, scan = room.finder.structure, room.episode.scan
    assert structure.registered.all() and len(structure.points) > 500
    torch.testing.assert_close(structure.c2w.float(), room.episode.scan_c2w, atol=1e-6, rtol=0)
    off, tint = [], []
    for depth, rgb, c2w in zip(scan.depth, scan.rgb, structure.c2w, strict=True):
        pixel, far = TASK.camera.project(to_room(structure.points, inverse(c2w)))
        column, row = pixel.floor().long().unbind(-1)
        inside = (far > 0) & (column >= 0) & (column < 208) & (row >= 0) & (row < 128)
        off.append(far[inside] / depth[row[inside], column[inside]] - 1)
        tint.append((structure.colors[inside] - rgb[row[inside], column[inside]]).abs().mean(dim=-1))
    assert torch.cat(off).median().abs() < 0.005 and (torch.cat(off).abs() < 0.1).float().mean() > 0.9
    assert torch.cat(tint).mean() < 0.05  # two random colours are 0.33 apart


def test_without_poses_cameras_stand_where_they_stood(room, unposed):
    true = room.episode.scan_c2w.double()
    structure = unposed.in_metres(true)
    assert structure.registered.sum() >= 20
    own, true = (c2w[structure.registered] for c2w in (structure.c2w, true))
    own, true = (inverse(c2w[:1]) @ c2w for c2w in (own, true))
    rotation, translation = rotation_angle(own, true), translation_distance(own, true)
    assert rotation.median() < 1 and rotation.max() < 2
    assert translation.median() < 0.05 and translation.max() < 0.1


def test_the_same_frames_give_the_same_structure(room):
    first, again = (reconstruct(room.episode.scan.rgb[:9], TASK.camera) for _ in range(2))
    assert first.registered.sum() > 4
    for name in ("c2w", "registered", "points", "colors", "descriptors"):
        assert torch.equal(getattr(again, name), getattr(first, name)), name


def test_grey_frames_show_nothing():
    structure = reconstruct(torch.full((3, 128, 208, 3), 0.5), TASK.camera)
    assert not structure.registered.any() and structure.points.shape == (0, 3)
    assert structure.descriptors.shape == (0, 128)
    assert structure.in_metres(torch.eye(4).repeat(3, 1, 1)) is None


def test_bad_input_is_refused(room):
    rgb, c2w = room.episode.scan.rgb[:2], room.episode.scan_c2w
    with pytest.raises(
        ValueError, match=r"^expected finite frames \(N, \(128, 208, 3\)\), got \(2, 64, 208, 3\): resi"
    ):
        reconstruct(rgb[:, :64], TASK.camera)
    with pytest.raises(ValueError, match=r"^expected a pose a frame, got 3 for 2 frames: match them"):
        reconstruct(rgb, TASK.camera, c2w[:3])
    with pytest.raises(ValueError, match=r"^expected rigid c2w matrices in the scan"):
        reconstruct(rgb, TASK.camera, 2 * c2w[:2])
