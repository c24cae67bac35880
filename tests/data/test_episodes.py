"""Episodes keep frames, poses and objects; cameras are converted at the door, both ways."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from v4s_lib.data.episodes import EpisodeObject, flip_axes, load_annotations, load_episode, write_episode
from v4s_lib.data.manifests import MANIFESTS
from v4s_lib.data.sources import source_hashes
from v4s_lib.data.video import write_video
from v4s_lib.worlds.cameras import Camera, check_rigid, pose

CAMERA = Camera(height=32, width=48, horizontal_fov=70.0)
OBJECT = EpisodeObject("red ball", 20, (0.1, 0.2, 0.0), (0.5, 0.6, 0.4))


def poses(count: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    angle = torch.rand(2, count, generator=generator) * 6 - 3
    return pose(torch.rand(count, 3, generator=generator) * 4, angle[0], angle[1] / 6)


def smooth_frames(count: int = 6) -> torch.Tensor:
    coarse = torch.rand(count, 3, 3, 4, generator=torch.Generator().manual_seed(0))
    wide = torch.nn.functional.interpolate(coarse, size=(32, 48), mode="bilinear")
    return (wide.permute(0, 2, 3, 1) * 255).round().to(torch.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_episode(tmp_path / "scan", smooth_frames(), poses(), CAMERA, [OBJECT], scene_seed=7)
    return tmp_path / "scan"


def change(folder: Path, **values: object) -> None:
    path = folder / "transforms.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_an_episode_comes_back(folder):
    episode = load_episode(folder)
    assert (episode.c2w - poses()).abs().max() < 1e-6
    assert episode.c2w.dtype == torch.float32
    assert episode.camera == CAMERA
    assert episode.objects == (OBJECT,)
    assert episode.scene_seed == 7
    error = (episode.frames.float() - smooth_frames().float()).square().mean()
    assert 10 * torch.log10(255**2 / error) > 40
    assert sorted(path.name for path in folder.iterdir()) == ["scan.mp4", "transforms.json"]


def test_what_is_unusual_is_written_and_comes_back(tmp_path, folder):
    plain = json.loads((folder / "transforms.json").read_text())
    assert not {"metric", "place"} & plain.keys()  # files from before these keys are as valid as ever
    episode = load_episode(folder)
    assert episode.metric and episode.place == "room" and episode.depth is None
    write_episode(tmp_path / "park", smooth_frames(), poses(), CAMERA, metric=False, place="park")
    transforms = json.loads((tmp_path / "park/transforms.json").read_text())
    assert transforms["metric"] is False and transforms["place"] == "park"
    park, known = load_episode(tmp_path / "park"), load_annotations(tmp_path / "park")
    assert (park.metric, park.place) == (known.metric, known.place) == (False, "park")
    for wrong in ({"metric": "false"}, {"metric": 0}, {"place": ""}, {"place": 3}):
        change(folder, **({"metric": True, "place": "room"} | wrong))
        with pytest.raises(ValueError, match="^expected metric true or false and place a word in .*, got .*: correct"):
            load_episode(folder)


def test_a_shipped_scan_is_written_as_it_was(tmp_path):
    shipped = MANIFESTS / "scans/demo_0001"
    scan = load_episode(shipped)
    write_episode(tmp_path / "scan", scan.frames, scan.c2w, scan.camera, scan.objects, scan.scene_seed)
    assert (tmp_path / "scan/transforms.json").read_bytes() == (shipped / "transforms.json").read_bytes()


def test_a_depth_comes_back_to_the_millimetre(tmp_path):
    depth = torch.rand(2, 5, 7, generator=torch.Generator().manual_seed(0)) * 8  # of frames 0 and 4 of six
    depth[0, 0, 0], depth[1, 2, 3] = 0, 80  # unknown, and too far for 16 bits
    write_episode(tmp_path / "scan", smooth_frames(), poses(), CAMERA, depth=depth)
    assert sorted(path.name for path in (tmp_path / "scan").iterdir()) == ["depth.npz", "scan.mp4", "transforms.json"]
    again = load_episode(tmp_path / "scan").depth
    assert again[0, 0, 0] == 0 and again[1, 2, 3] == pytest.approx(65.535)
    assert (again - depth.clamp(max=65.535)).abs().max() <= 0.0005 + 1e-6
    assert source_hashes(tmp_path / "scan").keys() == {"depth.npz", "scan.mp4", "transforms.json"}


def test_a_depth_that_does_not_fit_is_refused(tmp_path):
    one, two = torch.ones(1, 5, 7), torch.ones(2, 5, 7)
    with pytest.raises(ValueError, match=r"^expected the depth of 2 frames, got \(1, 5, 7\): give every fourth"):
        write_episode(tmp_path / "scan", smooth_frames(), poses(), CAMERA, depth=one)
    with pytest.raises(
        ValueError, match="^expected poses in metres with a depth or a scene's seed, got metric false: "
    ):
        write_episode(tmp_path / "scan", smooth_frames(), poses(), CAMERA, depth=two, metric=False)
    assert list(tmp_path.iterdir()) == []
    write_episode(tmp_path / "scan", smooth_frames(), poses(), CAMERA, depth=two)
    change(tmp_path / "scan", metric=False)
    with pytest.raises(ValueError, match="^expected poses in metres beside .*depth.npz, got metric false: scale"):
        load_episode(tmp_path / "scan")
    change(tmp_path / "scan", metric=True)
    path = tmp_path / "scan/depth.npz"
    content = path.read_bytes()
    half = len(content) // 2
    for wrong in (content[:60], content[:half] + b"x" + content[half + 1 :], b"", b"text"):
        path.write_bytes(wrong)
        with pytest.raises(ValueError, match="^expected millimetres in .*depth.npz, got .*: write the episode again$"):
            load_episode(tmp_path / "scan")
    np.savez_compressed(path, millimetres=np.ones((3, 5, 7), np.uint16))
    with pytest.raises(ValueError, match=r"^expected uint16 \(2, h, w\) in .*, got uint16 \(3, 5, 7\): write video"):
        load_episode(tmp_path / "scan")


THING = {"label": "red ball", "instance": 20, "box_min": [0, 0, 0], "box_max": [1, 1, 1]}


@pytest.mark.parametrize("wrong", [{"box_max": None}, {"box_min": [0, 0]}, {"label": ""}, {"label": 3}])
def test_an_object_without_name_or_box_is_refused(folder, wrong):
    change(folder, objects=[THING])
    assert load_annotations(folder).objects[0].box_max == (1.0, 1.0, 1.0)
    change(folder, objects=[THING | wrong])
    with pytest.raises(ValueError, match="^expected label, instance, box_min and box_max of every object in .*: comp"):
        load_episode(folder)


def test_the_file_is_in_nerfstudios_convention(tmp_path):
    """A level camera that looks along +x: OpenGL's x axis points right (-y), its y axis up, its z axis back (-x)."""
    level = pose(torch.tensor([[1.0, 2.0, 3.0]]), torch.zeros(1), torch.zeros(1))
    write_episode(tmp_path / "scan", smooth_frames(1), level, CAMERA)
    transforms = json.loads((tmp_path / "scan" / "transforms.json").read_text())
    assert transforms["camera_model"] == "OPENCV"
    assert (transforms["w"], transforms["h"], transforms["cx"], transforms["cy"]) == (48, 32, 24, 16)
    assert transforms["fl_x"] == transforms["fl_y"] == pytest.approx(24 / math.tan(math.radians(35)))
    (frame,) = transforms["frames"]
    assert (frame["file_path"], frame["frame_index"]) == ("scan.mp4", 0)
    assert frame["transform_matrix"] == [[0, 0, -1, 1], [-1, 0, 0, 2], [0, 1, 0, 3], [0, 0, 0, 1]]


