"""Episodes: a scan video with, where they are known, its cameras and the objects in the scene.

An episode is a folder with ``scan.mp4`` and ``transforms.json``. The latter follows nerfstudio's convention (OPENCV
camera model, camera-to-world matrices in OpenGL axes: x right, y up, z backward, metres), but the frames are in the
video, so that every entry names the video and a ``frame_index``. Objects and the seed of a generated scene have keys of
their own; so has what is not as usual: ``metric`` is false where lengths are of an unknown unit, ``place`` is what
captions call a scene that is no room. ``depth.npz`` may stand beside them, see ``depth.py``. A folder with a video
alone is an episode without cameras.
"""

import json
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from v4s_lib.data.depth import DEPTH_NAME, read_depth, write_depth
from v4s_lib.data.instructions import PLACE
from v4s_lib.data.video import count_frames, read_frames, write_video
from v4s_lib.worlds.cameras import Camera, check_rigid
from v4s_lib.worlds.scenes import SceneObject

VIDEO_NAME = "scan.mp4"
TRANSFORMS_NAME = "transforms.json"
USUAL = {"metric": True, "place": PLACE}  # what a transforms.json that does not say so means
VIDEO_SUFFIXES = {".mp4", ".mov", ".mkv", ".webm", ".avi"}


@dataclass(frozen=True)
class EpisodeObject:
    """A named thing in the scene and its axis-aligned box, in the unit of the poses."""

    label: str
    instance: int
    box_min: tuple[float, float, float]
    box_max: tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Episode:
    """A scan of one scene. ``c2w`` and ``camera`` are for training and measures only: no sampler may see them."""

    frames: Tensor  # uint8 RGB, (F, H, W, 3)
    c2w: Tensor | None  # float32 (F, 4, 4), OpenCV axes, metres if ``metric``
    camera: Camera | None
    objects: tuple[EpisodeObject, ...] = ()
    scene_seed: int | None = None  # of a generated scene: with it, make_scenes builds the scene again
    metric: bool = True  # whether lengths are metres; if not, the scan has a unit of its own
    place: str = PLACE  # what captions call the scene
    depth: Tensor | None = None  # float32 (ceil(F / 4), h, w) of every fourth frame, metres, 0 where unknown


@dataclass(frozen=True, eq=False)
class Annotations:
    """What ``transforms.json`` says of a scan; fields as those of ``Episode``."""

    c2w: Tensor
    camera: Camera
    objects: tuple[EpisodeObject, ...]
    scene_seed: int | None
    metric: bool
    place: str


def flip_axes(c2w: Tensor) -> Tensor:
    """Turn c2w (..., 4, 4) from OpenCV camera axes into OpenGL ones, or back: y and z change their sign."""
    return c2w * torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=c2w.dtype, device=c2w.device)


def load_episode(folder: str | Path) -> Episode:
    """Read an episode; without ``transforms.json``, an episode without cameras.

    Raises:
        FileNotFoundError: there is no folder, or no video in it.
        ValueError: video and cameras do not fit together, a matrix is not rigid, the camera is not a centred pinhole.
    """
    folder = Path(folder)
    known, video = load_annotations(folder), folder / VIDEO_NAME
    if known is None:
        return Episode(read_frames(only_video(folder)), None, None)
    camera, count = known.camera, count_frames(video)
    if count != len(known.c2w):
        raise ValueError(f"expected {len(known.c2w)} frames in {video}, got {count}: write video and cameras together")
    frames = read_frames(video)
    if frames.shape[1:3] != (camera.height, camera.width):
        raise ValueError(
            f"expected frames of {camera.height}x{camera.width} in {video}, "
            f"got {frames.shape[1]}x{frames.shape[2]}: correct h and w in {TRANSFORMS_NAME} or scale the video"
        )
    depth = read_depth(folder / DEPTH_NAME, count)
    if depth is not None and not known.metric:
        raise ValueError(f"expected poses in metres beside {folder / DEPTH_NAME}, got metric false: scale or delete it")
    return Episode(frames, known.c2w, camera, known.objects, known.scene_seed, known.metric, known.place, depth)


