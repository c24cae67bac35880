"""Archives come out whole or not at all, and never outside the folder that was named."""

import io
import os
import stat
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from v4s_lib.data.archives import extract, inside

ROOT = Path(__file__).resolve().parents[2]
CONTENT = {"scene/a.txt": b"first", "scene/deep/b.bin": bytes(range(256)) * 40, "c.txt": b""}


def make_zip(path: Path, members: dict[str, bytes], links: dict[str, str] | None = None) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
        for name, target in (links or {}).items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            file.writestr(info, target)
    return path


def make_tar(path: Path, members: dict[str, bytes], links: dict[str, str] | None = None, kind=tarfile.SYMTYPE) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            file.addfile(info)
    return path


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


MAKERS = {"set.zip": make_zip, "set.tar": make_tar, "set.tar.gz": make_tar}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("there", [False, True])
def test_files_come_out_bit_for_bit_beside_what_was_there(tmp_path, name, there):
    folder = tmp_path / "out"
    if there:
        folder.mkdir()
        (folder / "mine.txt").write_bytes(b"mine")
    paths = extract(MAKERS[name](tmp_path / name, CONTENT), folder)
    assert tree(folder) == CONTENT | ({"mine.txt": b"mine"} if there else {})
    assert paths == [folder / member for member in CONTENT]
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize("name", MAKERS)
def test_links_inside_the_archive_become_copies(tmp_path, name):
    archive = MAKERS[name](tmp_path / name, CONTENT, {"scene/link": "deep/b.bin", "scene/deep/up": "../a.txt"})
    extract(archive, tmp_path / "out")
    copies = {"scene/link": CONTENT["scene/deep/b.bin"], "scene/deep/up": b"first"}
    assert tree(tmp_path / "out") == CONTENT | copies
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))


def test_a_hard_link_becomes_a_copy(tmp_path):
    archive = make_tar(tmp_path / "set.tar", CONTENT, {"scene/deep/hard": "scene/a.txt"}, tarfile.LNKTYPE)
    extract(archive, tmp_path / "out")
    assert (tmp_path / "out/scene/deep/hard").read_bytes() == b"first"


OUTSIDE = ["../evil", "a/../../evil", "/tmp/evil", "..\\evil", "C:\\evil", "C:evil", "a/../b"]
LINKS = ["../../evil", "/etc/passwd", "..", "missing", "scene/deep"]


def assert_nothing_written(tmp_path: Path, archive: Path) -> None:
    assert [path for path in tmp_path.rglob("*") if path != archive] == []


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("member", OUTSIDE)
def test_a_member_that_leaves_the_folder_stops_all(tmp_path, name, member):
    archive = MAKERS[name](tmp_path / name, CONTENT | {member: b"evil"})
    with pytest.raises(ValueError, match=r"^expected a path that stays in [^\n]*, got [^\n]*: use nothing from this"):
        extract(archive, tmp_path / "out")
    assert_nothing_written(tmp_path, archive)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("target", LINKS)
def test_a_link_that_leaves_the_folder_or_leads_to_no_file_stops_all(tmp_path, name, target):
    archive = MAKERS[name](tmp_path / name, CONTENT, {"link": target})
    with pytest.raises(ValueError, match=r"^expected (a path that stays in|links to files of the archive)[^\n]*, got"):
        extract(archive, tmp_path / "out")
    assert_nothing_written(tmp_path, archive)


def test_a_link_that_is_walked_through_stops_all(tmp_path):
    archive = make_tar(tmp_path / "set.tar", {"d/x": b"x"}, {"link": "d"})
    with tarfile.open(archive, "a") as file:
        file.addfile(tarfile.TarInfo("link/evil"), io.BytesIO(b""))
    with pytest.raises(ValueError, match="^expected "):
        extract(archive, tmp_path / "out")
    assert_nothing_written(tmp_path, archive)


def test_a_device_stops_all(tmp_path):
    archive = make_tar(tmp_path / "set.tar", CONTENT, {"pipe": ""}, tarfile.FIFOTYPE)
    with pytest.raises(ValueError, match=r"^expected files, folders and links, got the device 'pipe': do not use"):
        extract(archive, tmp_path / "out")
    assert_nothing_written(tmp_path, archive)


