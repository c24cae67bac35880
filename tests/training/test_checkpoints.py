"""A checkpoint is whole or it is none, and a full disk costs nothing but the newest one."""

import errno
import gc
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from v4s_lib.training.checkpoints import LIST, latest_checkpoint, save_checkpoint, write_folder


def write(folder: Path) -> None:
    (folder / "deeper").mkdir()
    (folder / "a.bin").write_bytes(bytes(range(200)))
    (folder / "deeper" / "b.bin").write_bytes(bytes(50))


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_the_newest_two_are_kept(tmp_path):
    assert latest_checkpoint(tmp_path / "none") is None
    for step in (5, 10, 200, 1000):
        place = save_checkpoint(tmp_path / "run", step, write)
        assert latest_checkpoint(tmp_path / "run") == place == tmp_path / "run" / f"checkpoint-{step:07d}"
    assert names(tmp_path / "run") == ["checkpoint-0000200", "checkpoint-0001000"]
    assert (place / "deeper" / "b.bin").read_bytes() == bytes(50)


def test_a_step_can_be_saved_again(tmp_path):
    save_checkpoint(tmp_path, 5, write)
    save_checkpoint(tmp_path, 5, lambda folder: (folder / "new").write_text("new"))
    assert names(latest_checkpoint(tmp_path)) == [LIST, "new"]


DAMAGE = {
    "missing file": lambda place: (place / "deeper" / "b.bin").unlink(),
    "flipped bit": lambda place: flip(place / "a.bin", 150),
    "cut file": lambda place: (place / "a.bin").write_bytes(bytes(range(199))),
    "missing list": lambda place: (place / LIST).unlink(),
    "empty list": lambda place: (place / LIST).write_bytes(b""),
    "cut list": lambda place: (place / LIST).write_bytes((place / LIST).read_bytes()[:-9]),
    "flipped bit in the list's first key": lambda place: flip(place / LIST, 4),
    "flipped bit in a hash": lambda place: flip(place / LIST, (place / LIST).read_bytes().index(b"a.bin") + 12),
    "not text": lambda place: (place / LIST).write_bytes(b"\xff\xfe\xfd"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_torn_checkpoint_is_passed_over(tmp_path, name):
    older, newer = save_checkpoint(tmp_path, 5, write), save_checkpoint(tmp_path, 10, write)
    assert latest_checkpoint(tmp_path) == newer
    DAMAGE[name](newer)
    harmless = name == "flipped bit in the list's first key"  # it is the step's, which is not read from here
    assert latest_checkpoint(tmp_path) == (newer if harmless else older)
    DAMAGE["flipped bit"](older)
    if harmless:
        assert latest_checkpoint(tmp_path) == newer
        return
    with pytest.raises(ValueError, match=r"^expected a whole checkpoint in .*, got [12] with files .*: put the files"):
        latest_checkpoint(tmp_path)


def test_going_on_from_an_older_one_replaces_what_came_after(tmp_path):
    for step in (250, 500):
        save_checkpoint(tmp_path, step, write)
    DAMAGE["flipped bit"](tmp_path / "checkpoint-0000500")
    save_checkpoint(tmp_path, 300, write)
    assert names(tmp_path) == ["checkpoint-0000250", "checkpoint-0000300"]


def test_what_a_killed_writer_left_is_cleared(tmp_path):
    save_checkpoint(tmp_path, 5, write)
    (tmp_path / ".checkpoint-0000010.part").mkdir()
    (tmp_path / ".checkpoint-0000010.part" / "a.bin").write_bytes(bytes(9))
    (tmp_path / "checkpoint-0000010").mkdir()
    assert latest_checkpoint(tmp_path).name == "checkpoint-0000005"
    save_checkpoint(tmp_path, 10, write)
    assert names(tmp_path) == ["checkpoint-0000005", "checkpoint-0000010"]
    assert names(tmp_path / "checkpoint-0000010") == ["a.bin", LIST, "deeper"]


def half_then_full(folder: Path) -> None:
    (folder / "a.bin").write_bytes(bytes(100))
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


TENSORS = {"x": torch.zeros(1_000_000)}
WRITERS = {
    "bytes": lambda folder: (folder / "a.bin").write_bytes(bytes(4_000_000)),
    "torch": lambda folder: torch.save(TENSORS, folder / "a.pt"),
    "safetensors": lambda folder: save_file(TENSORS, folder / "a.safetensors"),
}


def assert_refused(root: Path, writer: Callable[[Path], object]) -> None:
    """One sentence, no leftovers, and the older checkpoints as they were."""
    with pytest.raises(OSError, match=r"^expected to write .*checkpoint-0000015, got .+: free disk space") as caught:
        save_checkpoint(root, 15, writer)
    assert "\n" not in str(caught.value)
    assert names(root) == ["checkpoint-0000005", "checkpoint-0000010"]
    assert latest_checkpoint(root).name == "checkpoint-0000010"


def test_a_writer_that_fails_half_way(tmp_path):
    for step in (5, 10):
        save_checkpoint(tmp_path, step, write)
    assert_refused(tmp_path, half_then_full)


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow past 1 MB: the system refuses the rest, to every library in its own way."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("writer", WRITERS)
def test_files_that_can_not_be_written(tmp_path, small_files, writer):
    for step in (5, 10):
        save_checkpoint(tmp_path, step, write)
    assert_refused(tmp_path, WRITERS[writer])


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 1 MB, where the system lets us have one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small file system is not allowed here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk(small_disk, writer):
    for step in (5, 10):
        save_checkpoint(small_disk / "run", step, write)
    assert_refused(small_disk / "run", WRITERS[writer])
    gc.collect()  # torch's writer, which the error's traceback holds, keeps the deleted file open
    save_checkpoint(small_disk / "run", 15, write)
    assert names(small_disk / "run") == ["checkpoint-0000010", "checkpoint-0000015"]


def test_a_folder_is_replaced_as_a_whole_or_not_at_all(tmp_path):
    place = write_folder(tmp_path / "weights", write)
    with pytest.raises(OSError, match=r"^expected to write .*weights, got .*No space left on device: free disk space"):
        write_folder(place, half_then_full)
    assert names(place) == ["a.bin", "deeper"] and names(tmp_path) == ["weights"]
    write_folder(place, lambda folder: (folder / "new").write_text("new"))
    assert names(place) == ["new"] and names(tmp_path) == ["weights"]


def test_an_interrupt_leaves_nothing_half_written(tmp_path):
    def interrupted(folder: Path) -> None:
        (folder / "a.bin").write_bytes(bytes(9))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_folder(tmp_path / "weights", interrupted)
    assert names(tmp_path) == []
