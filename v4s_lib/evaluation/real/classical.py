"""The classical baseline: structure from motion on the unposed video, then splatting along the path (DESIGN §7)."""

import numpy as np
import torch
from scipy.interpolate import griddata
from torch import Tensor

from v4s_lib.data.navigation import NavigationEpisode
from v4s_lib.evaluation.baselines import context_mean
from v4s_lib.evaluation.following import replayed
from v4s_lib.evaluation.real.reconstruct import Structure, reconstruct
from v4s_lib.evaluation.splatting import splat, unproject
from v4s_lib.worlds.cameras import Camera, inverse, to_room
from v4s_lib.worlds.paths import FRAMES_PER_LATENT


def classical_clip(episode: NavigationEpisode, frames: Tensor, camera: Camera) -> tuple[Tensor, dict[str, float]]:
    """The baseline's video (F, H, W, 3), and whether it failed and the share of frames that it registered.

    A failure shows the mean of the context, and is scored like every other video.
    """
    clip, share = sfm_splat(episode, frames, camera)
    mean = context_mean(episode.target.rgb[0], episode.scan.rgb[frames], len(episode.target_c2w))
    return mean if clip is None else clip, {"failure": float(clip is None), "registered": share}


def sfm_splat(episode: NavigationEpisode, frames: Tensor, camera: Camera) -> tuple[Tensor | None, float]:
    """The episode's video (F, H, W, 3) from the scan's ``frames`` (R,) and the start frame, and the share registered.

    Poses are not given. The unit of length is taken from them, for a video does not tell it: a favour to the baseline.
    The video is None where there is no structure, or where it does not hold the start frame, from which the path leads.
    Every fourth frame, as many as a latent holds, is splatted; those between show the same.
    """
    rgb = torch.cat([episode.scan.rgb[frames], episode.target.rgb[:1]])
    structure = reconstruct(rgb, camera)
    share = structure.registered.float().mean().item()
    structure = structure.in_metres(torch.cat([episode.scan_c2w[frames], episode.target_c2w[:1]]))
    if structure is None or not structure.registered[-1]:
        return None, share
    shown = structure.registered.nonzero()[:, 0].flip(0)[::FRAMES_PER_LATENT]  # from the start frame backwards
    depth = torch.stack([frame_depth(structure, number, camera) for number in shown.tolist()])
    path = replayed(episode.target_c2w, structure.c2w[-1].float())[1:]
    points = unproject(depth, structure.c2w[shown].float(), camera)
    return torch.cat([rgb[-1:], splat(points, rgb[shown].flatten(0, 2), path, camera)]), share


def frame_depth(structure: Structure, number: int, camera: Camera) -> Tensor:
    """Depth (H, W) of a registered frame from the points it shows.

    One over depth is linear in the pixels of a flat wall: it is interpolated linearly between the points, and is that
    of the nearest one outside of them.
    """
    points = structure.points[structure.seen[number]]
    pixel, far = camera.project(to_room(points, inverse(structure.c2w[number])))
    grid = np.mgrid[0.5 : camera.height, 0.5 : camera.width][::-1].transpose(1, 2, 0)  # x, then y
    between = griddata(pixel.numpy(), 1 / far.numpy(), grid, "linear")
    outside = griddata(pixel.numpy(), 1 / far.numpy(), grid, "nearest")
    return torch.from_numpy(1 / np.where(np.isnan(between), outside, between)).float()
