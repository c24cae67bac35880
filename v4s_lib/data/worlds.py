"""Navigation episodes of the worlds out of domain: the walks of the rooms, in other scenes (DESIGN §6).

Episode ``index`` of a split has the same walk in every world, moved to the scene's empty middle, so that worlds are
compared in pairs.
"""

from torch import Tensor

from v4s_lib.data.navigation import NavigationEpisode, navigation_paths
from v4s_lib.data.rooms import RoomTask, render_one
from v4s_lib.worlds.park import make_parks
from v4s_lib.worlds.scenes import Scenes, scene_seed
from v4s_lib.worlds.unseen import with_unseen_kinds

WORLDS = {
    "rooms": lambda room, seed: room,
    "rooms_unseen": lambda room, seed: with_unseen_kinds(room, [seed]),
    "park": lambda room, seed: make_parks([seed]),
}


def world_episode(
    world: str, split: str, index: int, task: RoomTask, scan_latents: int | None = None
) -> NavigationEpisode:
    """Episode ``index`` of a split in a world out of ``WORLDS``; in ``rooms`` it is ``navigation_episode``'s."""
    if world not in WORLDS:
        raise ValueError(f"expected a world out of {', '.join(WORLDS)}, got {world!r}: choose one of them")
    room, *paths = navigation_paths(split, index, task, scan_latents)
    scenes = WORLDS[world](room, scene_seed(split, index))
    scan, target = (_moved(path, room, scenes, world) for path in paths)
    return NavigationEpisode(
        scenes, render_one(scenes, scan, task), scan[0], render_one(scenes, target, task), target[0]
    )


def _moved(path: Tensor, room: Scenes, scenes: Scenes, world: str) -> Tensor:
    """A path (1, F, 4, 4) of a room in another scene, at the same place in its empty middle."""
    moved = path.clone()
    moved[..., :2, 3] += ((scenes.free_min + scenes.free_max) - (room.free_min + room.free_max)) / 2
    place = moved[..., :2, 3]
    if (place < scenes.free_min).any() or (place > scenes.free_max).any():
        raise ValueError(f"expected a path inside the empty middle of the world {world}, got one outside: reach less")
    return moved
