"""Pinhole cameras and rigid poses.

Every pose is ``c2w``: a 4x4 camera-to-world matrix with OpenCV camera axes (x right, y down, z forward), in metres.
The world's z axis points up.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Where the samples of a pixel stand, in pixels from its centre: one, a rotated pair with the centre, a quincunx.
SAMPLE_OFFSETS = {
    1: [(0.0, 0.0)],
    3: [(0.0, 0.0), (-0.33, 0.25), (0.33, -0.25)],
    5: [(0.0, 0.0), (-0.3, -0.3), (0.3, -0.3), (-0.3, 0.3), (0.3, 0.3)],
}


@dataclass(frozen=True)
class Camera:
    """A pinhole camera without distortion; square pixels, principal point at the centre."""

    height: int
    width: int
    horizontal_fov: float = 90.0  # degrees; our choice

    @property
    def focal(self) -> float:
        """Focal length in pixels."""
        return self.width / 2 / math.tan(math.radians(self.horizontal_fov) / 2)

    def rays(self, samples: int = 1, device: torch.device | str = "cpu") -> Tensor:
        """Ray directions through the pixels, (H, W, samples, 3), camera axes, scaled to z = 1.

        The first sample is the pixel's centre; see ``SAMPLE_OFFSETS`` for the others.
        """
        if samples not in SAMPLE_OFFSETS:
            raise ValueError(
                f"expected samples to be one of {sorted(SAMPLE_OFFSETS)}, got {samples}: choose one of them"
            )
        offsets = torch.tensor(SAMPLE_OFFSETS[samples], device=device) + 0.5
        x = torch.arange(self.width, device=device)[None, :, None] + offsets[:, 0]
        y = torch.arange(self.height, device=device)[:, None, None] + offsets[:, 1]
        x, y = torch.broadcast_tensors((x - self.width / 2) / self.focal, (y - self.height / 2) / self.focal)
        return torch.stack([x, y, torch.ones_like(x)], dim=-1)

    def project(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Pixel coordinates (..., 2), x then y, and depth (...) of points (..., 3) given in camera axes."""
        depth = points[..., 2]
        scale = self.focal / depth.clamp(min=1e-6)
        x = points[..., 0] * scale + self.width / 2
        y = points[..., 1] * scale + self.height / 2
        return torch.stack([x, y], dim=-1), depth


def pose(position: Tensor, yaw: Tensor, pitch: Tensor) -> Tensor:
    """c2w (..., 4, 4) of a level camera at ``position`` (..., 3), metres.

    ``yaw`` and ``pitch`` (...) are in radians: yaw 0 looks along +x and grows counter-clockwise seen from above;
    pitch grows upwards.
    """
    zero = torch.zeros_like(yaw)
    forward = torch.stack([yaw.cos() * pitch.cos(), yaw.sin() * pitch.cos(), pitch.sin()], dim=-1)
    right = torch.stack([yaw.sin(), -yaw.cos(), zero], dim=-1)
    down = torch.linalg.cross(forward, right, dim=-1)
    c2w = torch.zeros(*position.shape[:-1], 4, 4, dtype=position.dtype, device=position.device)
    c2w[..., :3, 0], c2w[..., :3, 1], c2w[..., :3, 2], c2w[..., :3, 3] = right, down, forward, position
    c2w[..., 3, 3] = 1
    return c2w


def cross_matrix(vector: Tensor) -> Tensor:
    """The matrix (..., 3, 3) that takes the cross product of ``vector`` (..., 3) with what it is applied to."""
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))


def turning(vector: Tensor) -> Tensor:
    """The rotation (..., 3, 3) about ``vector`` (..., 3) by its length, in radians."""
    return torch.linalg.matrix_exp(cross_matrix(vector))


def rotation_vector(rotation: Tensor) -> Tensor:
    """The vector (..., 3) by which ``turning`` gives ``rotation`` (..., 3, 3), of less than half a turn."""
    skew = (rotation - rotation.transpose(-1, -2)) / 2
    axis = torch.stack([skew[..., 2, 1], skew[..., 0, 2], skew[..., 1, 0]], dim=-1)
    sine = axis.norm(dim=-1, keepdim=True)
    cosine = (rotation.diagonal(dim1=-2, dim2=-1).sum(dim=-1, keepdim=True) - 1) / 2
    return torch.where(sine > 1e-6, torch.atan2(sine, cosine) / sine.clamp(min=1e-6), 1.0) * axis


def inverse(c2w: Tensor) -> Tensor:
    """Inverse of rigid matrices (..., 4, 4), exact where a general inverse is not."""
    rotation = c2w[..., :3, :3].transpose(-1, -2)
    result = torch.zeros_like(c2w)
    result[..., :3, :3] = rotation
    result[..., :3, 3] = -(rotation @ c2w[..., :3, 3:])[..., 0]
    result[..., 3, 3] = 1
    return result


def to_room(points: Tensor, c2w: Tensor) -> Tensor:
    """Points (..., N, 3) in camera axes, in the axes that c2w (..., 4, 4) leads to."""
    return points @ c2w[..., :3, :3].transpose(-1, -2) + c2w[..., None, :3, 3]


def degrees_off(c2w: Tensor, goal: Tensor) -> float:
    """Angle in degrees between a camera's (4, 4) viewing direction and the way to a point (3,)."""
    way = torch.nn.functional.normalize(goal - c2w[:3, 3], dim=0)
    return math.degrees(math.acos(float((way @ c2w[:3, 2]).clamp(-1, 1))))


def rotation_angle(first: Tensor, second: Tensor) -> Tensor:
    """Angle in degrees (...) between the rotations of two batches of c2w (..., 4, 4); precise near 0 and 180."""
    difference = (first[..., :3, :3] - second[..., :3, :3]).flatten(-2).norm(dim=-1)
    return torch.rad2deg(2 * torch.asin((difference / math.sqrt(8)).clamp(max=1)))


def translation_distance(first: Tensor, second: Tensor) -> Tensor:
    """Distance in metres (...) between the centres of two batches of c2w (..., 4, 4)."""
    return (first[..., :3, 3] - second[..., :3, 3]).norm(dim=-1)


def check_rigid(c2w: Tensor, name: str, tolerance: float = 1e-3) -> None:
    """Raise ``ValueError`` unless every matrix of ``c2w`` (..., 4, 4) is finite and a rotation with a translation."""
    if c2w.shape[-2:] != (4, 4):
        raise ValueError(f"expected {name} to end in shape (4, 4), got {tuple(c2w.shape)}: pass c2w matrices")
    if not torch.isfinite(c2w).all():
        raise ValueError(f"expected finite numbers in {name}, got NaN or infinity: check the file or path it came from")
    rotation = c2w[..., :3, :3]
    unit = torch.eye(3, dtype=c2w.dtype, device=c2w.device)
    error = (rotation @ rotation.transpose(-1, -2) - unit).abs().amax().item()
    last_row = (c2w[..., 3, :] - torch.tensor([0.0, 0, 0, 1], dtype=c2w.dtype, device=c2w.device)).abs().amax().item()
    if error > tolerance or last_row > tolerance or torch.linalg.det(rotation).amin() < 0:
        raise ValueError(
            f"expected rigid c2w matrices in {name}, got one that scales, shears or mirrors "
            f"(error {max(error, last_row):.3g}): check the convention it was written in"
        )
