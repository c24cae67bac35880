"""Where a result comes from."""

import subprocess
from pathlib import Path


def current_commit() -> str:
    """The commit of the code, or "unknown" outside a git checkout and where there is no git."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "unknown"
    return result.stdout.strip() or "unknown"
