"""Navigation episodes: a room, a scan of it, and a path to follow, with everything that is true about them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from v4s_lib.data.rooms import RoomTask, render_one
from v4s_lib.worlds.cameras import Camera
from v4s_lib.worlds.paths import latent_frames, scan_path, target_path
from v4s_lib.worlds.raycast import Render
from v4s_lib.worlds.scenes import Scenes, make_scenes, scene_seed
from v4s_lib.worlds.visibility import Partition, partition

EPISODE_SCAN_LATENTS = 24  # 93 frames; a task that trains on longer scans, or on shorter ones alone, has its own


@dataclass
class NavigationEpisode:
    """One room; a model is given ``scan.rgb``, ``target.rgb[0]`` and ``target_c2w``, and nothing else of it."""

    scenes: Scenes  # one room
    scan: Render  # (F, H, W ...) of the whole scan
    scan_c2w: Tensor  # (F, 4, 4): truth, for measures only
    target: Render  # (F', H, W ...); frame 0 is the start frame
    target_c2w: Tensor  # (F', 4, 4)

    def known(self, context_frames: Tensor, camera: Camera) -> Partition:
        """What could be known of the target's pixels from the start frame and these frames (R,) of the scan."""
        depth, c2w = self.scan.depth[context_frames], self.scan_c2w[context_frames]
        return partition(self.target.depth, self.target_c2w, depth, c2w, camera)


def navigation_episode(split: str, index: int, task: RoomTask, scan_latents: int | None = None) -> NavigationEpisode:
    """Episode ``index`` of a split: a function of both and of the task alone."""
    scenes, scan, target = navigation_paths(split, index, task, scan_latents)
    return NavigationEpisode(
        scenes, render_one(scenes, scan, task), scan[0], render_one(scenes, target, task), target[0]
    )


def navigation_paths(
    split: str, index: int, task: RoomTask, scan_latents: int | None = None
) -> tuple[Scenes, Tensor, Tensor]:
    """An episode's room and the c2w (1, F, 4, 4) of its scan and its target, before anything is rendered."""
    seed = scene_seed(split, index)
    generator = torch.Generator().manual_seed(seed)
    scenes = make_scenes([seed])
    scan, heading = episode_scan(scenes, generator, task, scan_latents)
    length = latent_frames(task.target_latents)
    target = target_path(scenes, generator, length, task.reach, task.turn, around=heading, spread=task.spread)
    return scenes, scan, target


def episode_scan(
    scenes: Scenes, generator: torch.Generator, task: RoomTask, scan_latents: int | None = None
) -> tuple[Tensor, Tensor]:
    """The c2w (1, F, 4, 4) of an episode's scan, and the pose (1, 4, 4) it was heading for when the gap ends."""
    if scan_latents is None:
        shortest, longest = task.scan_latents
        scan_latents = min(max(shortest, EPISODE_SCAN_LATENTS), longest)
    path = scan_path(scenes, generator, latent_frames(scan_latents + task.gap + 1), task.reach)
    return path[:, : latent_frames(scan_latents)], path[:, -1]
