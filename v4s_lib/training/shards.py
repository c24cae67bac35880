"""The files of a latent cache: which scans belong to which shard, and what is whole (``latents.py`` fills them)."""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from v4s_lib.data import disk
from v4s_lib.training.cached import Stamp, check_stamp, describe_file
from v4s_lib.training.checkpoints import write_folder
from v4s_lib.training.targets import SCANS

LIST = "list.json"  # beside a file, what is in it
PLAN = "plan.json"


def plan_shards(out: Path, stamp: Stamp, names: list[str], scans_a_shard: int) -> dict[str, list[str]]:
    """Which scans belong to which shard: those that are in it, or as planned before; and new shards for all others.

    A scan that was left out of a shard is one of the others. One that is neither in a shard nor there is planned no
    more.
    """
    plan = disk.read_json(out / PLAN)
    if not plan and any(not path.name.startswith(".") and path.suffix != ".part" for path in out.iterdir()):
        raise ValueError(f"expected a latent cache or an empty folder at {out}, got another: choose another --out")
    if plan:
        check_stamp(out, stamp, Stamp(**plan["stamp"]))
    shards, there = {}, set(names)
    for shard, planned in plan.get("shards", {}).items():
        inside = sorted(disk.read_json(out / shard / LIST).get("scans", {}))
        if scans := inside or [name for name in planned if name in there]:
            shards[shard] = scans
    new = sorted(there.difference(*shards.values()))
    number = 1 + max((int(shard.removeprefix(SCANS)) for shard in shards), default=-1)
    for start in range(0, len(new), scans_a_shard):
        shards[f"{SCANS}{number + start // scans_a_shard:05d}"] = new[start : start + scans_a_shard]
    with disk.writing(out / PLAN):
        disk.write_json(out / PLAN, {"stamp": asdict(stamp), "shards": shards})
    return shards


def write_file(file: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write tensors to a file, and beside it a list of ``facts``, size and sha256: its folder is there whole or not."""

    def write(beside: Path) -> None:
        save_file(tensors, beside / file.name)
        disk.write_json(beside / LIST, facts | describe_file(beside / file.name))
        shutil.copymode(beside / LIST, beside / file.name)  # safetensors lets its owner alone read it

    disk.require_space(file.parents[1], sum(tensor.nbytes for tensor in tensors.values()))
    write_folder(file.parent, write)


def whole_list(file: Path, **expected: Any) -> dict[str, Any] | None:
    """The list beside a file, when it says what is expected and the file is as it says; else ``None``."""
    facts = disk.read_json(file.parent / LIST)
    if not file.is_file() or any(facts.get(key) != value for key, value in expected.items()):
        return None
    return facts if facts | describe_file(file) == facts else None