@pytest.mark.parametrize("members", [{"a": b"1", "A": b"2"}, {"a": b"1", "a/b": b"2"}])
def test_a_name_that_comes_twice_stops_all(tmp_path, members):
    archive = make_tar(tmp_path / "set.tar", members)
    with pytest.raises(ValueError, match=r"^expected every name once, got '[^\n]*' twice: unpack"):
        extract(archive, tmp_path / "out")
    assert_nothing_written(tmp_path, archive)


@pytest.mark.parametrize("name", MAKERS)
def test_a_file_that_is_there_is_not_lost(tmp_path, name):
    (tmp_path / "out/scene/deep").mkdir(parents=True)
    (tmp_path / "out/scene/deep/b.bin").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"^expected no [^\n]*b.bin yet, got one: move it away, or choose"):
        extract(MAKERS[name](tmp_path / name, CONTENT), tmp_path / "out")
    assert tree(tmp_path / "out") == {"scene/deep/b.bin": b"mine"}


@pytest.mark.parametrize("name", MAKERS)
def test_a_damaged_archive_leaves_nothing(tmp_path, name):
    noise = os.urandom(40_000)
    archive = MAKERS[name](tmp_path / name, {"first": b"1", "noise": noise})
    archive.write_bytes(archive.read_bytes()[:20_000])
    with pytest.raises(ValueError, match=r"^expected a whole [^\n]*, got [^\n]*: download it again$"):
        extract(archive, tmp_path / "out")
    assert_nothing_written(tmp_path, archive)


def test_a_flipped_bit_in_a_zip_leaves_nothing(tmp_path):
    archive = make_zip(tmp_path / "set.zip", {"first": b"1", "noise": os.urandom(40_000)})
    data = bytearray(archive.read_bytes())
    data[20_000] ^= 1
    archive.write_bytes(data)
    with pytest.raises(ValueError, match=r"^expected a whole [^\n]*, got [^\n]*: download it again$"):
        extract(archive, tmp_path / "out")
    assert_nothing_written(tmp_path, archive)


def test_what_is_no_archive_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^expected the archive [^\n]*, got nothing there: download it first$"):
        extract(tmp_path / "none.zip", tmp_path / "out")
    (tmp_path / "page.zip").write_text("<html>log in</html>")
    with pytest.raises(ValueError, match=r"^expected a whole zip or tar file, got [^\n]*: download it again$"):
        extract(tmp_path / "page.zip", tmp_path / "out")


def test_a_full_disk_is_found_before(tmp_path, monkeypatch):
    archive = make_zip(tmp_path / "set.zip", CONTENT)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10_000}))
    with pytest.raises(OSError, match=r"^expected 10,245 bytes free for [^\n]*, got 10,000: make room"):
        extract(archive, tmp_path / "out")
    assert_nothing_written(tmp_path, archive)


@pytest.mark.parametrize("name", [*OUTSIDE, "", ".", "a\0b"])
def test_paths_that_leave_a_folder_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"^expected a path that stays in "):
        inside(tmp_path, name)


def test_a_path_through_a_link_in_the_folder_is_refused(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/link").symlink_to(tmp_path, target_is_directory=True)
    assert inside(tmp_path / "folder", "a/b.txt") == tmp_path / "folder/a/b.txt"
    with pytest.raises(ValueError, match=r"^expected a path that stays in "):
        inside(tmp_path / "folder", "link/evil")


def test_the_command_unpacks_once_and_then_refuses_in_one_sentence(tmp_path):
    archive, out = make_zip(tmp_path / "set.zip", CONTENT), tmp_path / "out"
    command = [sys.executable, "-m", "v4s_lib.data.archives", str(archive), "--out", str(out)]
    first, again = (subprocess.run(command, cwd=ROOT, capture_output=True, text=True) for _ in range(2))
    assert (first.returncode, first.stdout, first.stderr) == (0, f"{out}: 3 files unpacked\n", "")
    taken = f"expected no {out / 'scene/a.txt'} yet, got one: move it away, or choose another folder\n"
    assert (again.returncode, again.stdout, again.stderr) == (2, "", taken)
    assert tree(out) == CONTENT
