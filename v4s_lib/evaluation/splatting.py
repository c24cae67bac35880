"""Splatting: a scene's points shown from elsewhere, by explicit geometry and without diffusion (DESIGN §7).

With true depth and poses it is what geometry can reach. With the depth and poses that our own sight finds it is what
geometry alone makes of our model's input: the same unposed video.
"""

import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from v4s_lib.data.navigation import NavigationEpisode
from v4s_lib.model.cloud import COUNT, Cloud, make_cloud, view
from v4s_lib.model.fusion import agree
from v4s_lib.model.pipeline import Video4SpatialPipeline
from v4s_lib.model.pose import relative_to_start
from v4s_lib.worlds.cameras import Camera, to_room
from v4s_lib.worlds.paths import FRAMES_PER_LATENT


def unproject(depth: Tensor, c2w: Tensor, camera: Camera) -> Tensor:
    """The points (R * H * W, 3) that frames with depth (R, H, W), metres, and c2w (R, 4, 4) show."""
    points = depth[..., None] * camera.rays(device=depth.device)[:, :, 0]
    return to_room(points.flatten(1, 2), c2w).flatten(0, 1)


def splat(points: Tensor, colors: Tensor, c2w: Tensor, camera: Camera, weight: Tensor | None = None) -> Tensor:
    """Points (N, 3) with colours (N, 3) seen from c2w (F, 4, 4): frames (F, H, W, 3), as our painter is shown them.

    ``weight`` (N,) says how sure each is; None is alike. A pixel that no point reaches takes the colour of the nearest
    one that has some; a frame without any is grey.
    """
    weight = torch.ones(len(points)) if weight is None else weight
    cloud = Cloud(points[None], colors[None], weight[None], torch.zeros(1, len(points)))
    return fill(view(cloud, c2w[None], camera)[0])


def fill(seen: Tensor) -> Tensor:
    """The colours (F, H, W, 3) of views (F, H, W, CHANNELS), holes filled by the pixel nearest to them."""
    frames = []
    for frame in seen:
        empty = (frame[..., COUNT] == 0).numpy()
        if empty.all():
            frames.append(torch.full_like(frame[..., :3], 0.5))
        else:
            rows, columns = distance_transform_edt(empty, return_distances=False, return_indices=True)
            frames.append(frame[torch.from_numpy(rows).long(), torch.from_numpy(columns).long(), :3])
    return torch.stack(frames)


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

    Poses are our model's, and depths those on which all of these frames agree; nothing else is changed. None for a
    model without sight.
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
    frames = torch.cat([groups[0].flatten(0, 1), episode.target.rgb[:1].to(device)])
    alone = codec.encode_groups(frames[None, :, None].expand(-1, -1, FRAMES_PER_LATENT, -1, -1, -1))
    poses = torch.cat([findings.context_poses[0].flatten(0, 1), findings.target_poses[0, :, -1]])[None]
    cloud = make_cloud(model.sight, alone, agree(model.sight, model.sight(alone), poses), poses)
    place, color, weight = (value[0].cpu() for value in (cloud.place, cloud.color, cloud.weight))
    path = poses[0, -1].cpu() @ relative_to_start(episode.target_c2w[None].double()).float()[0, 1:].flatten(0, 1)
    shown = splat(place, color / 2 + 0.5, path, camera, weight)
    return torch.cat([episode.target.rgb[:1], shown])
