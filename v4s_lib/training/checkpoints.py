"""Checkpoints that survive a crash, a kill and a full disk.

A checkpoint is written to a folder beside its place, listed file by file with sha256, and only then renamed; others
are deleted after that. What has no list, or does not match it, is not a checkpoint (TRAPS: accelerate deletes before
it writes and leaves no mark of completeness).
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from v4s_lib.data.files import sha256

LIST = "complete.json"


def write_folder(place: Path, write: Callable[[Path], None]) -> Path:
    """Let ``write`` fill a folder beside ``place`` and give it that name when it is complete, in the old one's stead.

    Raises ``OSError`` with one sentence when the disk is full or ``write`` fails; nothing half-written stays, and what
    was at ``place`` is still there.
    """
    beside = place.with_name(f".{place.name}.part")
    shutil.rmtree(beside, ignore_errors=True)  # of a run that was killed
    try:
        beside.mkdir(parents=True)
        write(beside)
        shutil.rmtree(place, ignore_errors=True)
        beside.rename(place)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors tell of a full disk each its way
        reason = " ".join(str(error).split())
        raise OSError(f"expected to write {place}, got {reason}: free disk space and run the command again") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return place


def save_checkpoint(root: Path, step: int, write: Callable[[Path], None], keep: int = 2) -> Path:
    """Let ``write`` fill ``root/checkpoint-STEP``, then delete all but it and the ``keep - 1`` before it.

    Later ones are torn, or of a run that was left for this one. Raises ``OSError`` as ``write_folder`` does; the other
    checkpoints are then untouched.
    """

    def write_and_list(folder: Path) -> None:
        write(folder)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        hashes = {path.relative_to(folder).as_posix(): sha256(path) for path in files}
        (folder / LIST).write_text(json.dumps({"step": step, "files": hashes}, indent=1))

    place = write_folder(root / f"checkpoint-{step:07d}", write_and_list)
    kept = [path for path in list_checkpoints(root) if path <= place][-keep:]
    for other in {*root.glob("checkpoint-*"), *root.glob(".checkpoint-*.part")} - set(kept):
        shutil.rmtree(other)
    return place


def list_checkpoints(root: Path) -> list[Path]:
    """Complete checkpoints of ``root``, oldest first; those without their list of files are passed over."""
    return sorted(path.parent for path in root.glob(f"checkpoint-*/{LIST}"))


def latest_checkpoint(root: Path) -> Path | None:
    """The newest checkpoint whose files match their list, or None when there is none.

    Raises ``ValueError`` where all are damaged: to begin again would, in the end, delete what may be mended.
    """
    places = list_checkpoints(root)
    whole = next((place for place in reversed(places) if _is_whole(place)), None)
    if places and whole is None:
        raise ValueError(
            f"expected a whole checkpoint in {root}, got {len(places)} with files that are not as they were written: "
            "put the files back, or begin again with --restart or in another folder"
        )
    return whole


def latest_step(root: Path) -> int:
    """The step of the newest complete checkpoint, 0 without one."""
    places = list_checkpoints(root)
    return json.loads((places[-1] / LIST).read_bytes())["step"] if places else 0


def _is_whole(place: Path) -> bool:
    try:
        files = json.loads((place / LIST).read_bytes())["files"]
    except (ValueError, KeyError):  # the list itself is torn
        return False
    return all((place / name).is_file() and sha256(place / name) == value for name, value in files.items())
