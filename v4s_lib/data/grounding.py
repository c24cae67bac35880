"""Grounding episodes: a room, a scan, and an object to end on that the scan shows and the start frame does not."""

from dataclasses import dataclass

import torch
from torch import Tensor

from v4s_lib.data.boxes import LEAST_PIXELS, box_tail, is_centred, mask_box
from v4s_lib.data.instructions import grounding_instruction, object_name
from v4s_lib.data.navigation import episode_scan
from v4s_lib.data.rooms import RoomTask, render_one
from v4s_lib.worlds.paths import FRAMES_PER_LATENT, latent_frames, object_path
from v4s_lib.worlds.raycast import Render
from v4s_lib.worlds.scenes import SceneObject, Scenes, make_scenes, scene_seed

PATHS = 8  # tried for an object before the next one is taken


@dataclass
class GroundingEpisode:
    """One room; a model is given ``scan.rgb``, ``target_frames[0]`` and ``instruction``, and nothing else of it."""

    scenes: Scenes  # one room
    scan: Render  # (F, H, W ...) of the whole scan
    scan_c2w: Tensor  # (F, 4, 4): truth, for measures only
    target: Render  # (F', H, W ...) moving frames; frame 0 is the start frame
    target_c2w: Tensor  # (F', 4, 4)
    target_frames: Tensor  # (F' + tail, H, W, 3): the moving frames and the box tail
    item: SceneObject
    box: Tensor  # (4,) first and last row and column of the object in the last moving frame
    instruction: str


def grounding_episode(split: str, index: int, task: RoomTask, tail_latents: int = 1) -> GroundingEpisode:
    """Episode ``index`` of a split: a function of both and of the task alone.

    Objects and paths are drawn until one fits: unseen in the start frame, seen by the scan, centred and large enough at
    the end. A room without a fit gives place to the room that many indices on, out of reach of any other episode.
    """
    episode = None
    attempt = index
    while episode is None:
        episode = _try_room(scene_seed(split, attempt), task, tail_latents)
        attempt += 10_000_000
    return episode


def _try_room(seed: int, task: RoomTask, tail_latents: int) -> GroundingEpisode | None:
    generator = torch.Generator().manual_seed(seed)
    scenes = make_scenes([seed])
    scan_c2w, heading = episode_scan(scenes, generator, task)
    scan = render_one(scenes, scan_c2w, task)
    objects = scenes.objects[0]
    for choice in torch.randperm(len(objects), generator=generator).tolist():
        item = objects[choice]
        if (scan.instance == item.instance).sum(dim=(1, 2)).max() < LEAST_PIXELS:
            continue
        for _ in range(PATHS):
            target_c2w = _path(scenes, generator, task, item, heading)
            ends = render_one(scenes, target_c2w[:, [0, -1]], task).instance == item.instance
            if not ends[0].any() and is_centred(ends[1]):
                target = render_one(scenes, target_c2w, task)
                box = mask_box(ends[1])
                tail = box_tail(target.rgb[-1], box, FRAMES_PER_LATENT * tail_latents)
                frames = torch.cat([target.rgb, tail])
                instruction = grounding_instruction(object_name(item.label))
                return GroundingEpisode(
                    scenes, scan, scan_c2w[0], target, target_c2w[0], frames, item, box, instruction
                )
    return None


def _path(scenes: Scenes, generator: torch.Generator, task: RoomTask, item: SceneObject, around: Tensor) -> Tensor:
    goal = (torch.tensor(item.box_min) + torch.tensor(item.box_max)) / 2
    frames = latent_frames(task.target_latents)
    return object_path(scenes, generator, frames, goal[None], task.reach, around, task.spread)
