"""What a download keeps on the disk, and one sentence on what to do when the disk refuses."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

RECEIVED = "received.json"
RESUME = "run the same command again, which goes on where this one stopped"
FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


def length(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content
    except FileNotFoundError:
        return {}
    except ValueError:
        pass
    if path.name != RECEIVED:
        return {}
    raise ValueError(f"expected JSON in {path}, got text that breaks its rules: restore it, or delete it to start anew")


def write_json(path: Path, content: dict[str, Any]) -> None:
    new = path.with_name(path.name + ".part")
    new.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(new, path)


def require_space(folder: Path, needed: int) -> None:
    if (free := shutil.disk_usage(folder).free) < needed:
        raise OSError(f"expected {needed:,} bytes free in {folder}, got {free:,}: make room, then {RESUME}")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the disk refuses into one sentence; sentences from inside pass."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        todo = "make room" if error.errno in FULL else "correct the folder or its permissions"
        raise OSError(f"expected to write {path}, got {error.strerror}: {todo}, then {RESUME}") from error
