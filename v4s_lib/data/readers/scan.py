"""A scan as its publisher left it, and how it becomes an episode."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from tqdm import tqdm

from v4s_lib.data.depth import DEPTH_ROWS
from v4s_lib.data.episodes import EpisodeObject, write_episode
from v4s_lib.data.readers.lens import Lens, photograph, photograph_depth, widest_camera
from v4s_lib.data.video import read_frames
from v4s_lib.worlds.cameras import Camera, check_rigid
from v4s_lib.worlds.paths import FRAMES_PER_LATENT

CHUNK = 64  # pictures in memory at once: half a gigabyte at 1920x1440


@dataclass(frozen=True, eq=False)
class Scan:
    """F frames of a capture. ``pictures`` may hold more: ``places`` says which of them have a camera."""

    pictures: Path | tuple[Path, ...]  # a video, or image files
    places: tuple[int, ...]  # of the F frames in the video or among the files
    lens: Lens
    c2w: Tensor  # float64 (F, 4, 4), OpenCV axes
    objects: tuple[EpisodeObject, ...] = ()
    metric: bool = False  # whether lengths are metres; if not, the unit is the publisher's
    place: str = "place"  # what captions call it; "room" where all of the publisher's scans are of rooms
    depth: tuple[Path | None, ...] = ()  # of each frame, PNG of millimetres in its picture's view; () if of none
    turn: Tensor = field(default_factory=lambda: torch.eye(3, dtype=torch.float64))  # see ``upright``

    def part(self, frames: slice) -> "Scan":
        """The scan with some of its frames."""
        names = ("places", "lens", "c2w", "depth")
        chosen = {name: getattr(self, name)[frames] for name in names}
        return replace(self, **chosen)

    def scaled(self, metres: float) -> "Scan":
        """The scan in metres, of which one unit of the publisher has ``metres``; it must not be metric already."""
        if self.metric or not metres > 0:
            got = f"{metres} for one in metres" if self.metric else metres
            raise ValueError(f"expected a positive scale for a scan of unknown unit, got {got}: correct or omit it")
        c2w = self.c2w.clone()
        c2w[:, :3, 3] *= metres
        return replace(self, c2w=c2w, metric=True)


def upright(scan: Scan) -> Scan:
    """Turn a scan by quarters so that the world's z axis points up in its pictures; a phone may be held on its side."""
    up = scan.c2w[:, 2, :3].mean(dim=0)  # of the world, in camera axes
    quarters = [(1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0)]
    turns = torch.tensor([[[c, -s, 0], [s, c, 0], [0, 0, 1]] for c, s in quarters], dtype=torch.float64)
    turn = turns[(turns.transpose(1, 2) @ up)[:, 1].argmin()]  # y points down
    c2w = scan.c2w.clone()
    c2w[:, :3, :3] = c2w[:, :3, :3] @ turn
    return replace(scan, c2w=c2w, turn=turn)


def write_scan(
    scan: Scan, folder: str | Path, height: int, width: int, fov: float | None = None, progress: bool = False
) -> Camera:
    """Crop the pictures of a scan to one centred pinhole camera and write them as an episode, whole or not at all.

    Args:
        scan: of any reader.
        folder: a place where nothing is yet.
        height, width: of the episode's frames, pixels.
        fov: horizontal field of view, degrees; the widest that the pictures allow when ``None``.
        progress: show a bar.

    Returns:
        The episode's camera.
    """
    if Path(folder).exists():
        raise ValueError(f"expected a free place for the episode, got the existing {folder}: remove it or take another")
    if min(height, width) < 2:
        raise ValueError(f"expected frames of 2 pixels or more, got {height}x{width}: choose a larger size")
    camera = widest_camera(scan.lens, scan.turn, height, width)
    if fov is not None:
        if not 1 <= fov <= camera.horizontal_fov:
            widest = camera.horizontal_fov
            raise ValueError(f"expected a field of view from 1 to {widest} degrees, got {fov}: choose one in between")
        camera = Camera(height, width, float(fov))
    check_rigid(scan.c2w, "the scan")
    frames = torch.empty(len(scan.places), height, width, 3, dtype=torch.uint8)
    with tqdm(total=len(frames), unit="frame", disable=not progress) as bar:
        for start in range(0, len(frames), CHUNK):
            chunk = slice(start, start + CHUNK)
            pictures = _read_pictures(scan.pictures, scan.places[chunk])
            frames[chunk] = photograph(pictures, scan.lens[chunk], scan.turn, camera)
            bar.update(len(pictures))
    known = {"metric": scan.metric, "place": scan.place, "depth": _small_depth(scan, camera)}
    write_episode(folder, frames, scan.c2w.float(), camera, scan.objects, **known)
    return camera


