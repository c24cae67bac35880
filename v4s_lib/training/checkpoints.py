"""Checkpoints that survive a crash, a kill and a full disk.

A checkpoint is written to a folder beside its place, listed file by file with sha256, and only then renamed; older
ones are deleted after that. What has no list, or does not match it, is not a checkpoint (TRAPS: accelerate deletes
before it writes and leaves no mark of completeness).
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from v4s_lib.data.files import sha256

LIST = "complete.json"


def save_checkpoint(root: Path, step: int, write: Callable[[Path], None], keep: int = 2) -> Path:
    """Let ``write`` fill a folder, then make it ``root/checkpoint-STEP`` and delete all but the ``keep`` newest.

    Raises ``OSError`` with one sentence when the disk is full or ``write`` fails; nothing half-written stays and the
    older checkpoints are untouched.
    """
    root.mkdir(parents=True, exist_ok=True)
    place, beside = root / f"checkpoint-{step:07d}", root / f".writing-{step:07d}"
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir()
        write(beside)
        files = sorted(path for path in beside.rglob("*") if path.is_file())
        hashes = {str(path.relative_to(beside)): sha256(path) for path in files}
        (beside / LIST).write_text(json.dumps({"step": step, "files": hashes}, indent=1))
    except (OSError, RuntimeError) as error:
        shutil.rmtree(beside, ignore_errors=True)
        raise OSError(
            f"expected to save checkpoint {step} in {root}, got {error}: free disk space and resume; "
            "the checkpoints before it are intact"
        ) from error
    shutil.rmtree(place, ignore_errors=True)
    beside.rename(place)
    for old in list_checkpoints(root)[:-keep]:
        shutil.rmtree(old)
    return place


def list_checkpoints(root: Path) -> list[Path]:
    """Complete checkpoints of ``root``, oldest first; those without their list of files are passed over."""
    return sorted(path.parent for path in root.glob(f"checkpoint-*/{LIST}"))


def latest_checkpoint(root: Path) -> Path | None:
    """The newest checkpoint whose files match their list, or None when there is none."""
    for place in reversed(list_checkpoints(root)):
        files = json.loads((place / LIST).read_text())["files"]
        if all((place / name).is_file() and sha256(place / name) == value for name, value in files.items()):
            return place
    return None
