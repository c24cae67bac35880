"""Geometric consistency, an option of training alone (claim C3): predicted frames agree where they show one place.

True depths and poses say where a pixel of one frame is in another. They are known of rendered clips in training;
sampling has none, and nothing here is a part of the model. Source: the review names such a loss; the form is ours.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from v4s_lib.model.codec import last_frames
from v4s_lib.training.places import SAME
from v4s_lib.worlds.cameras import Camera, inverse, to_room

ALIKE = 0.2  # of -1..1: two true pixels that differ by more show no one place alike: edges, and the box of a tail


def consistency_loss(
    predicted: Tensor, truth: Tensor, depth: Tensor, c2w: Tensor, counted: Tensor, horizontal_fov: float
) -> Tensor:
    """Mean squared difference of each latent's last frame from the one before and from the start, at one place.

    Args:
        predicted, truth: (B, C, T, h, w) clean latents of the patch codec; those of the start are taken as given.
        depth: (B, T, H, W) metres, of the true frames.
        c2w: (B, T, 4, 4) of the true frames, relative to the start frame.
        counted: (B,) which clips count: those whose model was told the path.
        horizontal_fov: of the camera, degrees.
    """
    patch = math.isqrt(predicted.shape[1] // 12)
    camera = Camera(*depth.shape[-2:], horizontal_fov)
    with torch.autocast(depth.device.type, enabled=False):
        true = last_frames(truth.float(), patch)
        drawn = torch.cat([true[:, :1], last_frames(predicted.float(), patch)[:, 1:]], dim=1)
        error, pixels = drawn.new_zeros(()), 0
        start = torch.zeros(depth.shape[1] - 1, dtype=torch.long, device=depth.device)
        for other in (torch.arange(len(start), device=depth.device), start):  # the frame before, and the start frame
            place, same = shared_pixels(depth[:, 1:], c2w[:, 1:], depth[:, other], c2w[:, other], camera)
            alike = (look_up(true[:, other], place) - true[:, 1:]).abs().amax(dim=-1) < ALIKE
            mask = same & alike & counted[:, None, None, None]
            error = error + ((look_up(drawn[:, other], place) - drawn[:, 1:]).square().mean(dim=-1) * mask).sum()
            pixels = pixels + mask.sum()
    return error / pixels.clamp(min=1)


def shared_pixels(
    depth: Tensor, c2w: Tensor, other_depth: Tensor, other_c2w: Tensor, camera: Camera
) -> tuple[Tensor, Tensor]:
    """Where (B, T, H, W, 2) each pixel's place is in the other frame, in -1..1, and whether that frame shows it.

    Depths are (B, T, H, W), metres, poses (B, T, 4, 4); each frame has one other.
    """
    points = depth[..., None] * camera.rays(device=depth.device)[:, :, 0]
    points = to_room(to_room(points.flatten(2, 3), c2w), inverse(other_c2w))
    pixel, distance = camera.project(points.unflatten(2, depth.shape[2:]))
    place = 2 * pixel / pixel.new_tensor([camera.width, camera.height]) - 1
    met = look_up(other_depth[..., None], place, "nearest")[..., 0]
    inside = (distance > 0.05) & (place.abs() < 1).all(dim=-1)
    return place, inside & ((met - distance).abs() < SAME * (distance + 1))


def look_up(frames: Tensor, place: Tensor, mode: str = "bilinear") -> Tensor:
    """The values (B, T, H, W, C) of frames (B, T, H, W, C) at places (B, T, H, W, 2) in -1..1, x then y."""
    values = grid_sample(
        frames.flatten(0, 1).permute(0, 3, 1, 2), place.flatten(0, 1), mode, "border", align_corners=False
    )
    return values.permute(0, 2, 3, 1).unflatten(0, frames.shape[:2])
