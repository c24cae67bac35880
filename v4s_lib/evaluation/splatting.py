"""Splatting: a scene's points shown from elsewhere, by explicit geometry and without diffusion (DESIGN §7).

With true depth and poses it is what geometry can reach. With the depth and poses that our own sight finds it is what
geometry alone makes of our model's input: the same unposed video.
"""

import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from v4s_lib.data.navigation import NavigationEpisode
from v4s_lib.model.cloud import CLOSEST, fine
from v4s_lib.model.pipeline import Video4SpatialPipeline
from v4s_lib.model.pose import relative_to_start
from v4s_lib.worlds.cameras import Camera, inverse, to_room
from v4s_lib.worlds.paths import FRAMES_PER_LATENT

BEHIND = 0.05  # of the nearest point's distance: points up to so much farther away are of the same surface
LEAST = 0.01  # of a pixel: a point that touches less of it does not colour it


def unproject(depth: Tensor, c2w: Tensor, camera: Camera) -> Tensor:
    """The points (R * H * W, 3) that frames with depth (R, H, W), metres, and c2w (R, 4, 4) show."""
    points = depth[..., None] * camera.rays(device=depth.device)[:, :, 0]
    return to_room(points.flatten(1, 2), c2w).flatten(0, 1)


def splat(points: Tensor, colors: Tensor, c2w: Tensor, camera: Camera) -> Tensor:
    """Points (N, 3) with colours (N, 3) seen from c2w (F, 4, 4): frames (F, H, W, 3).

    Each point colours the four pixels around it, by nearness; what stands behind is left out. A pixel that no point
    reaches takes the colour of the nearest one that has some; a frame without any is grey.
    """
    return torch.stack([_splat_one(points, colors, pose, camera) for pose in c2w])


def _splat_one(points: Tensor, colors: Tensor, c2w: Tensor, camera: Camera) -> Tensor:
    height, width = camera.height, camera.width
    pixel, far = camera.project(to_room(points, inverse(c2w)))
    corner = torch.floor(pixel - 0.5)
    share = pixel - 0.5 - corner  # of the pixel right and below
    nearest = torch.full((height * width,), torch.inf, dtype=far.dtype)
    parts = []
    for right in (0, 1):
        for below in (0, 1):
            column, row = corner[:, 0] + right, corner[:, 1] + below
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height) & (far > CLOSEST)
            sides = (share[:, 0] if right else 1 - share[:, 0], share[:, 1] if below else 1 - share[:, 1])
            inside &= sides[0] * sides[1] > LEAST
            index, weight = (row * width + column)[inside].long(), (sides[0] * sides[1])[inside]
            nearest.scatter_reduce_(0, index, far[inside], "amin")
            parts.append((index, weight, inside))
    total = torch.zeros(height * width, 4, dtype=colors.dtype)
    for index, weight, inside in parts:
        weight = weight * (far[inside] <= nearest[index] * (1 + BEHIND))
        total.index_add_(0, index, torch.cat([weight[:, None] * colors[inside], weight[:, None]], dim=1))
    frame = (total[:, :3] / total[:, 3:].clamp(min=1e-6)).view(height, width, 3)
    empty = (total[:, 3] == 0).view(height, width).numpy()
    if empty.all():
        return torch.full_like(frame, 0.5)
    rows, columns = distance_transform_edt(empty, return_distances=False, return_indices=True)
    return frame[torch.from_numpy(rows).long(), torch.from_numpy(columns).long()]


def splat_true_geometry(episode: NavigationEpisode, frames: Tensor, camera: Camera) -> Tensor:
    """The episode's video (F, H, W, 3) by splatting with true depth and poses: no legal input of the model."""
    colors = torch.cat([episode.scan.rgb[frames], episode.target.rgb[:1]])
    depth = torch.cat([episode.scan.depth[frames], episode.target.depth[:1]])
    c2w = torch.cat([episode.scan_c2w[frames], episode.target_c2w[:1]])
    shown = splat(unproject(depth, c2w, camera), colors.flatten(0, 2), episode.target_c2w[1:], camera)
    return torch.cat([episode.target.rgb[:1], shown])


@torch.no_grad()
def splat_sight(
    pipeline: Video4SpatialPipeline, episode: NavigationEpisode, index: Tensor, camera: Camera
) -> Tensor | None:
    """The episode's video (F, H, W, 3) by splatting what sight sees in the context latents ``index`` and the start.

    None for a model without sight.
    """
    model, codec, device = pipeline.transformer, pipeline.codec, pipeline._execution_device
    if model.sight is None:
        return None
    length = (len(episode.scan.rgb) - 1) // FRAMES_PER_LATENT + 1
    groups = codec.group(episode.scan.rgb[None, : FRAMES_PER_LATENT * (length - 1) + 1])[:, index].to(device)
    start = codec.encode(episode.target.rgb[None, :1].to(device))
    _, findings = model(
        start,
        torch.zeros(1, device=device),
        torch.tensor([[length + pipeline.config.gap]], device=device),
        context_latents=codec.encode_groups(groups),
        context_time_index=index[None].to(device),
        return_findings=True,
    )
    poses = torch.cat([findings.context_poses[0].flatten(0, 1), findings.target_poses[0, :, -1]]).cpu()
    frames = torch.cat([groups[0].flatten(0, 1), episode.target.rgb[:1].to(device)])
    alone = frames[None, :, None].expand(-1, -1, FRAMES_PER_LATENT, -1, -1, -1)  # sight looks at a latent's last frame
    depth = fine(model.sight(codec.encode_groups(alone)).log_depth, model.sight).exp().cpu()
    depth = depth.view(-1, camera.height, camera.width)
    path = poses[-1] @ relative_to_start(episode.target_c2w[None].double()).float()[0, 1:].flatten(0, 1)
    shown = splat(unproject(depth, poses, camera), frames.cpu().flatten(0, 2), path, camera)
    return torch.cat([episode.target.rgb[:1], shown])
