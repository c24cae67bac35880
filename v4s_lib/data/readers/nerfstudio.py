"""Captures in nerfstudio's layout, DL3DV among them.

The layout is described in nerfstudio's documentation (quickstart, data conventions): ``transforms.json`` with
camera-to-world matrices in OpenGL axes, and intrinsics in pixels, shared or for each frame. COLMAP gives no metres: the
unit is the capture's own.
"""

from collections.abc import Callable
from pathlib import Path

import torch

from v4s_lib.data.archives import inside
from v4s_lib.data.episodes import TRANSFORMS_NAME, flip_axes
from v4s_lib.data.readers.lens import Lens
from v4s_lib.data.readers.scan import Scan, load_json, numbers
from v4s_lib.worlds.cameras import check_rigid

FISHEYE = {"OPENCV": False, "PINHOLE": False, "SIMPLE_PINHOLE": False, "OPENCV_FISHEYE": True}
NO_DISTORTION = dict.fromkeys(("k1", "k2", "k3", "k4", "p1", "p2"), 0.0)
# The 960P release has images_4, the 480P one images_8: 4K divided by 4 and 8. The first that is there is taken.
DL3DV_IMAGES = ("images_4", "images_8", "images_2", "images")


def read_capture(folder: Path) -> Scan:
    """A folder with ``transforms.json`` and the pictures that it names."""
    return read_transforms(folder / TRANSFORMS_NAME, lambda name: inside(folder, name))


def read_dl3dv(folder: Path) -> Scan:
    """A scene of DL3DV: ``transforms.json`` of the 4K frames beside smaller copies of them, which still have the lens'
    distortion (github.com/DL3DV-10K/Dataset, README and issue 9; the layout as users of the 480P release list it).
    """
    found = [folder / name for name in DL3DV_IMAGES if (folder / name).is_dir()]
    if not found:
        raise FileNotFoundError(
            f"expected {' or '.join(DL3DV_IMAGES)} in {folder}, got none: unpack the archive, and choose the folder "
            f"that holds {TRANSFORMS_NAME}"
        )
    return read_transforms(folder / TRANSFORMS_NAME, lambda name: found[0] / Path(name).name)


def read_transforms(path: Path, place: Callable[[str], Path]) -> Scan:
    """The frames of a ``transforms.json``, in the order of their names; those marked ``is_bad`` are left out.

    Args:
        path: the JSON file.
        place: where the picture of a ``file_path`` is.
    """
    transforms = load_json(path)
    frames = transforms.get("frames", []) + transforms.get("test_frames", [])
    if not frames or not all(isinstance(frame.get("file_path"), str) for frame in frames):
        raise ValueError(f"expected frames with a file_path in {path}, got others or none: write it as nerfstudio does")
    frames = sorted(frames, key=lambda frame: frame["file_path"])
    places = tuple(index for index, frame in enumerate(frames) if not frame.get("is_bad"))
    shared = {key: value for key, value in transforms.items() if not isinstance(value, list | dict)}
    entries = [NO_DISTORTION | shared | frames[index] for index in places]
    models = {entry.get("camera_model", "OPENCV") for entry in entries}
    if len(models) != 1 or not models <= set(FISHEYE):
        got = ", ".join(map(str, models)) or "none"
        raise ValueError(f"expected one camera model out of {', '.join(FISHEYE)} in {path}, got {got}: undistort it")
    size, focal, centre, distortion = (
        torch.stack([numbers(entries, key, (), path) for key in keys], dim=1)
        for keys in (("w", "h"), ("fl_x", "fl_y"), ("cx", "cy"), tuple(NO_DISTORTION))
    )
    lens = Lens(focal / size, centre / size, distortion, FISHEYE[models.pop()])
    c2w = numbers(entries, "transform_matrix", (4, 4), path)
    check_rigid(c2w, str(path))
    return Scan(tuple(place(frame["file_path"]) for frame in frames), places, lens, flip_axes(c2w))
