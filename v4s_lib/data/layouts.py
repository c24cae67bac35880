"""A generated room, filmed and left as a publisher leaves its scans: what the readers can be shown on.

No licence of the real sets allows to pass a scan of theirs on. A scan made here has the same files, and a known truth.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from v4s_lib.data import disk
from v4s_lib.data.rooms import RoomTask, render_one
from v4s_lib.data.video import write_video
from v4s_lib.worlds.cameras import Camera
from v4s_lib.worlds.paths import latent_frames, scan_path
from v4s_lib.worlds.scenes import SceneObject, Scenes, make_scenes

# A phone's shape of picture and about its field of view, in as few pixels as the small models ask for. Our choice.
PHONE = Camera(48, 64, 75.0)
RATE = 60  # frames a second of an iPhone's video in ScanNet++


def film_room(folder: Path, seed: int, task: RoomTask, latents: int) -> tuple[Scenes, Tensor]:
    """Walk through the room of a scene seed with ``PHONE``, and leave what it saw as ScanNet++ does.

    The walk is that of the task's scans. The video has one frame more than there are poses: the phone has lost its way.

    Returns:
        The room, and the true poses (F, 4, 4) of the frames of so many latents.
    """
    scenes = make_scenes([seed])
    c2w = scan_path(scenes, torch.Generator().manual_seed(seed), latent_frames(latents), task.reach)
    rgb = render_one(scenes, c2w, replace(task, camera=PHONE)).rgb
    frames = (rgb * 255).round().clamp(0, 255).to(torch.uint8)
    centre = (PHONE.width / 2, PHONE.height / 2)
    write_scannetpp(folder, torch.cat([frames, frames[-1:]]), c2w[0], PHONE.focal, centre, scenes.objects[0])
    return scenes, c2w[0]


def write_scannetpp(
    folder: Path,
    frames: Tensor,
    c2w: Tensor,
    focal: float,
    centre: tuple[float, float],
    objects: Sequence[SceneObject],
) -> None:
    """Write a scan in the layout that ``readers/scannetpp.py`` describes, an iPhone's video with annotated objects.

    Args:
        folder: of the scene.
        frames: uint8 (F, H, W, 3).
        c2w: (P, 4, 4), OpenCV axes, metres; frames from P on have no aligned pose.
        focal, centre: of the lens, pixels; x, then y.
        objects: with boxes along the axes.
    """
    write_video(folder / "iphone" / "rgb.mp4", frames, RATE)
    matrix = [[focal, 0.0, centre[0]], [0.0, focal, centre[1]], [0.0, 0.0, 1.0]]
    entries = [{"timestamp": index / RATE, "intrinsic": matrix} for index in range(len(frames))]
    for entry, pose in zip(entries, c2w.tolist(), strict=False):
        entry["aligned_pose"] = pose
    poses = {f"frame_{index:06d}": entry for index, entry in enumerate(entries)}
    write_json(folder / "iphone" / "pose_intrinsic_imu.json", poses)
    write_annotation(folder, objects)


def write_annotation(folder: Path, objects: Sequence[SceneObject]) -> None:
    """Write the objects of a scene as ScanNet++ does, for its videos and its photos alike."""
    groups = [{"label": o.label, "objectId": o.instance, "obb": turned_box(o)} for o in objects]
    write_json(folder / "scans" / "segments_anno.json", {"sceneId": folder.name, "segGroups": groups})


def turned_box(item: SceneObject) -> dict[str, list[float]]:
    """An oriented box whose axes are the world's in another order, so that its size along them is known exactly."""
    low, high = torch.tensor(item.box_min), torch.tensor(item.box_max)
    size = (high - low)[[2, 0, 1]].tolist()
    axes = [0.0, 0.0, -1.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0]
    return {"centroid": ((low + high) / 2).tolist(), "axesLengths": size, "normalizedAxes": axes}


def write_json(path: Path, content: object) -> None:
    """Write a JSON file, and the folder it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    disk.write_json(path, content)
