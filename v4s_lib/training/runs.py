"""What every training run keeps beside its weights: a log of JSON lines, and a contract of what must stay the same."""

import json
from pathlib import Path
from typing import Any


def append_line(log: Path, values: dict[str, Any]) -> None:
    """Append one JSON line to ``log``; its folder is made."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        file.write(json.dumps(values) + "\n")


def drop_lines_after(log: Path, step: int) -> None:
    """Leave out of ``log``, if there is one, the lines of later steps and one that a kill has torn."""
    if not log.is_file():
        return
    whole = [line for line in log.read_text().splitlines() if line.endswith("}")]
    kept = [line + "\n" for line in whole if json.loads(line)["step"] <= step]
    beside = log.with_suffix(".part")
    beside.write_text("".join(kept))
    beside.replace(log)


def stored_before(path: Path | None, contract: dict[str, Any], advice: str) -> dict[str, Any]:
    """What a file of results, to be added to, holds, made under the same contract; nothing without a file."""
    if path is None or not path.is_file():
        return {}
    found = json.loads(path.read_text())
    check_contract(path, contract, found, advice)
    return found


def check_contract(
    place: Path,
    expected: dict[str, Any],
    found: dict[str, Any],
    advice: str = "use the old settings or another output folder",
) -> None:
    """Refuse to go on from what is at ``place``, made under the contract ``found``, under another one."""
    differing = [name for name, value in expected.items() if found.get(name) != value]
    if differing:
        raise ValueError(f"expected to resume {place} with the same {', '.join(differing)}, got another: {advice}")