def load_annotations(folder: str | Path) -> Annotations | None:
    """Cameras and objects of an episode, without its video; None without ``transforms.json``. Errors as above."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"expected an episode folder at {folder}, got nothing there: check the path")
    if not (folder / TRANSFORMS_NAME).exists():
        return None
    name, transforms = str(folder / TRANSFORMS_NAME), _read_json(folder / TRANSFORMS_NAME)
    try:
        return _read_annotations(transforms, name)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"expected numbers, lists and names in their places in {name}, got {error}: write the episode again"
        ) from error


def _read_annotations(transforms: dict[str, Any], name: str) -> Annotations:
    camera = _read_camera(transforms, name)
    objects = tuple(_read_object(item, name) for item in transforms.get("objects", []))
    metric, place = (transforms.get(key, value) for key, value in USUAL.items())
    if not (isinstance(metric, bool) and isinstance(place, str) and place):
        got = f"{metric!r} and {place!r}"
        raise ValueError(f"expected metric true or false and place a word in {name}, got {got}: correct or omit them")
    scene_seed = transforms.get("scene_seed")
    if scene_seed is not None and not metric:
        raise ValueError(f"expected a generated room in metres in {name}, got metric false: leave one of them out")
    return Annotations(_read_poses(transforms, name), camera, objects, scene_seed, metric, place)


def write_episode(
    folder: str | Path,
    frames: Tensor,
    c2w: Tensor,
    camera: Camera,
    objects: Sequence[SceneObject | EpisodeObject] = (),
    scene_seed: int | None = None,
    fps: float = 10,
    metric: bool = True,
    place: str = PLACE,
    depth: Tensor | None = None,
) -> None:
    """Write an episode folder; it appears under its name only when it is complete.

    Args:
        folder: a place where nothing is yet.
        frames: uint8 RGB, (F, H, W, 3).
        c2w: (F, 4, 4), OpenCV axes, metres if ``metric``.
        camera: shared by all frames.
        objects: named things with boxes in the same unit.
        fps: frames a second of the video.
        scene_seed, metric, place, depth: see ``Episode``.
    """
    folder = Path(folder)
    _check_new(folder, frames, c2w, camera)
    if not metric and (depth is not None or scene_seed is not None):
        raise ValueError(
            "expected poses in metres with a depth or a scene's seed, got metric false: scale them, or give neither"
        )
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # a writer that was killed leaves it behind
    part.mkdir(parents=True)
    try:
        write_video(part / VIDEO_NAME, frames, fps)
        if depth is not None:
            write_depth(part / DEPTH_NAME, depth, len(frames))
        text = _transforms_text(c2w, camera, objects, {"scene_seed": scene_seed, "metric": metric, "place": place})
        (part / TRANSFORMS_NAME).write_text(text, encoding="utf-8", newline="\n")
        os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _check_new(folder: Path, frames: Tensor, c2w: Tensor, camera: Camera) -> None:
    if folder.exists():
        raise ValueError(f"expected a free place for the episode, got the existing {folder}: remove it or take another")
    expected = (len(c2w), camera.height, camera.width, 3)
    if tuple(frames.shape) != expected:
        raise ValueError(f"expected frames of shape {expected}, got {tuple(frames.shape)}: pass a pose for each frame")
    check_rigid(c2w, "c2w")


def _transforms_text(
    c2w: Tensor, camera: Camera, objects: Sequence[SceneObject | EpisodeObject], facts: dict[str, Any]
) -> str:
    """The JSON text, one line for every object and frame; nine digits keep a float32 exactly.

    ``facts`` are keys of the header; those that say what is usual are left out.
    """
    header: dict[str, Any] = {
        "camera_model": "OPENCV",
        "fl_x": camera.focal,
        "fl_y": camera.focal,
        "cx": camera.width / 2,
        "cy": camera.height / 2,
        "w": camera.width,
        "h": camera.height,
    }
    header |= {key: value for key, value in facts.items() if USUAL.get(key, ...) != value}
    things = [json.dumps(asdict(EpisodeObject(o.label, o.instance, o.box_min, o.box_max))) for o in objects]
    frames = []
    for index, matrix in enumerate(flip_axes(c2w.cpu().float()).tolist()):
        rows = [[float(f"{value:.9g}") + 0.0 for value in row] for row in matrix]  # + 0.0: no minus zero
        frames.append(json.dumps({"file_path": VIDEO_NAME, "frame_index": index, "transform_matrix": rows}))
    lists = [
        f'  "{key}": [\n    ' + ",\n    ".join(lines) + "\n  ]"
        for key, lines in (("objects", things), ("frames", frames))
    ]
    return json.dumps(header, indent=2).removesuffix("\n}") + ",\n" + ",\n".join(lists) + "\n}\n"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"expected JSON in {path}, got {error}: write the episode again") from error


def _read_camera(transforms: dict[str, Any], name: str) -> Camera:
    missing = [key for key in ("fl_x", "w", "h", "frames") if key not in transforms]
    if missing:
        raise ValueError(f"expected fl_x, w, h and frames in {name}, got no {missing[0]}: write it as nerfstudio does")
    width, height, focal = transforms["w"], transforms["h"], transforms["fl_x"]
    pairs = [("fl_y", focal), ("cx", width / 2), ("cy", height / 2)]
    off = [key for key, value in pairs if abs(transforms.get(key, value) - value) > 0.02 * width]
    off += [key for key in ("k1", "k2", "k3", "k4", "p1", "p2") if abs(transforms.get(key, 0)) > 1e-3]
    if off:
        raise ValueError(
            f"expected a centred pinhole camera with square pixels in {name}, got {off[0]} = {transforms[off[0]]}: "
            "undistort the frames, for instance with COLMAP's image_undistorter"
        )
    return Camera(height, width, round(math.degrees(2 * math.atan(width / 2 / focal)), 9))


def _read_object(item: dict[str, Any], name: str) -> EpisodeObject:
    found = EpisodeObject(*(item.get(key) for key in ("label", "instance", "box_min", "box_max")))
    corners = [corner for corner in (found.box_min, found.box_max) if isinstance(corner, list) and len(corner) == 3]
    if not (found.label and isinstance(found.label, str) and isinstance(found.instance, int) and len(corners) == 2):
        raise ValueError(
            f"expected label, instance, box_min and box_max of every object in {name}, got {item}: complete it"
        )
    return replace(found, box_min=tuple(map(float, corners[0])), box_max=tuple(map(float, corners[1])))


def _read_poses(transforms: dict[str, Any], name: str) -> Tensor:
    """c2w (F, 4, 4), float32, OpenCV axes."""
    entries = transforms["frames"]
    if not entries or any(entry.get("file_path") != VIDEO_NAME for entry in entries):
        raise ValueError(f"expected frames out of {VIDEO_NAME} in {name}, got others: put them into that video")
    if [entry.get("frame_index") for entry in entries] != list(range(len(entries))):
        raise ValueError(f"expected frame_index 0 to {len(entries) - 1} in {name}, got others: complete or sort them")
    shapes = {(len(rows), *map(len, rows)) for rows in (entry.get("transform_matrix", []) for entry in entries)}
    if shapes != {(4, 4, 4, 4, 4)}:
        raise ValueError(f"expected 4x4 matrices in {name}, got others: complete every transform_matrix")
    c2w = torch.tensor([entry["transform_matrix"] for entry in entries], dtype=torch.float32)
    check_rigid(c2w, name)
    return flip_axes(c2w)


def only_video(folder: Path) -> Path:
    """The one video of a folder; ``FileNotFoundError`` or ``ValueError`` where there is none, or more than one."""
    videos = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in VIDEO_SUFFIXES]
    if not videos:
        raise FileNotFoundError(f"expected a video in {folder}, got none: put the scan there")
    if len(videos) > 1:
        raise ValueError(f"expected one video in {folder}, got {len(videos)}: keep one scan in each folder")
    return videos[0]
