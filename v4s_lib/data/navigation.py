"""Navigation episodes: a room, a scan of it, and a path to follow, with everything that is true about them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from v4s_lib.data.rooms import RoomTask, render_many
from v4s_lib.worlds.paths import latent_frames, scan_path, target_path
from v4s_lib.worlds.raycast import Render
from v4s_lib.worlds.scenes import Scenes, make_scenes, scene_seed

EPISODE_SCAN_LATENTS = 24  # 93 frames: between the shortest and the longest scan seen in training


@dataclass
class NavigationEpisode:
    """One room; a model is given ``scan.rgb``, ``target.rgb[0]`` and ``target_c2w``, and nothing else of it."""

    scenes: Scenes  # one room
    scan: Render  # (F, H, W ...) of the whole scan
    scan_c2w: Tensor  # (F, 4, 4): truth, for measures only
    target: Render  # (F', H, W ...); frame 0 is the start frame
    target_c2w: Tensor  # (F', 4, 4)


def navigation_episode(split: str, index: int, task: RoomTask, scan_latents: int | None = None) -> NavigationEpisode:
    """Episode ``index`` of a split: a function of both and of the task alone."""
    if scan_latents is None:
        scan_latents = min(EPISODE_SCAN_LATENTS, task.scan_latents[1])
    seed = scene_seed(split, index)
    generator = torch.Generator().manual_seed(seed)
    scenes = make_scenes([seed])
    path = scan_path(scenes, generator, latent_frames(scan_latents + task.gap + 1), task.reach)
    length = latent_frames(task.target_latents)
    target = target_path(scenes, generator, length, task.reach, task.turn, around=path[:, -1], spread=task.spread)
    scan = path[:, : latent_frames(scan_latents)]
    renders = [render_many(scenes, c2w, task) for c2w in (scan, target)]
    first, second = (Render(part.rgb[0], part.depth[0], part.instance[0]) for part in renders)
    return NavigationEpisode(scenes, first, scan[0], second, target[0])
