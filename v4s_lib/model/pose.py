"""How a camera path becomes features of the target tokens.

The path is c2w relative to the start frame, OpenCV axes, metres, one pose a frame: (B, T, 4, 4, 4), four frames a
latent (the start frame's latent repeats its one). Nothing here knows where a context frame stands.
"""

import math

import torch
from torch import Tensor, nn

NOMINAL_DEPTH = 2.5  # metres to the walls, about; our choice
POSE_FEATURES = {"ray_map": 4 * (3 + 3) * 7, "c2w_12": 12}


class PoseAdapter(nn.Linear):
    """Pose features (..., F) to what tokens are told of them (..., D), in the type of its weights under autocast, too.

    There the 8 bits of bf16 would round metres to centimetres.
    """

    def forward(self, features: Tensor) -> Tensor:
        kind = "cpu" if features.is_meta else features.device.type  # where a plan counts, nothing computes
        with torch.autocast(kind, enabled=False):
            return super().forward(features.to(self.weight.dtype))


def relative_to_start(c2w: Tensor) -> Tensor:
    """Frames' poses (B, F, 4, 4), F = 4k+1, to (B, T, 4, 4, 4): relative to frame 0 and grouped by latent."""
    start = c2w[:, :1]
    rotation = start[..., :3, :3].transpose(-1, -2)
    relative = torch.zeros_like(c2w)
    relative[..., :3, :3] = rotation @ c2w[..., :3, :3]
    relative[..., :3, 3:] = rotation @ (c2w[..., :3, 3:] - start[..., :3, 3:])
    relative[..., 3, 3] = 1
    return torch.cat([relative[:, :1].repeat_interleave(4, dim=1), relative[:, 1:]], dim=1).unflatten(1, (-1, 4))


def ray_map(path: Tensor, height: int, width: int, horizontal_fov: float) -> Tensor:
    """Where each token looks: features (B, T, height * width, 168) of its rays in the start frame's axes.

    For each of the latent's four frames: direction and origin of the ray through the token's centre, as they are and
    with sines of three octaves. Source: our choice; the paper's page shows no sign of rays (PAPER.md §2).
    """
    direction, origin = token_rays(path, height, width, horizontal_fov)
    value = torch.cat([direction, origin], dim=-1)
    waves = [value * (math.pi * octave) for octave in (0.5, 1, 2)]
    features = torch.cat([value, *(wave.sin() for wave in waves), *(wave.cos() for wave in waves)], dim=-1)
    return features.permute(0, 1, 3, 2, 4).flatten(3)


def token_rays(path: Tensor, height: int, width: int, horizontal_fov: float) -> tuple[Tensor, Tensor]:
    """Unit directions and origins (B, T, 4, height * width, 3) of the rays through the tokens' centres."""
    x = (torch.arange(width, device=path.device) + 0.5) / width * 2 - 1
    y = ((torch.arange(height, device=path.device) + 0.5) / height * 2 - 1) * height / width
    y, x = torch.meshgrid(y, x, indexing="ij")
    slope = math.tan(math.radians(horizontal_fov) / 2)
    rays = torch.stack([x * slope, y * slope, torch.ones_like(x)], dim=-1).flatten(0, 1).to(path.dtype)
    rays = torch.nn.functional.normalize(rays, dim=-1)
    with torch.autocast(path.device.type, enabled=False):  # directions need more than the 8 bits of bf16
        direction = rays @ path[..., :3, :3].transpose(-1, -2)
    return direction, path[..., :3, 3].unsqueeze(-2).expand_as(direction)


def ray_rotary(
    path: Tensor, time_index: Tensor, height: int, width: int, horizontal_fov: float, head_dim: int
) -> tuple[Tensor, Tensor]:
    """Rotary tables, each (B, 1, N, head_dim / 2), of where in the room tokens look instead of where in the frame.

    A token looks at the point NOMINAL_DEPTH along its ray. Half of a head's pairs turn with the yaw of that point, seen
    from the path's origin (harmonics 1, 2, ...), a third with its elevation, the rest with the time index. All tokens
    that look at one place turn alike, whichever frame they are in. Source: GTA (arXiv 2310.10375); the angles are ours.
    """
    direction, origin = token_rays(path, height, width, horizontal_fov)
    point = (origin + NOMINAL_DEPTH * direction).mean(dim=2).flatten(1, 2)  # B N 3
    yaw = torch.atan2(point[..., 0], point[..., 2])
    elevation = torch.atan2(point[..., 1], point[..., ::2].norm(dim=-1))
    time = time_index.repeat_interleave(height * width, dim=1).to(yaw.dtype)
    pairs = head_dim // 2
    counts = (pairs // 2, pairs // 3, pairs - pairs // 2 - pairs // 3)
    harmonics = [torch.arange(1, count + 1, device=path.device) for count in counts]
    angles = [
        yaw[..., None] * harmonics[0],
        2 * elevation[..., None] * harmonics[1],
        time[..., None] / 4 ** harmonics[2],
    ]
    angle = torch.cat(angles, dim=-1)[:, None]
    return angle.cos(), angle.sin()


def c2w_12(path: Tensor, height: int, width: int) -> Tensor:
    """One pose a latent, that of its last frame, as 12 numbers: (B, T, height * width, 12), the same for each token."""
    numbers = path[:, :, -1, :3].flatten(2)
    return numbers[:, :, None].expand(-1, -1, height * width, -1)
