"""ARKitScenes: pictures of an iPad's wide camera, its trajectory and annotated furniture, in metres.

The layout follows github.com/apple/ARKitScenes (7283761): ``DATA.md`` and ``threedod/README.md`` describe the files,
``threedod/benchmark_scripts/utils/tenFpsDataLoader.py`` how they are read: a row of the trajectory turns the world into
the camera (OpenCV axes), boxes are in the same world, and times may differ in their last digit. ``raw/README.md`` tells
which pictures there are, each with a folder of lenses: in the 3dod release 256x192, in the raw one 640x480, too. All,
and ``lowres_depth`` (256x192, millimetres in 16 bits), are taken to be the wide camera's whole view.
"""

from pathlib import Path

import torch
from torch import Tensor

from v4s_lib.data.episodes import EpisodeObject
from v4s_lib.data.instructions import PLACE
from v4s_lib.data.readers.lens import pinhole
from v4s_lib.data.readers.scan import Scan, load_json, nearest, read_objects, upright
from v4s_lib.worlds.cameras import inverse, turning

TOLERANCE = 0.005  # seconds between a picture and its pose, lens or depth, as the publisher's loader has it
# The first that is there is taken: 640x480, 256x192, 1920x1440. The last, ten times as many pixels as an episode needs,
# stands beside a trajectory only where somebody has put it: the publisher's script does not fetch it for raw captures.
PICTURES = ("vga_wide", "lowres_wide", "wide")
DEPTH = "lowres_depth"


def read_capture(folder: Path) -> Scan:
    """A capture of the 3dod release (everything in ``<id>_frames``) or of the raw one (in the folder itself).

    The raw release has 60 pictures a second (30 of the larger) and 10 poses: pictures without a pose are left out.
    """
    frames = next(iter(sorted(folder.glob("*_frames"))), folder)
    kind = next((name for name in PICTURES if (frames / name).is_dir()), "lowres_wide")
    images, lenses = _timed(frames / kind, "png"), _timed(frames / f"{kind}_intrinsics", "pincam")
    times = torch.tensor([time for time, _ in images], dtype=torch.float64)
    pose_times, poses = _read_trajectory(frames / "lowres_wide.traj")
    row, distance = nearest(pose_times, times)
    places = (distance < TOLERANCE).nonzero()[:, 0]
    if len(places) == 0:
        raise ValueError(
            f"expected a pose within {TOLERANCE} s of a picture in {frames}, got none: "
            "download pictures and trajectory of one capture"
        )
    found = _at(lenses, times[places])
    if None in found:
        missing = images[places[found.index(None)]][1]
        raise FileNotFoundError(f"expected a .pincam file for {missing}, got none: download {kind}_intrinsics")
    rows = torch.stack([_read_pincam(path) for path in found])
    lens = pinhole(rows[:, 2:4] / rows[:, :2], rows[:, 4:6] / rows[:, :2])
    pictures = tuple(path for _, path in images)
    c2w = inverse(poses[row[places]])
    depth = _at(_timed(frames / DEPTH, "png"), times[places]) if (frames / DEPTH).is_dir() else ()
    known = {"objects": _objects(folder), "metric": True, "place": PLACE, "depth": depth}
    return upright(Scan(pictures, tuple(places.tolist()), lens, c2w, **known))


def _at(files: list[tuple[float, Path]], times: Tensor) -> tuple[Path | None, ...]:
    """Of files with their times, sorted, the one of each of the times (N,); None where there is none."""
    index, distance = nearest(torch.tensor([time for time, _ in files], dtype=torch.float64), times)
    pairs = zip(index.tolist(), (distance < TOLERANCE).tolist(), strict=True)
    return tuple(files[at][1] if is_near else None for at, is_near in pairs)


def _timed(folder: Path, suffix: str) -> list[tuple[float, Path]]:
    """Files called ``<id>_<seconds>.<suffix>`` with their time, sorted by it."""
    files = list(folder.glob(f"*_*.{suffix}"))
    if not files:
        raise FileNotFoundError(f"expected .{suffix} files in {folder}, got none: download or unpack that part")
    try:
        return sorted((float(path.stem.rpartition("_")[2]), path) for path in files)
    except ValueError as error:
        raise ValueError(
            f"expected names like ID_SECONDS.{suffix} in {folder}, got another ({error}): remove it"
        ) from error


def _read_table(path: Path, columns: int) -> Tensor:
    """Rows of numbers between spaces, float64 (N, columns)."""
    if not path.is_file():
        raise FileNotFoundError(f"expected the file {path}, got nothing there: download it, or check the folder")
    try:
        rows = [[float(word) for word in line.split()] for line in path.read_text().splitlines() if line.strip()]
    except ValueError as error:
        raise ValueError(f"expected numbers in {path}, got another text ({error}): download it again") from error
    if not rows or {len(row) for row in rows} != {columns}:
        raise ValueError(f"expected {columns} numbers in every row of {path}, got others or none: download it again")
    return torch.tensor(rows, dtype=torch.float64)


def _read_trajectory(path: Path) -> tuple[Tensor, Tensor]:
    """Times in seconds (N,), sorted, and world-to-camera matrices (N, 4, 4).

    A row is time, rotation as axis times angle in radians, translation in metres.
    """
    rows = _read_table(path, 7)
    if not torch.isfinite(rows).all():
        raise ValueError(f"expected finite numbers in {path}, got NaN or infinity: download it again")
    rows = rows[rows[:, 0].argsort()]
    w2c = torch.eye(4, dtype=torch.float64).repeat(len(rows), 1, 1)
    w2c[:, :3, :3] = turning(rows[:, 1:4])
    w2c[:, :3, 3] = rows[:, 4:]
    return rows[:, 0], w2c


def _read_pincam(path: Path) -> Tensor:
    """Width, height, focal lengths and principal point, pixels (6,)."""
    return _read_table(path, 6)[0]


def _objects(folder: Path) -> tuple[EpisodeObject, ...]:
    """Annotated furniture; none where the capture has no annotation file."""
    path = next(iter(sorted(folder.glob("*_3dod_annotation.json"))), None)
    if path is None:
        return ()
    items = load_json(path).get("data", [])
    boxes = [item.get("segments", {}).get("obbAligned") for item in items]
    if None in boxes or not all("label" in item for item in items):
        raise ValueError(
            f"expected label and segments.obbAligned of every object in {path}, got fewer: download it again"
        )
    return read_objects(
        [(item["label"], index, box) for index, (item, box) in enumerate(zip(items, boxes, strict=True))], path
    )
