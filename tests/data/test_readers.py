"""Scans in each publisher's layout become episodes: poses, crop, labels and boxes as the renderer knows them."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.layouts import CAMERA, LEFT, change_json
from v4s_lib.data.download import fetch_manifest
from v4s_lib.data.episodes import load_annotations, load_episode
from v4s_lib.data.manifests import load_manifest
from v4s_lib.data.readers import LAYOUTS, read_scan
from v4s_lib.data.readers.__main__ import main
from v4s_lib.data.readers.lens import Lens, photograph, photograph_depth, pinhole, widest_camera
from v4s_lib.data.readers.scan import nearest, write_scan
from v4s_lib.data.scans import psnr
from v4s_lib.data.video import frame_times
from v4s_lib.worlds.cameras import Camera

IN_METRES = {"scannetpp", "scannetpp-dslr", "arkitscenes"}
STRAIGHT = torch.eye(3)


def lens_of(camera: Camera, frames: int = 1, **values: object) -> Lens:
    plain = pinhole(
        torch.tensor([[camera.focal / camera.width, camera.focal / camera.height]] * frames, dtype=torch.float64),
        torch.full((frames, 2), 0.5, dtype=torch.float64),
    )
    return Lens(**({"focal": plain.focal, "centre": plain.centre, "distortion": plain.distortion} | values))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_scan_becomes_the_episode_that_the_renderer_knows(layout, room, scans, tmp_path):
    scan = read_scan(layout, scans[layout])
    camera = write_scan(scan, tmp_path / "episode", 32, 48, fov=55)
    episode = load_episode(tmp_path / "episode")
    assert camera == episode.camera == Camera(32, 48, 55.0)
    assert (episode.c2w - room.c2w).abs().max() < 1e-5
    assert psnr(episode.frames, room.seen(camera)) > 33  # a camera that is off by a quarter of a degree gives 32.6
    assert scan.metric == episode.metric == (layout in IN_METRES)
    assert episode.place == ("room" if layout in IN_METRES else "place")  # the other sets are not of rooms alone
    assert (episode.depth is None) == (layout != "arkitscenes")
    expected = room.scenes.objects[0] if layout in IN_METRES else []
    assert [item.label for item in episode.objects] == [item.label for item in expected]
    for item, true in zip(episode.objects, expected, strict=True):
        assert item.box_min == pytest.approx(true.box_min, abs=1e-5)
        assert item.box_max == pytest.approx(true.box_max, abs=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["episode"]


def test_a_turned_box_is_enclosed(copy):
    """A box of 2 x 1 x 3 metres that stands turned by 45 degrees takes 3 / sqrt(2) metres along x and y."""
    folder, half = copy("scannetpp"), math.sqrt(0.5)
    box = {"centroid": [1, 2, 3], "axesLengths": [2, 1, 3], "normalizedAxes": [half, half, 0, -half, half, 0, 0, 0, 1]}
    group = {"label": "office_chair", "objectId": 5, "obb": box}
    change_json(folder / "scans/segments_anno.json", segGroups=[group])
    (item,) = read_scan("scannetpp", folder).objects
    assert (item.label, item.instance) == ("office chair", 5)
    reach = 1.5 * half
    assert item.box_min == pytest.approx((1 - reach, 2 - reach, 1.5))
    assert item.box_max == pytest.approx((1 + reach, 2 + reach, 4.5))


def test_pictures_without_a_camera_are_left_out(scans):
    assert read_scan("scannetpp", scans["scannetpp"]).places == (0, 1, 2, 3)
    arkit = read_scan("arkitscenes", scans["arkitscenes"])
    assert arkit.places == (1, 2, 3, 4) and len(arkit.pictures) == 5
    dslr = read_scan("scannetpp-dslr", scans["scannetpp-dslr"])
    assert [dslr.pictures[place].name for place in dslr.places] == [f"DSC0000{index}.JPG" for index in range(4)]
    assert read_scan("realestate10k", scans["realestate10k"]).places == (2, 5, 8, 11)


def test_the_widest_camera_fills_the_picture_up_to_the_nearest_edge():
    assert widest_camera(lens_of(CAMERA), STRAIGHT, 120, 160) == CAMERA
    right = 80 - LEFT  # of the principal point's two sides, the nearer one
    focal = torch.tensor([[CAMERA.focal / 150, CAMERA.focal / 120]], dtype=torch.float64)
    off = pinhole(focal, torch.tensor([[right / 150, 0.5]], dtype=torch.float64))
    expected = math.degrees(2 * math.atan(right / CAMERA.focal))
    assert 0 <= expected - widest_camera(off, STRAIGHT, 32, 48).horizontal_fov < 0.1
    quarter = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    upright = math.degrees(2 * math.atan(60 / CAMERA.focal))  # the picture's height lies across
    assert 0 <= upright - widest_camera(lens_of(CAMERA), quarter, 160, 120).horizontal_fov < 0.1
    with pytest.raises(ValueError, match="expected principal points inside the pictures, got one outside"):
        widest_camera(pinhole(focal, torch.tensor([[1.2, 0.5]], dtype=torch.float64)), STRAIGHT, 32, 48)


def test_a_lens_bends_rays_as_its_formula_says():
    bent = torch.tensor([[-0.1, 0.02, 0.003, 0.0, 0.01, -0.02]], dtype=torch.float64)
    ray = torch.tensor([[0.3, -0.4, 1.0]], dtype=torch.float64)  # 0.5 from the axis
    k = 1 - 0.1 * 0.25 + 0.02 * 0.25**2 + 0.003 * 0.25**3
    x = 0.3 * k + 2 * 0.01 * 0.3 * -0.4 - 0.02 * (0.25 + 2 * 0.09)
    y = -0.4 * k + 0.01 * (0.25 + 2 * 0.16) + 2 * -0.02 * 0.3 * -0.4
    one = {"focal": torch.ones(1, 2, dtype=torch.float64), "centre": torch.zeros(1, 2, dtype=torch.float64)}
    assert Lens(**one, distortion=bent).project(ray)[0, 0].tolist() == pytest.approx([x, y])
    angle = math.atan(0.5)
    radius = angle * (1 - 0.1 * angle**2 + 0.02 * angle**4 + 0.003 * angle**6)
    eye = Lens(**one, distortion=bent, fisheye=True).project(ray)[0, 0].tolist()
    assert eye == pytest.approx([0.6 * radius, -0.8 * radius])


def test_a_photograph_is_cropped_to_the_pixel():
    """Half the field of view shows the middle half of a slope of grey, each pixel the mean of what it covers."""
    slope = torch.arange(160, dtype=torch.uint8).expand(1, 120, 160)[..., None].expand(-1, -1, -1, 3)
    half = Camera(15, 20, math.degrees(2 * math.atan(math.tan(math.radians(37.5)) / 2)))
    seen = photograph(slope, lens_of(CAMERA), STRAIGHT, half)
    assert seen[0, 7, :, 0].tolist() == pytest.approx([40 + 4 * i + 1.5 for i in range(20)], abs=0.51)
    with pytest.raises(ValueError, match="expected square pixels, got pictures of 160x120 whose pixels are"):
        photograph(slope.transpose(1, 2), lens_of(CAMERA), STRAIGHT, half)


def test_a_depth_is_never_a_mean_of_near_and_far():
    near = torch.where(torch.arange(160) < 82, 1.0, 4.0).expand(1, 120, 160)
    half = Camera(15, 20, math.degrees(2 * math.atan(math.tan(math.radians(37.5)) / 2)))
    (seen,) = photograph_depth(near, lens_of(CAMERA), STRAIGHT, half)
    left, edge, right = seen[7].split([10, 1, 9])  # the pixel at the edge has its middle between columns 81 and 82
    assert set(left.tolist()) == {1} and set(right.tolist()) == {4} and edge.item() in (1, 4)


def test_a_video_tells_when_it_shows_its_frames(scans):
    times = frame_times(scans["realestate10k"] / "video.mp4")
    assert times.tolist() == pytest.approx([index / 30 for index in range(14)], abs=1e-4)


def test_the_nearest_time():
    index, distance = nearest(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0.5, 1.4, 3.5, 9.0]))
    assert index.tolist() == [0, 0, 2, 2]
    assert distance.tolist() == pytest.approx([0.5, 0.4, 0.5, 5.0])
    assert nearest(torch.tensor([1.0]), torch.tensor([0.0, 3.0]))[0].tolist() == [0, 0]


def test_the_command_writes_part_of_a_scan_and_says_what(scans, room, tmp_path, capsys):
    small = ["--height", "32", "--width", "48", "--out", str(tmp_path / "out")]
    folder = str(scans["nerfstudio"])
    main(["nerfstudio", folder, *small, "--stride", "2", "--count", "2", "--scale", "0.5", "--place", "workshop"])
    assert "out: 2 frames of 32x48, 75.0 degrees wide, 0 objects, lengths in metres" in capsys.readouterr().out
    c2w = load_episode(tmp_path / "out").c2w
    assert (c2w[:, :3, 3] - 0.5 * room.c2w[::2, :3, 3]).abs().max() < 1e-5
    known = load_annotations(tmp_path / "out")
    assert known.metric and known.place == "workshop"
    small[-1] = str(tmp_path / "other")
    for layout, more, message in (
        ("nerfstudio", ["--out", str(tmp_path / "out")], "expected a free place for the episode, got the existing"),
        ("nerfstudio", ["--stride", "0"], "expected a stride and a count from 1, got 0 and None: choose"),
        ("nerfstudio", ["--fov", "90"], "expected a field of view from 1 to 75.0 degrees, got 90.0: choose"),
        ("arkitscenes", ["--scale", "2"], "expected a positive scale for a scan of unknown unit, got 2.0 for one in"),
    ):
        assert main([layout, str(scans[layout]), *small, *more]) == 2
        assert capsys.readouterr().err.startswith(message)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_command_ends_with_one_sentence(tmp_path):
    command = [
        sys.executable,
        "-m",
        "v4s_lib.data.readers",
        "matterport",
        str(tmp_path),
        "--out",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 2
    assert done.stderr == (
        "expected a layout out of scannetpp, scannetpp-dslr, arkitscenes, dl3dv, nerfstudio, realestate10k, "
        "got 'matterport': choose one of them\n"
    )
    assert list(tmp_path.iterdir()) == []


def edit(part: str, old: str, new: str):
    def change(folder: Path) -> None:
        text = (folder / part).read_text()
        assert old in text
        (folder / part).write_text(text.replace(old, new, 1))

    return change


def remove(pattern: str):
    def change(folder: Path) -> None:
        for path in list(folder.glob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def first_pose(matrix: list) -> object:
    def change(folder: Path) -> None:
        path = folder / "transforms.json"
        frames = json.loads(path.read_text())["frames"]
        change_json(path, frames=[frames[0] | {"transform_matrix": matrix}, *frames[1:]])

    return change


POSES, TRAJECTORY = "iphone/pose_intrinsic_imu.json", "41254925_frames/lowres_wide.traj"
TABLE = "0000cc6d8b108390.txt"


@pytest.mark.parametrize(
    ("layout", "change", "message"),
    [
        ("scannetpp", remove("iphone/rgb.mkv"), "expected rgb.mkv or rgb.mp4 beside .*, got neither: download"),
        ("scannetpp", remove(POSES), "expected the file .*pose_intrinsic_imu.json, got nothing there: download"),
        ("scannetpp", edit(POSES, '{"frame_000000"', '{"frame_000009": {}, "frame_000000"'), "expected 6 frames in .*"),
        ("scannetpp", edit(POSES, '"intrinsic"', '"intrinsics"'), "expected 3x3 numbers as every intrinsic in .*"),
        ("scannetpp", edit("scans/segments_anno.json", '"obb"', '"box"'), "expected label, objectId and obb of every"),
        ("scannetpp-dslr", remove("dslr/resized_images/DSC00001.JPG"), "expected the picture .*DSC00001.JPG, got noth"),
        ("arkitscenes", remove(TRAJECTORY), "expected the file .*lowres_wide.traj, got nothing there: download"),
        ("arkitscenes", edit(TRAJECTORY, " ", " 1 "), "expected 7 numbers in every row of .*, got others or none"),
        ("arkitscenes", edit(TRAJECTORY, " ", " x"), "expected numbers in .*lowres_wide.traj, got another text"),
        ("arkitscenes", remove("*_frames/lowres_wide/*"), "expected .png files in .*lowres_wide, got none: download"),
        ("arkitscenes", remove("*_frames/*intrinsics/*_6845.8*"), "expected a .pincam file for .*, got none: download"),
        ("dl3dv", remove("images_8"), "expected images_4 or images_8 or images_2 or images in .*, got none: unpack"),
        ("dl3dv", edit("transforms.json", "OPENCV", "EQUIRECTANGULAR"), "expected one camera model out of .*RECTANG"),
        ("nerfstudio", edit("transforms.json", '"fl_y"', '"fl_z"'), "expected a number as every fl_y in .*, got somet"),
        ("nerfstudio", edit("transforms.json", "{", "["), "expected JSON in .*transforms.json, got .*: download it"),
        ("nerfstudio", edit("transforms.json", "images/", "../../"), "expected a path that stays in .*, got"),
        ("nerfstudio", first_pose(torch.eye(4)[:3].tolist()), "expected 4x4 numbers as every transform_matrix in .*"),
        ("nerfstudio", first_pose((2 * torch.eye(4)).tolist()), "expected rigid c2w matrices in .*, got one that scal"),
        ("nerfstudio", remove("images/frame_00001.png"), "expected the picture .*frame_00001.png, got nothing there"),
        ("realestate10k", remove("*.mp4"), "expected a video in .*, got none: put the scan there"),
        ("realestate10k", remove("*.txt"), r"expected one camera file \(.txt\) in .*, got 0: put one clip there"),
        ("realestate10k", edit(TABLE, " 0.5 ", " "), "expected an address, then rows of 19 numbers with zeros in"),
        ("realestate10k", edit(TABLE, "\n66667 ", "\n9966667 "), "expected a frame at 9.967 s in .*, got none within"),
    ],
)
def test_bad_scans_are_refused_in_one_sentence_and_leave_nothing(copy, tmp_path, layout, change, message):
    folder = copy(layout)
    change(folder)
    with pytest.raises((FileNotFoundError, ValueError), match=rf"^{message}") as caught:
        write_scan(read_scan(layout, folder), tmp_path / "episode", 16, 24)
    assert "\n" not in str(caught.value) and ": " in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_pictures_of_several_sizes_or_torn_ones_are_refused(copy, tmp_path):
    folder = copy("nerfstudio")
    picture = folder / "images" / "frame_00002.png"
    picture.write_bytes(picture.read_bytes()[:500])
    with pytest.raises(ValueError, match="^expected a whole picture in .*, got .*: download or unpack it again$"):
        write_scan(read_scan("nerfstudio", folder), tmp_path / "episode", 16, 24)
    Image.fromarray(np.zeros((12, 16, 3), np.uint8)).save(picture)
    with pytest.raises(ValueError, match="^expected pictures of one size beside .*, got .*: read them apart$"):
        write_scan(read_scan("nerfstudio", folder), tmp_path / "episode", 16, 24)


@pytest.mark.parametrize("name", ["scannetpp", "arkitscenes", "arkitscenes_raw", "dl3dv", "realestate10k"])
def test_every_public_set_has_a_manifest_with_its_reader(name):
    manifest = load_manifest(name)
    assert manifest["layout"] == name.removesuffix("_raw") and manifest["layout"] in LAYOUTS
    assert "on first use" in manifest["note"] and not any("sha256" in file for file in manifest.get("files", []))
    schema = json.loads((Path(__file__).parents[2] / "data_manifests/schema.json").read_text())
    assert schema["properties"]["layout"]["enum"] == list(LAYOUTS)


@pytest.mark.parametrize("name", ["scannetpp", "dl3dv"])
def test_a_set_behind_an_application_says_what_to_accept_and_where(name, tmp_path):
    with pytest.raises(
        ValueError, match=rf"^expected files in the manifest {name}, got none: (?=.*accept).*https://\S+"
    ):
        fetch_manifest(name, tmp_path)
    assert list(tmp_path.iterdir()) == []
