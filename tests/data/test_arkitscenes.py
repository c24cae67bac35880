"""An iPad's captures: the best pictures that are there, with their own lens, and the sensor's depth."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.layouts import CAMERA, write_ipad_pictures
from v4s_lib.data.depth import DEPTH_ROWS
from v4s_lib.data.episodes import load_episode
from v4s_lib.data.readers import read_scan
from v4s_lib.data.readers.scan import write_scan
from v4s_lib.data.scans import psnr
from v4s_lib.worlds.cameras import Camera


def test_the_raw_release_of_arkitscenes_has_its_parts_in_the_folder_itself(copy, room):
    folder = copy("arkitscenes")
    frames = folder / "41254925_frames"
    for part in list(frames.iterdir()):
        part.rename(folder / part.name)
    frames.rmdir()
    assert (read_scan("arkitscenes", folder).c2w.float() - room.c2w).abs().max() < 1e-5


def test_an_ipads_depth_is_turned_and_cropped_with_its_pictures(scans, room, tmp_path):
    scan = read_scan("arkitscenes", scans["arkitscenes"])
    assert [path.name for path in scan.depth] == [scan.pictures[place].name for place in scan.places]
    camera = write_scan(scan, tmp_path / "episode", 32, 48, fov=55)
    (depth,) = load_episode(tmp_path / "episode").depth
    true = room.depth(camera, room.c2w[:1])[0]
    off = (depth / true - 1).abs()
    assert off.median() < 0.01 and (off < 0.03).float().mean() > 0.9  # the rest are edges
    order = [0, 1, 1, 1, 3]
    places, paths = (tuple(of[index] for index in order) for of in (scan.places, scan.depth))
    longer = replace(scan, places=places, lens=scan.lens[order], c2w=scan.c2w[order], depth=paths)
    write_scan(longer, tmp_path / "longer", 32, 48, fov=55)
    first, fifth = load_episode(tmp_path / "longer").depth
    middle = room.depth(camera, room.c2w[3:])[0, 16, 24].item()
    assert torch.equal(first, depth) and fifth[16, 24].item() == pytest.approx(middle, rel=0.02)
    assert write_scan(scan.part(slice(1, 4)), tmp_path / "part", 256, 384).height == 256
    (part,) = load_episode(tmp_path / "part").depth
    assert part.shape == (DEPTH_ROWS, 192)
    true = room.depth(Camera(DEPTH_ROWS, 192, 60.0), room.c2w[1:2])[0]
    assert (part[64, 96] / true[64, 96] - 1).abs() < 0.02  # the middle is the same at every field of view


def test_a_frame_without_depth_has_zeros_and_other_pictures_are_no_depth(copy, tmp_path):
    folder = copy("arkitscenes")
    first, *_ = sorted((folder / "41254925_frames/lowres_depth").iterdir())
    first.unlink()
    scan = read_scan("arkitscenes", folder)
    assert scan.depth[0] is None and None not in scan.depth[1:]
    write_scan(scan, tmp_path / "episode", 32, 48)
    assert load_episode(tmp_path / "episode").depth.eq(0).all()
    for content, message in (
        (np.zeros((120, 160), np.uint8), r"expected 16-bit millimetres in .*, got uint8 \(120, 160\): download"),
        (None, "expected a whole depth picture in .*, got .*: unpack it again"),
    ):
        first.write_bytes(b"") if content is None else Image.fromarray(content).save(first)
        with pytest.raises(ValueError, match=f"^{message}"):
            write_scan(read_scan("arkitscenes", folder), tmp_path / "other", 32, 48)
    shutil.rmtree(first.parent)
    write_scan(read_scan("arkitscenes", folder), tmp_path / "bare", 32, 48)
    assert load_episode(tmp_path / "bare").depth is None


def test_the_best_pictures_of_an_ipad_are_taken_with_their_own_lens(copy, scans, room, tmp_path):
    folder = copy("arkitscenes")
    frames, large = folder / "41254925_frames", Camera(240, 320, CAMERA.horizontal_fov)
    for kind in ("wide", "vga_wide"):
        write_ipad_pictures(folder, room, kind, large)
    scan = read_scan("arkitscenes", folder)
    assert {path.parent.name for path in scan.pictures} == {"vga_wide"} and scan.places == (1, 2, 3, 4)
    camera = write_scan(scan, tmp_path / "large", 96, 144, fov=55)
    write_scan(read_scan("arkitscenes", scans["arkitscenes"]), tmp_path / "small", 96, 144, fov=55)
    likeness = [psnr(load_episode(tmp_path / name).frames, room.seen(camera)) for name in ("small", "large")]
    assert likeness[1] > likeness[0] + 2
    for name, taken in (("vga_wide", "lowres_wide"), ("lowres_wide", "wide")):
        shutil.rmtree(frames / name)
        scan = read_scan("arkitscenes", folder)
        assert {path.parent.name for path in scan.pictures} == {taken}
        assert (scan.c2w.float() - room.c2w).abs().max() < 1e-5
    for path in (frames / "wide_intrinsics").glob("*_6845.8*"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match="^expected a .pincam file for .*: download wide_intrinsics$"):
        read_scan("arkitscenes", folder)
