"""Known poses, angles and projections."""

import math

import pytest
import torch

from v4s_lib.worlds.cameras import (
    SAMPLE_OFFSETS,
    Camera,
    check_rigid,
    inverse,
    pose,
    rotation_angle,
    rotation_vector,
    translation_distance,
    turning,
)


def poses(count: int = 50) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    angle = torch.rand(2, count, generator=generator) * 6 - 3
    return pose(torch.rand(count, 3, generator=generator) * 4, angle[0], angle[1] / 2)


@pytest.mark.parametrize(
    ("yaw", "pitch", "right", "down", "forward"),
    [
        (0, 0, (0, -1, 0), (0, 0, -1), (1, 0, 0)),  # along +x: the right hand points to -y
        (90, 0, (1, 0, 0), (0, 0, -1), (0, 1, 0)),
        (180, 0, (0, 1, 0), (0, 0, -1), (-1, 0, 0)),
        (0, 90, (0, -1, 0), (1, 0, 0), (0, 0, 1)),  # up to the ceiling
    ],
)
def test_axes_of_a_pose(yaw, pitch, right, down, forward):
    angles = torch.deg2rad(torch.tensor([yaw, pitch], dtype=torch.float64))
    c2w = pose(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), angles[0], angles[1])
    expected = torch.tensor([right, down, forward, (1, 2, 3)], dtype=torch.float64).T
    torch.testing.assert_close(c2w[:3], expected, atol=1e-12, rtol=0)
    assert c2w[3].tolist() == [0, 0, 0, 1]


def test_poses_are_rigid_and_invert():
    c2w = poses()
    check_rigid(c2w, "poses")
    torch.testing.assert_close(inverse(c2w) @ c2w, torch.eye(4).expand_as(c2w), atol=1e-6, rtol=0)
    torch.testing.assert_close(c2w @ inverse(c2w), torch.eye(4).expand_as(c2w), atol=1e-6, rtol=0)


@pytest.mark.parametrize("degrees", [0.01, 3, 90, 179.9])
def test_a_pose_turned_by_some_degrees_scores_them(degrees):
    zero = torch.zeros(1, dtype=torch.float64)
    turn = zero + math.radians(degrees)
    straight, turned = pose(torch.zeros(1, 3).double(), zero, zero), pose(torch.ones(1, 3).double(), turn, zero)
    assert rotation_angle(straight, turned).item() == pytest.approx(degrees, rel=1e-4)
    assert translation_distance(straight, turned).item() == pytest.approx(math.sqrt(3))
    assert rotation_angle(turned, turned).item() == 0


def test_focal_length_of_known_fields_of_view():
    assert Camera(32, 48, 90).focal == pytest.approx(24)
    assert Camera(32, 48, 2 * math.degrees(math.atan(0.5))).focal == pytest.approx(48)


@pytest.mark.parametrize("samples", [1, 3, 5])
def test_projecting_a_ray_gives_its_pixel(samples):
    camera = Camera(6, 10, 75)
    rays = camera.rays(samples)
    assert rays.shape == (6, 10, samples, 3)
    pixel, depth = camera.project(rays * 2.5)
    row, column = torch.meshgrid(torch.arange(6.0), torch.arange(10.0), indexing="ij")
    centre = torch.stack([column, row], dim=-1)[:, :, None] + 0.5
    torch.testing.assert_close(pixel, centre + torch.tensor(SAMPLE_OFFSETS[samples]), atol=1e-5, rtol=0)
    torch.testing.assert_close(depth, torch.full_like(depth, 2.5))
    with pytest.raises(ValueError, match=r"expected samples to be one of \[1, 3, 5\], got 2"):
        camera.rays(2)


def test_a_point_right_of_and_below_the_axis_is_right_and_below_in_the_picture():
    pixel, depth = Camera(32, 48, 90).project(torch.tensor([0.5, 0.25, 1.0]))
    assert pixel.tolist() == pytest.approx([24 + 12, 16 + 6])
    assert depth.item() == 1


def test_matrices_that_are_not_rigid_are_refused():
    mirrored = torch.diag(torch.tensor([-1.0, 1, 1, 1]))
    moved = torch.eye(4)
    moved[3, 0] = 0.1
    for bad in (torch.eye(4) * 2, mirrored, moved):
        with pytest.raises(ValueError, match="expected rigid c2w matrices in path, got one that scales"):
            check_rigid(bad[None], "path")
    with pytest.raises(ValueError, match="expected finite numbers in path"):
        check_rigid(torch.full((1, 4, 4), float("nan")), "path")
    with pytest.raises(ValueError, match=r"expected path to end in shape \(4, 4\), got \(3, 4\)"):
        check_rigid(torch.eye(4)[:3], "path")


@pytest.mark.parametrize("degrees", [0.0, 1e-4, 1.0, 90.0, 179.0])
def test_a_rotation_gives_back_its_vector(degrees):
    vector = torch.nn.functional.normalize(torch.tensor([[1.0, -2, 0.5], [0, 0, 1]]), dim=-1) * math.radians(degrees)
    torch.testing.assert_close(rotation_vector(turning(vector)), vector, atol=1e-4, rtol=0)
