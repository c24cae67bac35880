"""``python -m v4s_lib.training.ship runs/small-seed0``: turn a run's averaged weights into shipped ones.

Writes ``data_manifests/weights/PRESET/VARIANT`` in half precision, with the run's log, and lists every file of the
preset in ``data_manifests/weights_PRESET.yaml``. Of another training seed (``--variant seed2``) the record alone is
shipped, settings and log, to which its results are bound; its weights stay beside it, out of git.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from v4s_lib.command import command
from v4s_lib.data.manifests import MANIFESTS, save_shipped
from v4s_lib.data.provenance import current_commit
from v4s_lib.model.transformer import ContextVideoTransformer
from v4s_lib.model.weights import weights_digest
from v4s_lib.training.checkpoints import latest_checkpoint, write_folder
from v4s_lib.training.presets import get_preset

SHARD = "15MB"  # of a weights file, at most: small enough to be handed on by any channel
VARIANTS = ("ours", "first_frame_only")  # whose weights ship
SEED = re.compile(r"seed\d+")  # a variant whose record alone does


def ship(run: Path, preset_name: str, variant: str, hardware: str, earlier: Sequence[Path] = ()) -> Path:
    """Copy the newest checkpoint's averaged weights of ``run``; returns the manifest's path.

    ``earlier`` are the runs, first to last, that ``run`` was started from, or a folder of shipped weights: their
    targets and minutes count, too, and their logs come before its own.
    """
    preset = get_preset(preset_name)
    place, state = _checkpoint(run)
    _check_finished(place, state)
    stages = [stage_facts(folder, hardware) for folder in (*earlier, run)]
    log = joined_log([*earlier, run])
    model = ContextVideoTransformer(**preset.model)
    load_average(model, place)
    facts = stages[-1]
    if earlier:
        sums = {name: round(sum(stage[name] for stage in stages), 1) for name in ("targets_seen", "minutes")}
        facts = {**facts, **sums, "earlier_stages": stages[:-1]}

    def write(folder: Path) -> None:
        model.to(torch.float16).save_pretrained(folder, safe_serialization=True, max_shard_size=SHARD)
        (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
        compared = {"compared_sha256": compared_digest(folder)} if SEED.fullmatch(variant) else {}
        (folder / "run.json").write_text(json.dumps(compared | facts, indent=1) + "\n")

    write_folder(MANIFESTS / "weights" / preset.name / variant, write)
    return write_manifest(preset.name)


def stage_facts(folder: Path, hardware: str) -> dict[str, Any]:
    """What is known of a run or, where a record says so already, of shipped weights."""
    record = folder / "run.json"
    if record.is_file():
        return json.loads(record.read_text())
    return run_facts(_checkpoint(folder)[1], folder / "log.jsonl", hardware)


def joined_log(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """The log of trainings that went on from each other; steps are counted through."""
    lines: list[dict[str, Any]] = []
    for folder in folders:
        before = lines[-1]["step"] if lines else 0
        own = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
        lines += [line | {"step": line["step"] + before} for line in own]
    return lines


def compared_digest(folder: Path) -> str:
    """sha256 over the weights in ``folder`` and those of the baseline beside it, as results of both name them."""
    folders = [place for place in (folder, folder.parent / "first_frame_only") if place.is_dir()]
    return weights_digest(*(ContextVideoTransformer.from_pretrained(place) for place in folders))


def _checkpoint(run: Path) -> tuple[Path, dict[str, Any]]:
    """A run's newest whole checkpoint, and what it says of itself."""
    place = latest_checkpoint(run / "checkpoints")
    if place is None:
        raise FileNotFoundError(f"expected a checkpoint in {run}/checkpoints, got none: train first")
    return place, json.loads((place / "run.json").read_text())


def _check_finished(place: Path, state: dict[str, Any]) -> None:
    """Refuse a checkpoint from the middle of a training."""
    if state["step"] < state["contract"]["steps"]:
        raise ValueError(
            f"expected a training that has ended, got {place} of step {state['step']} of "
            f"{state['contract']['steps']}: run the training's command again, until all steps are done"
        )


def load_average(model: ContextVideoTransformer, checkpoint: Path) -> None:
    """Give ``model`` the averaged (EMA) parameters of a checkpoint."""
    average = torch.load(checkpoint / "ema.pt", map_location="cpu", weights_only=True)["shadow_params"]
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), average, strict=True):
            parameter.copy_(value)


def run_facts(state: dict[str, Any], log: Path, hardware: str) -> dict[str, Any]:
    """What a reader asks of weights: steps, targets seen, minutes, seed, settings."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    seconds = training_seconds(lines)
    contract = state["contract"]
    drawn = max(0, state["step"] - contract["locate_steps"] - contract.get("find_steps", 0))
    targets = drawn * contract["contexts"] * contract["task"]["targets"]
    return {
        "step": state["step"],
        "targets_seen": targets,
        "minutes": round(seconds / 60, 1),
        "hardware": hardware,
        "commit": state.get("commit", current_commit()),
        "precision": state.get("precision"),
        **contract,
    }


def training_seconds(lines: list[dict[str, Any]]) -> float:
    """Seconds of training in a log; its clock starts again at 0 with every resumed part."""
    clock = [line["seconds"] for line in lines]
    ends = [now for now, after in zip(clock, clock[1:] + [0.0], strict=True) if after < now]
    return sum(ends)


def write_manifest(preset: str) -> Path:
    """List all files of a preset's weights with sizes and hashes."""
    root = MANIFESTS / "weights" / preset
    ours = root / "ours" / "run.json"
    facts = json.loads(ours.read_text()) if ours.is_file() else {"seed": 0}
    seed, earlier = facts["seed"], len(facts.get("earlier_stages", []))
    only_find = earlier and facts.get("find_steps") == facts["steps"]
    found = " --find --init WEIGHTS" if only_find else ""
    files = [path for variant in VARIANTS for path in sorted((root / variant).rglob("*")) if path.is_file()]
    return save_shipped(
        f"weights_{preset}",
        f"Weights of the {preset} preset: ours, and the first-frame-only baseline where it is trained",
        f"python -m v4s_lib.training --preset {preset}{found} --seed {seed}; "
        f"python -m v4s_lib.training.ship runs/{preset}-seed{seed}"
        + (f", after {earlier} earlier stages: see the README beside the weights" if earlier else ""),
        files,
        MANIFESTS,
    )


@command("nothing was written; run the same command again")
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m v4s_lib.training.ship", description=__doc__)
    parser.add_argument("run", type=Path, help="output folder of a training")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--variant", default="ours", help=f"{', '.join(VARIANTS)} or seedN (default: ours)")
    parser.add_argument("--hardware", default="2 CPU cores")
    parser.add_argument("--earlier", type=Path, nargs="*", default=[], help="what this one was started from")
    args = parser.parse_args(arguments)
    if args.variant not in VARIANTS and not SEED.fullmatch(args.variant):
        raise ValueError(f"expected a variant out of {', '.join(VARIANTS)} or seedN, got {args.variant!r}: name one")
    print(ship(args.run, args.preset, args.variant, args.hardware, args.earlier))


if __name__ == "__main__":
    sys.exit(main())