def test_axes_turn_both_ways():
    assert torch.equal(flip_axes(torch.eye(4)), torch.diag(torch.tensor([1.0, -1, -1, 1])))
    assert torch.equal(flip_axes(flip_axes(poses())), poses())
    check_rigid(flip_axes(poses()), "poses")


def test_a_bare_video_is_an_episode_without_cameras(tmp_path):
    write_video(tmp_path / "phone.mp4", smooth_frames())
    episode = load_episode(tmp_path)
    assert episode.frames.shape == (6, 32, 48, 3)
    assert episode.c2w is None and episode.camera is None and episode.objects == ()


def test_shipped_scans_load():
    episode = load_episode(MANIFESTS / "scans" / "demo_0000")
    assert episode.frames.shape == (93, 32, 48, 3) and episode.c2w.shape == (93, 4, 4)
    assert episode.camera == Camera(32, 48, 90.0)
    assert 4 <= len(episode.objects) <= 6


def test_folders_that_hold_no_episode_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected an episode folder at .*, got nothing there: check"):
        load_episode(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="expected a video in .*, got none: put"):
        load_episode(tmp_path)
    for name in ("a.mp4", "b.mov"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match="expected one video in .*, got 2: keep"):
        load_episode(tmp_path)


def test_video_and_cameras_must_fit(folder):
    (folder / "scan.mp4").unlink()
    with pytest.raises(FileNotFoundError, match="expected a video file at .*scan.mp4, got nothing there"):
        load_episode(folder)
    write_video(folder / "scan.mp4", smooth_frames(5))
    with pytest.raises(ValueError, match="expected 6 frames in .*, got 5: write video and cameras together"):
        load_episode(folder)
    write_video(folder / "scan.mp4", smooth_frames().repeat_interleave(2, dim=1))
    with pytest.raises(ValueError, match="expected frames of 32x48 in .*, got 64x48: correct"):
        load_episode(folder)


