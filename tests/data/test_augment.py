"""What an augmented scan shows is still true of it, and nothing else of a room changes."""

from dataclasses import replace

import pytest
import torch

from v4s_lib.data.augment import HIDDEN, NEAR, hide_parts, relight, tilt_scans
from v4s_lib.data.rooms import RoomTask, make_rooms, render_many, training_seeds
from v4s_lib.worlds.cameras import Camera, rotation_angle

TASK = RoomTask(Camera(8, 12), scan_latents=(6, 6), pool_latents=4, target_latents=2, targets=2, samples=1)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def plain():
    return make_rooms(training_seeds(0, 0, 2), TASK, 2)


def test_a_walk_is_tilted_as_a_whole_and_stays_level():
    c2w = torch.eye(4)[[0, 2, 1, 3]].repeat(200, 3, 1, 1)  # rows: x right, z forward becomes y, y down becomes z
    changed = tilt_scans(c2w, 10.0, 0.3, generator())
    assert torch.equal(changed[:, 0], changed[:, 2])
    angle = rotation_angle(changed[:, 0], c2w[:, 0])
    assert 9 < angle.max() <= 10.001 and angle.min() < 1
    lift = changed[:, 0, 2, 3]
    assert -0.3 <= lift.min() < -0.25 and 0.25 < lift.max() <= 0.3
    torch.testing.assert_close(changed[..., :3, 0], c2w[..., :3, 0])  # the camera's right stays level
    assert torch.equal(changed[..., :2, 3], c2w[..., :2, 3])


def test_what_hides_a_part_is_near_and_is_no_object():
    frames, depth = torch.full((5, 100, 4, 8, 12, 3), 2.0), torch.full((5, 100, 8, 12), 3.0)
    instance = torch.full((5, 100, 4, 8, 12), 7)
    shown, what, far = hide_parts(frames, instance, depth, 0.3, generator())
    hidden = far == NEAR
    assert hidden.flatten(2).any(dim=2).float().mean().item() == pytest.approx(0.3, abs=0.06)
    share = hidden.float().mean(dim=(2, 3))[hidden.flatten(2).any(dim=2)]
    assert share.min() >= 0.25**2 * 0.5 and share.max() <= 0.5**2 * 1.6  # of whole pixels
    assert torch.equal(what == HIDDEN, hidden[:, :, None].expand_as(what))
    assert torch.equal((shown < 2).all(dim=-1), what == HIDDEN)  # the same in all four frames
    assert (far[~hidden] == 3).all() and (what[what != HIDDEN] == 7).all()


def test_exposure_is_one_factor_a_latent_and_colour():
    frames = torch.full((3, 400, 4, 2, 2, 3), 0.1)
    gain = relight(frames, 0.3, generator()) / frames
    assert torch.equal(gain, gain[:, :, :1, :1, :1].expand_as(gain))
    logarithm = gain[:, :, 0, 0, 0].log()
    assert logarithm.std().item() == pytest.approx(0.3 * (1 + 0.25**2) ** 0.5, rel=0.1)
    assert (logarithm - logarithm.mean(dim=2, keepdim=True)).std().item() == pytest.approx(0.075, rel=0.3)


def test_targets_and_what_is_asked_stay_as_they_are(plain):
    task = replace(TASK, tilt=10.0, lift=0.3, hidden=1.0, lighting=0.3)
    changed = make_rooms(training_seeds(0, 0, 2), task, 2)
    assert torch.equal(changed.target_frames, plain.target_frames)
    assert torch.equal(changed.target_depth, plain.target_depth)
    assert torch.equal(changed.time_index, plain.time_index)
    assert not torch.equal(changed.scan_frames, plain.scan_frames)
    render = render_many(changed.scenes, changed.scan_c2w.flatten(1, 2), task)  # poses and depths are those seen
    depth = render.depth.unflatten(1, (-1, 4))[:, :, -1]
    assert torch.equal(torch.where(changed.scan_depth == NEAR, depth, changed.scan_depth), depth)


def test_depths_of_targets_are_those_of_each_latents_last_frame(plain):
    again = render_many(plain.scenes, plain.target_c2w.flatten(1, 2), TASK).depth.unflatten(1, (2, -1))
    assert torch.equal(plain.target_depth, again[:, :, [0, 4]])
    assert torch.equal(plain.start_depth, again[:, :, 0])
