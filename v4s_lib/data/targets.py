"""What a training room asks for: paths to follow, and objects to end on."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from v4s_lib.data.boxes import draw_tail, is_centred, is_shown
from v4s_lib.data.instructions import NAVIGATION, grounding_instruction, object_name
from v4s_lib.worlds.paths import FRAMES_PER_LATENT, latent_frames, object_path, target_path
from v4s_lib.worlds.scenes import SceneObject, Scenes

TURN_TO_OBJECT = 60.0  # degrees between the start frame's direction and an object's, at least
MOST_SPREAD = 30.0  # degrees that are added to it where start frames look away from their own direction
NEIGHBOUR = 90.0  # degrees between two objects, at most, for one to be left or right of the other
RELATED = 0.3  # share of instructions that name a neighbour, too, where there is one


@dataclass
class Goals:
    """Paths of M targets in each of S rooms, and what each of them ends on."""

    c2w: Tensor  # (S, M, F, 4, 4)
    items: list[list[SceneObject | None]]  # S lists of M; None for a path that seeks nothing
    names: list[list[str]]  # S lists of M, "" for none


def draw_goals(scenes: Scenes, generator: torch.Generator, task, targets: int, around: Tensor) -> Goals:
    """Draw ``targets`` paths a room, of which the share ``task.grounding`` seeks an object.

    Every path has the frames of ``task.target_latents`` and ``task.tail_latents``; one that seeks an object stands
    still in the tail. ``around`` (S, 4, 4) is where the start frames look, see ``target_path``.
    """
    tail = FRAMES_PER_LATENT * task.tail_latents
    moving = latent_frames(task.target_latents)
    seeking = round(task.grounding * targets)
    paths, items, names = [], [], []
    for target in range(targets):
        chosen: list[SceneObject | None] = [None] * len(scenes)
        if target < seeking:
            chosen = [choose_object(scenes, room, generator, around[room], task.spread) for room in range(len(scenes))]
        if None in chosen:  # a room with nothing to turn to follows a plain path, and so do all with it
            chosen = [None] * len(scenes)
            path = target_path(scenes, generator, moving + tail, task.reach, task.turn, around, task.spread)
        else:
            goal = torch.stack([middle(item) for item in chosen])
            path = object_path(scenes, generator, moving, goal, task.reach, around, task.spread)
            path = torch.cat([path, path[:, -1:].expand(-1, tail, -1, -1)], dim=1)
        paths.append(path)
        items.append(chosen)
        names.append(["" if item is None else draw_name(scenes, r, item, generator) for r, item in enumerate(chosen)])
    return Goals(torch.stack(paths, dim=1), _turned(items), _turned(names))


def finish(
    goals: Goals, frames: Tensor, instance: Tensor, scan_instance: Tensor, tail: int
) -> tuple[list[list[str]], Tensor]:
    """Draw the box into the last ``tail`` of ``frames`` (S, M, F, H, W, 3), in place, where an object was found.

    Found is an object that the start frame does not show, the scan does, and the last frame has in its centre. Where
    the start frame is alone, without a path, it is enough that the scan shows the object.

    Returns:
        the instruction of each target, the navigation sentence where nothing was sought or found; and the instance ids
        (S, M) of what was found, or -1.
    """
    instructions, found = [], torch.full((len(goals.items), len(goals.items[0])), -1)
    for room, items in enumerate(goals.items):
        instructions.append([NAVIGATION] * len(items))
        for target, item in enumerate(items):
            if item is None:
                continue
            shown = instance[room, target][[0, -1]] == item.instance
            in_scan = is_shown(scan_instance[room] == item.instance)
            alone = frames.shape[2] == 1
            if in_scan and (alone or not shown[0].any() and is_centred(shown[1])):
                if tail:
                    draw_tail(frames[room, target], shown[1], tail)
                instructions[room][target] = grounding_instruction(goals.names[room][target])
                found[room, target] = item.instance
    return instructions, found


def choose_object(
    scenes: Scenes, room: int, generator: torch.Generator, around: Tensor, spread: float
) -> SceneObject | None:
    """One of the objects that the start frame looks away from, or None."""
    far = turned_away(scenes, room, around, spread)
    return far[int(torch.randint(len(far), (), generator=generator))] if far else None


def turned_away(scenes: Scenes, room: int, around: Tensor, spread: float) -> list[SceneObject]:
    """The objects that a frame with the pose ``around`` (4, 4), give or take ``spread`` degrees, looks away from.

    With a spread of more than ``MOST_SPREAD`` it may show them all the same.
    """
    heading = math.atan2(around[1, 2], around[0, 2])
    least = math.radians(TURN_TO_OBJECT + min(spread, MOST_SPREAD))
    return [item for item in scenes.objects[room] if abs(turn(bearing(scenes, room, item) - heading)) > least]


def draw_name(scenes: Scenes, room: int, item: SceneObject, generator: torch.Generator) -> str:
    """ "a red kettle" or, sometimes, "a red kettle left of the blue lamp"."""
    near = neighbours(scenes, room, item)
    related = torch.rand((), generator=generator) < RELATED
    if not near or not related:
        return object_name(item.label)
    relation, other = near[int(torch.randint(len(near), (), generator=generator))]
    return object_name(item.label, relation, other.label)


def neighbours(scenes: Scenes, room: int, item: SceneObject) -> list[tuple[str, SceneObject]]:
    """The objects that ``item`` is left or right of, seen from the middle of the room."""
    here, found = bearing(scenes, room, item), []
    for other in scenes.objects[room]:
        angle = turn(here - bearing(scenes, room, other))
        if other is not item and abs(angle) < math.radians(NEIGHBOUR):
            found.append(("left of" if angle > 0 else "right of", other))
    return found


def bearing(scenes: Scenes, room: int, item: SceneObject) -> float:
    """Direction of an object from the middle of its room, radians, counterclockwise seen from above."""
    x, y = (middle(item)[:2] - (scenes.free_min[room] + scenes.free_max[room]).cpu() / 2).tolist()
    return math.atan2(y, x)


def middle(item: SceneObject) -> Tensor:
    """The middle (3,) of an object's box."""
    return (torch.tensor(item.box_min) + torch.tensor(item.box_max)) / 2


def turn(angle: float) -> float:
    """An angle brought into -pi..pi."""
    return math.remainder(angle, 2 * math.pi)


def _turned(rows: list[list]) -> list[list]:
    return [list(column) for column in zip(*rows, strict=True)]
