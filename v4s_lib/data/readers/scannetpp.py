"""ScanNet++: an iPhone video or the photos of a DSLR, and annotated objects, in the metres of the laser scan.

The layout follows the publisher's toolkit, github.com/scannetpp/scannetpp (f3b4712): ``common/scene_release.py`` names
the files, ``common/utils/nerfstudio.py`` how the DSLR's poses were written, ``semantic/prep/semantics_2d.py`` how an
oriented box is read. ``iphone/pose_intrinsic_imu.json`` has one entry a video frame.
"""

from dataclasses import replace
from pathlib import Path

import torch

from v4s_lib.data.episodes import TRANSFORMS_NAME, EpisodeObject
from v4s_lib.data.instructions import PLACE
from v4s_lib.data.readers.lens import pinhole
from v4s_lib.data.readers.nerfstudio import read_transforms
from v4s_lib.data.readers.scan import Scan, load_json, numbers, read_objects, upright
from v4s_lib.data.video import count_frames, read_frames
from v4s_lib.worlds.cameras import check_rigid

VIDEOS = ("rgb.mkv", "rgb.mp4")  # newer and older releases
# nerfstudio swaps the world's x and y and turns z over; doing it again undoes it.
NERFSTUDIO_WORLD = torch.tensor([[0.0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0], [0, 0, 0, 1]], dtype=torch.float64)


def read_iphone(folder: Path) -> Scan:
    """The iPhone video of a scene. Frames without ``aligned_pose``, the pose among the laser scan, are left out."""
    poses = folder / "iphone" / "pose_intrinsic_imu.json"
    entries = [entry for _, entry in sorted(load_json(poses).items())]  # frame_000000, frame_000001, ...
    videos = [folder / "iphone" / name for name in VIDEOS if (folder / "iphone" / name).is_file()]
    if not videos:
        raise FileNotFoundError(f"expected {' or '.join(VIDEOS)} beside {poses}, got neither: download the video")
    count = count_frames(videos[0])
    if count != len(entries):
        raise ValueError(f"expected {len(entries)} frames in {videos[0]}, got {count}: download video and poses again")
    places = tuple(index for index, entry in enumerate(entries) if entry.get("aligned_pose"))
    if not places:
        raise ValueError(f"expected an aligned_pose in {poses}, got none: choose another scene")
    chosen = [entries[index] for index in places]
    c2w = numbers(chosen, "aligned_pose", (4, 4), poses)
    check_rigid(c2w, str(poses))
    height, width = read_frames(videos[0], [0]).shape[1:3]
    matrix = numbers(chosen, "intrinsic", (3, 3), poses) / torch.tensor([[width], [height], [1.0]])
    lens = pinhole(torch.stack([matrix[:, 0, 0], matrix[:, 1, 1]], dim=1), matrix[:, :2, 2])
    return upright(Scan(videos[0], places, lens, c2w, _objects(folder), metric=True, place=PLACE))


def read_dslr(folder: Path) -> Scan:
    """The photos of a scene, resized by the publisher, from their fisheye lens, in the order of their names."""
    dslr = folder / "dslr"
    scan = read_transforms(
        dslr / "nerfstudio" / TRANSFORMS_NAME, lambda name: dslr / "resized_images" / Path(name).name
    )
    known = {"objects": _objects(folder), "metric": True, "place": PLACE}
    return upright(replace(scan, c2w=NERFSTUDIO_WORLD @ scan.c2w, **known))


def _objects(folder: Path) -> tuple[EpisodeObject, ...]:
    """Objects of a scene; none for the hidden test scenes, which have no annotation."""
    path = folder / "scans" / "segments_anno.json"
    if not path.is_file():
        return ()
    groups = load_json(path).get("segGroups", [])
    if not all({"label", "objectId", "obb"} <= group.keys() for group in groups):
        raise ValueError(f"expected label, objectId and obb of every object in {path}, got fewer: download it again")
    return read_objects([(group["label"], group["objectId"], group["obb"]) for group in groups], path)