def _small_depth(scan: Scan, camera: Camera) -> Tensor | None:
    """Depth (T, h, w) of every fourth frame in the view of ``camera``, metres; 0 in frames that have none."""
    if not any(scan.depth):
        return None
    rows = min(DEPTH_ROWS, camera.height)
    small = replace(camera, height=rows, width=round(camera.width * rows / camera.height))
    result = torch.zeros(len(scan.depth[::FRAMES_PER_LATENT]), small.height, small.width)
    for index, path in enumerate(scan.depth[::FRAMES_PER_LATENT]):
        if path is not None:
            frame = slice(FRAMES_PER_LATENT * index, FRAMES_PER_LATENT * index + 1)
            result[index] = photograph_depth(_read_depth(path)[None], scan.lens[frame], scan.turn, small)[0]
    return result


def _read_pictures(pictures: Path | tuple[Path, ...], places: Sequence[int]) -> Tensor:
    """uint8 (F, h, w, 3)."""
    if isinstance(pictures, Path):
        return read_frames(pictures, places)
    images = [_read_image(pictures[place]) for place in places]
    sizes = {tuple(image.shape[:2]) for image in images}
    if len(sizes) > 1:
        raise ValueError(f"expected pictures of one size beside {pictures[0]}, got {sorted(sizes)}: read them apart")
    return torch.stack(images)


def _read_image(path: Path) -> Tensor:
    if not path.is_file():
        raise FileNotFoundError(f"expected the picture {path}, got nothing there: download or unpack the scan again")
    try:
        with Image.open(path) as image:
            return torch.from_numpy(np.array(image.convert("RGB")))
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"expected a whole picture in {path}, got {error}: download or unpack it again") from error


def _read_depth(path: Path) -> Tensor:
    """Metres (h, w) of a 16-bit picture of millimetres."""
    try:
        with Image.open(path) as image:
            millimetres = np.array(image)
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"expected a whole depth picture in {path}, got {error}: unpack it again") from error
    if millimetres.ndim != 2 or millimetres.dtype == np.uint8:
        got = f"{millimetres.dtype} {millimetres.shape}"
        raise ValueError(f"expected 16-bit millimetres in {path}, got {got}: download lowres_depth again")
    return torch.from_numpy(millimetres.astype(np.float32)) / 1000


def load_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    if not path.is_file():
        raise FileNotFoundError(f"expected the file {path}, got nothing there: download it, or check layout and folder")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"expected JSON in {path}, got {error}: download it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"expected a JSON object in {path}, got a {type(content).__name__}: check layout and folder")
    return content


def numbers(entries: Sequence[Any], key: str, shape: tuple[int, ...], name: str | Path) -> Tensor:
    """The numbers under ``key`` in each of N entries, float64 (N, *shape); ``name`` is the file they came from."""
    try:
        result = torch.tensor([entry[key] for entry in entries], dtype=torch.float64)
    except (KeyError, TypeError, ValueError):
        result = None
    if result is None or result.shape != (len(entries), *shape):
        kind = f"{'x'.join(map(str, shape))} numbers" if shape else "a number"
        raise ValueError(f"expected {kind} as every {key} in {name}, got something else: download it again")
    return result


def read_objects(named: Sequence[tuple[str, int, Any]], name: str | Path) -> tuple[EpisodeObject, ...]:
    """Objects from labels, instance ids and oriented boxes; the episode's box is the one along the axes around it.

    An oriented box has ``centroid``, ``axesLengths`` (whole lengths, metres) and ``normalizedAxes``, three unit vectors
    one after the other, as ScanNet++ and ARKitScenes write it.
    """
    if not named:
        return ()
    boxes = [box for _, _, box in named]
    centre, lengths = (numbers(boxes, key, (3,), name) for key in ("centroid", "axesLengths"))
    axes = numbers(boxes, "normalizedAxes", (9,), name).view(-1, 3, 3)
    half = (axes.abs() * lengths[:, :, None]).sum(dim=1) / 2
    low, high = (centre - half).tolist(), (centre + half).tolist()
    return tuple(
        EpisodeObject(label.replace("_", " "), instance, tuple(low[i]), tuple(high[i]))
        for i, (label, instance, _) in enumerate(named)
    )


def nearest(times: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """For every wanted time the index of the nearest of the sorted ``times``, and how far off it is."""
    after = torch.searchsorted(times.contiguous(), wanted.contiguous()).clamp(max=len(times) - 1)
    before = (after - 1).clamp(min=0)
    index = torch.where((wanted - times[before]).abs() <= (times[after] - wanted).abs(), before, after)
    return index, (times[index] - wanted).abs()
