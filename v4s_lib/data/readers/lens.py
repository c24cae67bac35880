"""From the lens of a real camera to the centred pinhole camera of an episode.

Every ray of the pinhole camera is followed into the publisher's picture, through its distortion where it has one. That
crops, scales and undistorts in one step, and absorbs a focal length that changes from frame to frame.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample

from v4s_lib.worlds.cameras import Camera

WIDEST = 120.0  # degrees; our choice: beyond it a flat picture is mostly its own edges
SQUARE = 0.05  # by how much the sides of a pixel may differ; our choice


@dataclass(frozen=True, eq=False)
class Lens:
    """Where rays meet the pictures of F frames, in shares of width and height from the upper left corner.

    The formulas are those of OpenCV and COLMAP (camera models OPENCV and OPENCV_FISHEYE).
    """

    focal: Tensor  # float64 (F, 2), in widths and in heights
    centre: Tensor  # float64 (F, 2)
    distortion: Tensor  # float64 (F, 6): k1, k2, k3, k4 along the radius, p1, p2 across it
    fisheye: bool = False

    def __getitem__(self, frames: slice) -> "Lens":
        return Lens(self.focal[frames], self.centre[frames], self.distortion[frames], self.fisheye)

    def project(self, rays: Tensor) -> Tensor:
        """Places (F, N, 2), x then y, of the rays (N, 3) in camera axes."""
        x, y = (rays[:, :2] / rays[:, 2:]).to(self.focal).T
        square = x * x + y * y
        k1, k2, k3, k4, p1, p2 = self.distortion.T[..., None]
        bend, across, down = torch.ones_like(square), 0.0, 0.0
        if self.fisheye:
            radius = square.sqrt().clamp(min=1e-12)
            square = torch.atan(radius) ** 2  # of the angle to the optical axis
            bend = square.sqrt() / radius
        else:
            across = 2 * p1 * x * y + p2 * (square + 2 * x * x)
            down = 2 * p2 * x * y + p1 * (square + 2 * y * y)
        bend = bend * (1 + square * (k1 + square * (k2 + square * (k3 + square * k4))))
        bent = torch.stack([x * bend + across, y * bend + down], dim=-1)
        return bent * self.focal[:, None] + self.centre[:, None]


def pinhole(focal: Tensor, centre: Tensor) -> Lens:
    """A lens without distortion; both arguments (F, 2), in widths and heights."""
    return Lens(focal, centre, torch.zeros(len(focal), 6, dtype=torch.float64))


def widest_camera(lens: Lens, turn: Tensor, height: int, width: int) -> Camera:
    """The camera with the widest field of view, to 0.1 degrees, that sees nothing outside any of the pictures.

    Args:
        lens: of all frames.
        turn: (3, 3), from the axes of the episode's camera to those of the publisher's.
        height, width: of the episode, pixels.
    """
    best = None
    for tenths in range(10, round(10 * WIDEST) + 1):
        camera = Camera(height, width, tenths / 10)
        right = math.tan(math.radians(camera.horizontal_fov) / 2)
        down = right * height / width
        edge = torch.tensor([[x, y, 1.0] for x in (-right, 0, right) for y in (-down, 0, down)], dtype=torch.float64)
        places = lens.project(edge @ turn.T.to(edge))
        if places.min() < -1e-6 or places.max() > 1 + 1e-6:
            break
        best = camera
    if best is None:
        raise ValueError(
            "expected principal points inside the pictures, got one outside or a focal length that fits no picture: "
            "check that pictures and intrinsics are of one size"
        )
    return best


def photograph(pictures: Tensor, lens: Lens, turn: Tensor, camera: Camera) -> Tensor:
    """What ``camera`` would have taken in the place of the lens: uint8 (F, H, W, 3).

    Each pixel is the mean of as many rays as it takes to miss no pixel of the picture.

    Args:
        pictures: uint8 (F, h, w, 3).
        lens: of these F frames.
        turn: (3, 3), from the axes of ``camera`` to those of the publisher's.
    """
    height, width = pictures.shape[1:3]
    pixels = lens.focal * torch.tensor([width, height])
    aspect = (pixels[:, 0] / pixels[:, 1] - 1).abs().max()
    if aspect > SQUARE:
        raise ValueError(
            f"expected square pixels, got pictures of {height}x{width} whose pixels are {aspect:.0%} off: "
            "use pictures that are neither turned nor cropped"
        )
    fine = max(1, math.ceil(pixels.max().item() / camera.focal))
    rays = Camera(camera.height * fine, camera.width * fine, camera.horizontal_fov).rays()[:, :, 0]
    rays = rays.flatten(0, 1) @ turn.T.to(rays)
    result = torch.empty(len(pictures), camera.height, camera.width, 3, dtype=torch.uint8)
    for index, picture in enumerate(pictures):
        places = lens[index : index + 1].project(rays).float().view(1, camera.height * fine, camera.width * fine, 2)
        channels = picture.permute(2, 0, 1)[None].float()
        taken = grid_sample(channels, 2 * places - 1, padding_mode="border", align_corners=False)
        result[index] = avg_pool2d(taken, fine)[0].permute(1, 2, 0).round().clamp(0, 255)
    return result


def photograph_depth(depth: Tensor, lens: Lens, turn: Tensor, camera: Camera) -> Tensor:
    """The depth (F, h, w) of the publisher's pictures as ``camera`` has it: (F, H, W), each pixel the nearest one's.

    A mean of near and far would be a surface where there is none. Turns about the optical axis leave depth as it is.
    """
    rays = camera.rays()[:, :, 0].flatten(0, 1)
    places = lens.project(rays @ turn.T.to(rays)).float().view(len(depth), camera.height, camera.width, 2)
    settings = {"mode": "nearest", "padding_mode": "border", "align_corners": False}
    return grid_sample(depth[:, None], 2 * places - 1, **settings)[:, 0]
