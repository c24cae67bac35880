"""Known poses give known features, and the world's axes do not matter."""

import math

import pytest
import torch
from torch import Tensor

from v4s_lib.model.blocks import zero_linear
from v4s_lib.model.pose import NOMINAL_DEPTH, POSE_FEATURES, PoseAdapter, c2w_12, ray_map, ray_rotary, relative_to_start
from v4s_lib.worlds.cameras import Camera, pose


def turned(degrees: float) -> Tensor:
    """c2w of a camera turned to its right about its y axis (which points down), at (1, 2, 3)."""
    angle = math.radians(degrees)
    c2w = torch.eye(4)
    c2w[0, 0], c2w[0, 2], c2w[2, 0], c2w[2, 2] = math.cos(angle), math.sin(angle), -math.sin(angle), math.cos(angle)
    c2w[:3, 3] = torch.tensor([1.0, 2.0, 3.0])
    return c2w


def test_a_path_is_told_in_millimetres_under_autocast_too():
    adapter = zero_linear(POSE_FEATURES["c2w_12"], 8, kind=PoseAdapter)
    torch.nn.init.normal_(adapter.weight)
    path = as_path(turned(30.0)).repeat(2, 1, 1, 1, 1)
    path[1, ..., 0, 3] += 0.001
    with torch.autocast("cpu", torch.bfloat16):
        told = adapter(c2w_12(path, 1, 1))
    torch.testing.assert_close(told[1] - told[0], (0.001 * adapter.weight[:, 3]).expand_as(told[0]), atol=1e-5, rtol=0)
    assert torch.equal(told, adapter(c2w_12(path, 1, 1)))


def as_path(c2w: Tensor) -> Tensor:
    """One pose as the path (1, 1, 4, 4, 4) of one latent whose four frames share it."""
    return c2w.expand(1, 1, 4, 4, 4)


def test_poses_are_relative_to_the_first_and_grouped_by_latent():
    c2w = torch.stack([turned(20.0 + 10 * i) for i in range(9)])[None]
    c2w[0, :, :3, 3] = torch.arange(9.0)[:, None]
    path = relative_to_start(c2w)
    assert path.shape == (1, 3, 4, 4, 4)
    torch.testing.assert_close(path[0, 0], torch.eye(4).expand(4, 4, 4), atol=1e-6, rtol=0)
    torch.testing.assert_close(path[0, 2, 3, :3, :3], turned(80.0)[:3, :3], atol=1e-6, rtol=0)
    distance = path[0, :, :, :3, 3].norm(dim=-1) / math.sqrt(3)
    torch.testing.assert_close(distance, torch.tensor([[0.0, 0, 0, 0], [1, 2, 3, 4], [5, 6, 7, 8]]))


def test_a_step_ahead_is_plus_z_and_a_step_up_is_minus_y():
    angle = torch.full((1, 5), 0.7)
    place = torch.zeros(1, 5, 3)
    place[0, 1] = torch.tensor([math.cos(0.7), math.sin(0.7), 0])
    place[0, 2] = torch.tensor([0.0, 0, 1])
    steps = relative_to_start(pose(place, angle, 0 * angle))[0, 1, :2, :3, 3]
    torch.testing.assert_close(steps, torch.tensor([[0.0, 0, 1], [0, -1, 0]]), atol=1e-6, rtol=0)


def test_moving_the_world_changes_nothing(make_path):
    c2w = make_path(3, 9).double()
    world = make_path(1, 1, seed=1)[0, 0].double()
    world[:3, 3] = torch.tensor([5e5, -4e6, 100.0])  # metres, as in map coordinates
    torch.testing.assert_close(relative_to_start(world @ c2w), relative_to_start(c2w), atol=1e-6, rtol=0)


def test_centre_ray_of_a_camera_turned_by_90_degrees():
    features = ray_map(as_path(turned(90.0)), 1, 1, 90.0)
    assert features.shape == (1, 1, 1, POSE_FEATURES["ray_map"]) == (1, 1, 1, 168)
    value = torch.tensor([1.0, 0, 0, 1, 2, 3])  # looks to the right, stands at (1, 2, 3)
    waves = [wave(math.pi * octave * value) for wave in (torch.sin, torch.cos) for octave in (0.5, 1, 2)]
    torch.testing.assert_close(features[0, 0, 0], torch.cat([value, *waves]).repeat(4), atol=2e-6, rtol=0)


@pytest.mark.parametrize("fov", [60.0, 90.0])
def test_rays_are_those_through_the_tokens_centres(fov):
    """Tokens of 8x8 pixels: the same rays as a camera with one pixel a token."""
    rays = Camera(4, 6, fov).rays()[:, :, 0].flatten(0, 1)
    features = ray_map(as_path(torch.eye(4)), 4, 6, fov)
    torch.testing.assert_close(features[0, 0, :, :3], torch.nn.functional.normalize(rays, dim=-1))
    assert (features[0, 0, :, 3:6] == 0).all()


def test_each_frame_of_a_latent_has_its_own_rays():
    path = torch.stack([turned(30.0 * i) for i in range(4)])[None, None]
    forward = ray_map(path, 1, 1, 90.0)[0, 0, 0].unflatten(0, (4, 42))[:, :3]
    torch.testing.assert_close(forward, path[0, 0, :, :3, 2], atol=1e-6, rtol=0)


def test_autocast_does_not_blur_the_rays(make_path):
    path = relative_to_start(make_path(1, 9))
    with torch.autocast("cpu", torch.bfloat16):
        blurred = ray_map(path, 2, 3, 90.0)
    assert torch.equal(blurred, ray_map(path, 2, 3, 90.0))


def test_c2w_12_is_the_last_frames_matrix_row_by_row():
    path = torch.stack([turned(30.0 * i) for i in range(4)])[None, None]
    numbers = c2w_12(path, 2, 3)
    assert numbers.shape == (1, 1, 6, 12)
    expected = torch.tensor([0.0, 0, 1, 1, 0, 1, 0, 2, -1, 0, 0, 3]).expand(6, 12)
    torch.testing.assert_close(numbers[0, 0], expected, atol=1e-6, rtol=0)


def test_ray_rotary_turns_with_yaw_elevation_and_time():
    """Head dimension 24: 12 pairs, of which 6 for yaw, 4 for elevation and 2 for time."""
    c2w = turned(30.0)
    c2w[:3, 3] = 0
    index = torch.tensor([[5]])
    cos, sin = ray_rotary(as_path(c2w), index, 1, 1, 90.0, 24)
    assert cos.shape == sin.shape == (1, 1, 1, 12)
    yaw = math.radians(30.0)
    angle = torch.tensor([yaw * k for k in range(1, 7)] + [0.0] * 4 + [5 / 4, 5 / 16])
    torch.testing.assert_close(cos[0, 0, 0], angle.cos(), atol=1e-5, rtol=0)
    torch.testing.assert_close(sin[0, 0, 0], angle.sin(), atol=1e-5, rtol=0)


def test_ray_rotary_looks_at_what_lies_at_the_nominal_depth():
    """From one nominal depth to the left, looking ahead: what is there is seen from the origin at -45 degrees."""
    c2w = torch.eye(4)
    c2w[0, 3] = -NOMINAL_DEPTH
    cos, sin = ray_rotary(as_path(c2w), torch.tensor([[0]]), 1, 1, 90.0, 24)
    assert torch.atan2(sin, cos)[0, 0, 0, 0].item() == pytest.approx(-math.pi / 4, abs=1e-5)