def test_matrices_must_be_rigid_and_complete(folder):
    good = json.loads((folder / "transforms.json").read_text())["frames"]
    scaled = (poses()[3] * torch.tensor([2.0, 2, 2, 1])).tolist()
    for matrix, message in (
        (scaled, "expected rigid c2w matrices in .*, got one that scales"),
        ([[math.nan] * 4] * 4, "expected finite numbers in .*, got NaN"),
        (scaled[:3], "expected 4x4 matrices in .*, got others: complete"),
    ):
        change(folder, frames=good[:3] + [good[3] | {"transform_matrix": matrix}] + good[4:])
        with pytest.raises(ValueError, match=message):
            load_episode(folder)
    change(folder, frames=good[::-1])
    with pytest.raises(ValueError, match="expected frame_index 0 to 5 in .*, got others"):
        load_episode(folder)
    change(folder, frames=[frame | {"file_path": "images/1.png"} for frame in good])
    with pytest.raises(ValueError, match="expected frames out of scan.mp4 in .*, got others"):
        load_episode(folder)


@pytest.mark.parametrize(
    ("values", "got"), [({"cx": 10.0}, "cx = 10.0"), ({"fl_y": 50.0}, "fl_y = 50.0"), ({"k1": -0.2}, "k1 = -0.2")]
)
def test_other_cameras_are_refused(folder, values, got):
    change(folder, **values)
    with pytest.raises(ValueError, match=f"expected a centred pinhole camera .*, got {got}: undistort"):
        load_episode(folder)


@pytest.mark.parametrize("wrong", [{"fl_x": "x"}, {"frames": ["a"]}, {"frames": 3}, {"objects": None}, {"w": None}])
def test_values_of_another_kind_are_refused(folder, wrong):
    change(folder, **wrong)
    with pytest.raises(ValueError, match="^expected numbers, lists and names in their places in .*, got .*: write the"):
        load_annotations(folder)


def test_a_generated_room_without_metres_is_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="^expected poses in metres with a depth or a scene's seed, got metric false"):
        write_episode(tmp_path / "no", smooth_frames(), poses(), CAMERA, scene_seed=4, metric=False)
    change(folder, scene_seed=4, metric=False)
    with pytest.raises(ValueError, match="^expected a generated room in metres in .*, got metric false: leave one"):
        load_annotations(folder)


def test_text_that_is_no_json_or_lacks_keys_is_refused(folder):
    (folder / "transforms.json").write_text("{}")
    with pytest.raises(ValueError, match="expected fl_x, w, h and frames in .*, got no fl_x"):
        load_episode(folder)
    (folder / "transforms.json").write_text('{"fl_x": 1,')
    with pytest.raises(ValueError, match="expected JSON in .*, got .*: write the episode again"):
        load_episode(folder)


def test_writing_refuses_what_does_not_fit_and_leaves_nothing(tmp_path, folder):
    with pytest.raises(ValueError, match="expected a free place for the episode, got the existing"):
        write_episode(folder, smooth_frames(), poses(), CAMERA)
    with pytest.raises(ValueError, match=r"expected frames of shape \(5, 32, 48, 3\), got \(6, 32, 48, 3\)"):
        write_episode(tmp_path / "new", smooth_frames(), poses(5), CAMERA)
    with pytest.raises(ValueError, match="expected rigid c2w matrices in c2w"):
        write_episode(tmp_path / "new", smooth_frames(), poses() * 2, CAMERA)
    with pytest.raises(ValueError, match="expected uint8 frames"):
        write_episode(tmp_path / "new", smooth_frames().float(), poses(), CAMERA)
    assert list(tmp_path.iterdir()) == [folder]
