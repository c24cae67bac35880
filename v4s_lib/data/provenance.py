"""Where a result comes from."""

import subprocess
from functools import cache
from pathlib import Path

LIBRARY = Path(__file__).resolve().parents[1]
CHANGED = "-changed"  # added to a commit whose library was changed since


@cache
def current_commit() -> str:
    """The commit of the library's code, and ``CHANGED`` if files of it differ; "unknown" without git or a checkout.

    It is looked up once, when a command begins: what changes while it runs is no code of its.
    """
    try:
        commit, changes = (_git(*command) for command in (("rev-parse", "HEAD"), ("status", "--porcelain", "--", ".")))
    except FileNotFoundError:
        return "unknown"
    return commit + CHANGED * bool(changes) if commit else "unknown"


def _git(*command: str) -> str:
    run = ["git", "--no-optional-locks", "-C", str(LIBRARY), *command]
    return subprocess.run(run, capture_output=True, text=True, check=False).stdout.strip()
