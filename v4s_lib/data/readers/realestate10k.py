"""RealEstate10K: camera paths of YouTube clips. The data set has no pictures: the video is the user's own file.

The layout is the publisher's download page (github.com/google/realestate10k, ``download.html``): the video's address,
then for each frame microseconds since its start, focal lengths and principal point in shares of width and height, and a
3x4 world-to-camera matrix. Two columns between them, which the page does not name, are zero. The unit is arbitrary.
"""

from pathlib import Path

import torch
from torch import Tensor

from v4s_lib.data.episodes import only_video
from v4s_lib.data.readers.lens import pinhole
from v4s_lib.data.readers.scan import Scan, nearest
from v4s_lib.data.video import frame_times
from v4s_lib.worlds.cameras import check_rigid, inverse

TOLERANCE = 0.05  # seconds between a row and the nearest frame; our choice: a frame and a half at 30 frames a second


def read_clip(folder: Path) -> Scan:
    """A folder with one of the data set's .txt files and the whole video that its first line names."""
    tables = sorted(folder.glob("*.txt"))
    if len(tables) != 1:
        raise FileNotFoundError(f"expected one camera file (.txt) in {folder}, got {len(tables)}: put one clip there")
    address, rows = _read_table(tables[0])
    video = only_video(folder)
    places, distance = nearest(frame_times(video), rows[:, 0] / 1e6)
    if distance.max() > TOLERANCE:
        wanted = rows[distance.argmax(), 0] / 1e6
        raise ValueError(
            f"expected a frame at {wanted:.3f} s in {video}, got none within {TOLERANCE} s: "
            f"use the whole video of {address}"
        )
    w2c = torch.eye(4, dtype=torch.float64).repeat(len(rows), 1, 1)
    w2c[:, :3] = rows[:, 7:].view(-1, 3, 4)
    check_rigid(w2c, str(tables[0]))
    return Scan(video, tuple(places.tolist()), pinhole(rows[:, 1:3], rows[:, 3:5]), inverse(w2c))


def _read_table(path: Path) -> tuple[str, Tensor]:
    """The video's address and the rows, float64 (F, 19)."""
    first, *lines = path.read_text(encoding="utf-8").splitlines() or [""]
    try:
        table = [[float(word) for word in line.split()] for line in lines if line.strip()]
        rows = torch.tensor(table, dtype=torch.float64)
    except ValueError:
        rows = torch.empty(0)
    if not first.startswith("http") or rows.dim() != 2 or rows.shape[1] != 19 or rows[:, 5:7].any():
        raise ValueError(
            f"expected an address, then rows of 19 numbers with zeros in columns 6 and 7 in {path}, got others: "
            "take the file from the data set again"
        )
    return first.strip(), rows
