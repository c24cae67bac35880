"""Grounding episodes: a room, a scan, and an object to end on that the scan shows and the start frame does not."""

from dataclasses import dataclass

import torch
from torch import Tensor

from v4s_lib.data.boxes import box_tail, is_centred, is_shown, mask_box
from v4s_lib.data.instructions import grounding_instruction
from v4s_lib.data.navigation import episode_scan
from v4s_lib.data.rooms import RoomTask, render_one
from v4s_lib.data.targets import draw_name, middle, turned_away
from v4s_lib.worlds.paths import FRAMES_PER_LATENT, latent_frames, object_path
from v4s_lib.worlds.raycast import Render
from v4s_lib.worlds.scenes import SceneObject, Scenes, make_scenes, scene_seed

PATHS = 8  # tried for an object before the next one is taken
ROOMS = 200  # tried for an episode
NEXT_ROOM = 10_000_000  # added to an index whose room has nothing to ask for, out of reach of any other episode


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
    distracted: bool  # whether the room also holds its colour on another kind, and its kind in another colour


def grounding_episode(split: str, index: int, task: RoomTask) -> GroundingEpisode:
    """Episode ``index`` of a split: a function of both and of the task alone.

    Objects and paths are drawn until one fits: unseen in the start frame, seen by the scan, centred and large enough at
    the end. In the room of an even index the object has both distractors.
    """
    for attempt in range(ROOMS):
        episode = _try_room(scene_seed(split, index + attempt * NEXT_ROOM), task, distracted=index % 2 == 0)
        if episode is not None:
            return episode
    raise ValueError(
        f"expected an object to ask for in one of {ROOMS} rooms, got none: use larger frames or a longer scan"
    )


def is_distracted(item: SceneObject, objects: list[SceneObject]) -> bool:
    """Whether there is the same colour on another kind, and the same kind in another colour."""
    colors = [other for other in objects if other.color == item.color and other.kind != item.kind]
    kinds = [other for other in objects if other.kind == item.kind and other.color != item.color]
    return bool(colors and kinds)


def _try_room(seed: int, task: RoomTask, distracted: bool) -> GroundingEpisode | None:
    generator = torch.Generator().manual_seed(seed)
    scenes = make_scenes([seed])
    scan_c2w, around = episode_scan(scenes, generator, task)
    items = turned_away(scenes, 0, around[0], task.spread)
    if distracted:
        items = [item for item in items if is_distracted(item, scenes.objects[0])]
    if not items:
        return None
    scan = render_one(scenes, scan_c2w, task)
    frames = latent_frames(task.target_latents)
    for choice in torch.randperm(len(items), generator=generator).tolist():
        item = items[choice]
        if not is_shown(scan.instance == item.instance):
            continue
        for _ in range(PATHS):
            path = object_path(scenes, generator, frames, middle(item)[None], task.reach, around, task.spread)
            ends = render_one(scenes, path[:, [0, -1]], task).instance == item.instance
            if not ends[0].any() and is_centred(ends[1]):
                target = render_one(scenes, path, task)
                box = mask_box(ends[1])
                tail = box_tail(target.rgb[-1], box, FRAMES_PER_LATENT * task.tail_latents)
                return GroundingEpisode(
                    scenes,
                    scan,
                    scan_c2w[0],
                    target,
                    path[0],
                    torch.cat([target.rgb, tail]),
                    item,
                    box,
                    grounding_instruction(draw_name(scenes, 0, item, generator)),
                    is_distracted(item, scenes.objects[0]),
                )
    return None
