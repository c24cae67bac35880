"""Small scans of a rendered room in the layouts of the publishers. The truth is the renderer's."""

import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image
from scipy.spatial.transform import Rotation
from torch import Tensor

from v4s_lib.data.episodes import flip_axes
from v4s_lib.data.layouts import turned_box, write_annotation, write_json, write_scannetpp
from v4s_lib.worlds.cameras import Camera, inverse
from v4s_lib.worlds.paths import scan_path
from v4s_lib.worlds.raycast import render
from v4s_lib.worlds.scenes import Scenes, make_scenes

CAMERA = Camera(120, 160, 75.0)
QUARTER = torch.tensor([[0.0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
# An iPhone's principal point is off the middle: 10 columns are cut off on the left, 6 rows at the top.
LEFT, TOP = 10, 6


@dataclass(frozen=True)
class Room:
    """A room, true poses c2w (F, 4, 4) in OpenCV axes, and what ``CAMERA`` sees from them, uint8 (F, H, W, 3)."""

    scenes: Scenes
    c2w: Tensor
    samples: int  # across and down a pixel

    @cached_property
    def film(self) -> Tensor:
        return self.seen()

    def seen(self, camera: Camera = CAMERA, c2w: Tensor | None = None) -> Tensor:
        c2w = self.c2w if c2w is None else c2w
        rgb = render(self.scenes, torch.zeros(len(c2w), dtype=torch.long), c2w, camera, self.samples).rgb
        return (rgb * 255).round().clamp(0, 255).to(torch.uint8)

    def depth(self, camera: Camera, c2w: Tensor) -> Tensor:
        """Along the optical axis, metres (F, H, W)."""
        return render(self.scenes, torch.zeros(len(c2w), dtype=torch.long), c2w, camera, 1).depth


def make_room(frames: int = 4, samples: int = 3) -> Room:
    scenes = make_scenes([7])
    path = scan_path(scenes, torch.Generator().manual_seed(0), 6 * frames)[0]
    return Room(scenes, path[::6], samples)


def picture_names(room: Room) -> list[str]:
    return [f"frame_{index:05d}.png" for index in range(len(room.c2w))]


def write_images(folder: Path, frames: Tensor, names: list[str]) -> None:
    folder.mkdir(parents=True)
    for name, frame in zip(names, frames, strict=True):
        Image.fromarray(frame.numpy()).save(folder / name, quality=98, subsampling=0)


def write_clip(path: Path, frames: Tensor, rate: int) -> None:
    """A video in the container of its name, in full colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "5"})
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv444p"
        for frame in frames.numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def change_json(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def intrinsics(camera: Camera, **values: object) -> dict:
    middle = {"cx": camera.width / 2, "cy": camera.height / 2, "w": camera.width, "h": camera.height}
    return {"camera_model": "OPENCV", "fl_x": camera.focal, "fl_y": camera.focal} | middle | values


def entries(c2w: Tensor, names: list[str]) -> list[dict]:
    """Frames of a transforms.json, last first: COLMAP keeps no order."""
    matrices = flip_axes(c2w).tolist()
    return [{"file_path": name, "transform_matrix": row} for name, row in zip(names, matrices, strict=True)][::-1]


def write_nerfstudio(folder: Path, room: Room) -> None:
    names = picture_names(room)
    write_images(folder / "images", room.film, names)
    names = [f"images/{name}" for name in names]
    write_json(folder / "transforms.json", intrinsics(CAMERA) | {"frames": entries(room.c2w, names)})


def write_dl3dv(folder: Path, room: Room) -> None:
    """The intrinsics are those of pictures eight times as large."""
    names = picture_names(room)
    write_images(folder / "images_8", room.film, names)
    large = Camera(8 * CAMERA.height, 8 * CAMERA.width, CAMERA.horizontal_fov)
    names = [f"images/{name}" for name in names]
    write_json(folder / "transforms.json", intrinsics(large) | {"frames": entries(room.c2w, names)})


def write_iphone(folder: Path, room: Room) -> None:
    """A newer release than the library's: the video is in Matroska, and entries have more than is read."""
    frames = room.film[:, TOP:, LEFT:]
    video, centre = torch.cat([frames, frames[-1:]]), (CAMERA.width / 2 - LEFT, CAMERA.height / 2 - TOP)
    write_scannetpp(folder, video, room.c2w, CAMERA.focal, centre, room.scenes.objects[0])
    (folder / "iphone/rgb.mp4").unlink()
    write_clip(folder / "iphone/rgb.mkv", video, rate=60)
    path = folder / "iphone/pose_intrinsic_imu.json"
    more = {"pose": (torch.eye(4) * 9).tolist(), "imu": {}}
    change_json(path, **{name: entry | more for name, entry in json.loads(path.read_text()).items()})


def fisheye(wide: Tensor, camera: Camera, focal: float, size: int) -> Tensor:
    """Pictures (F, size, size, 3) of an equidistant fisheye lens out of those of a wide pinhole ``camera``."""
    x, y = np.meshgrid(np.arange(size) + 0.5 - size / 2, np.arange(size) + 0.5 - size / 2)
    radius = np.hypot(x, y)
    stretch = np.tan(radius / focal) / radius * camera.focal
    grid = torch.from_numpy(np.stack([x * stretch / camera.width, y * stretch / camera.height], axis=-1) * 2).float()
    pictures = wide.permute(0, 3, 1, 2).float()
    taken = torch.nn.functional.grid_sample(pictures, grid.expand(len(wide), -1, -1, -1), align_corners=False)
    return taken.permute(0, 2, 3, 1).round().to(torch.uint8)


def write_dslr(folder: Path, room: Room) -> None:
    """nerfstudio's world: x and y swapped, z turned over. The last photo is marked as bad, one is of the test list."""
    size, focal = 130, 80.0
    names = [f"DSC{index:05d}.JPG" for index in range(len(room.c2w) + 1)]
    wide = Camera(240, 240, 110.0)
    photos = fisheye(room.seen(wide), wide, focal, size)
    write_images(folder / "dslr/resized_images", torch.cat([photos, photos[:1]]), names)
    c2w = torch.cat([room.c2w, room.c2w[:1]])[:, [1, 0, 2, 3]] * torch.tensor([1.0, 1, -1, 1])[:, None]
    bad, *frames = entries(c2w, names)
    camera = intrinsics(
        Camera(size, size, math.degrees(2 * math.atan(size / 2 / focal))), camera_model="OPENCV_FISHEYE"
    )
    shared = camera | {"k1": 0.0, "k2": 0.0, "k3": 0.0, "k4": 0.0}
    content = shared | {"frames": [bad | {"is_bad": True}, *frames[1:]], "test_frames": frames[:1]}
    write_json(folder / "dslr/nerfstudio/transforms.json", content)
    write_annotation(folder, room.scenes.objects[0])


def write_arkitscenes(folder: Path, room: Room) -> None:
    """An iPad held on its side. Before the first pose there is a picture more; lens times differ by a millisecond."""
    c2w, times = room.c2w @ QUARTER, ipad_times(room)
    frames = folder / f"{folder.name}_frames"
    write_ipad_pictures(folder, room, "lowres_wide", CAMERA)
    (frames / "lowres_depth").mkdir()
    for time, depth in zip(times[1:], room.depth(CAMERA, c2w), strict=True):  # the first picture has none
        millimetres = (1000 * depth).round().numpy().astype(np.uint16)
        Image.fromarray(millimetres).save(frames / "lowres_depth" / f"{folder.name}_{time:.3f}.png")
    w2c = inverse(c2w.double())
    vectors = Rotation.from_matrix(w2c[:, :3, :3].numpy()).as_rotvec()
    rows = np.concatenate([np.array(times[1:])[:, None] + 0.00043, vectors, w2c[:, :3, 3].numpy()], axis=1)
    np.savetxt(frames / "lowres_wide.traj", rows, fmt="%.10f")
    items = [{"label": o.label, "uid": "a", "segments": {"obbAligned": turned_box(o)}} for o in room.scenes.objects[0]]
    write_json(folder / f"{folder.name}_3dod_annotation.json", {"data": items, "skipped": False})


def ipad_times(room: Room) -> list[float]:
    """When an iPad has taken its pictures: one before the first pose, then one with each."""
    return [6845.606 + index / 10 for index in range(len(room.c2w) + 1)]


def write_ipad_pictures(folder: Path, room: Room, kind: str, camera: Camera) -> None:
    """Pictures of one of the publisher's sizes, and the lens of each, in pixels of that size."""
    frames, c2w = folder / f"{folder.name}_frames", room.c2w @ QUARTER
    names = [f"{folder.name}_{time:.3f}.png" for time in ipad_times(room)]
    write_images(frames / kind, room.seen(camera, torch.cat([c2w[:1], c2w])), names)
    (frames / f"{kind}_intrinsics").mkdir()
    middle = f"{camera.width / 2} {camera.height / 2}"
    lens = f"{camera.width} {camera.height} {camera.focal} {camera.focal} {middle}"
    for time in ipad_times(room):
        (frames / f"{kind}_intrinsics" / f"{folder.name}_{time + 0.001:.3f}.pincam").write_text(lens)


def write_realestate10k(folder: Path, room: Room) -> None:
    """The clip is every third frame of a video at 30 frames a second, from the third on."""
    video = torch.full((3 * len(room.c2w) + 2, *room.film.shape[1:]), 90, dtype=torch.uint8)
    video[2::3] = room.film
    write_clip(folder / "video.mp4", video, rate=30)
    lens = [CAMERA.focal / CAMERA.width, CAMERA.focal / CAMERA.height, 0.5, 0.5, 0.0, 0.0]
    lines = ["https://www.youtube.com/watch?v=abc"]
    for index, matrix in enumerate(inverse(room.c2w)[:, :3].flatten(1).tolist()):
        lines.append(" ".join(map(str, [round((2 + 3 * index) / 30 * 1e6), *lens, *matrix])))
    (folder / "0000cc6d8b108390.txt").write_text("\n".join(lines) + "\n")


WRITERS = {
    "scannetpp": write_iphone,
    "scannetpp-dslr": write_dslr,
    "arkitscenes": write_arkitscenes,
    "dl3dv": write_dl3dv,
    "nerfstudio": write_nerfstudio,
    "realestate10k": write_realestate10k,
}
