"""``python -m v4s_lib.training.minutes``: what one change of the recipe is worth in equal minutes.

Each arm is the preset with one change or, with ``--of unpainted``, the preset without its painter with one change:
there attention alone brings the context into the picture. All take what locates from the same weights, as the ablations
do, and are taught to draw from nothing, for as many steps as fit into the given minutes at the arm's own speed, which a
few steps measure first: the rate falls to zero by step, so their number must be known. Validation costs no arm its
minutes. A run that is stopped goes on; all curves are in one JSON file. How far two seeds of one arm end from each
other says which differences mean nothing.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from v4s_lib.command import command
from v4s_lib.data.provenance import current_commit
from v4s_lib.training.arms import arm_preset, arm_start, batch, without_painter
from v4s_lib.training.loop import train
from v4s_lib.training.presets import Preset, get_preset
from v4s_lib.training.runs import stored_before

SPEED_STEPS = 20  # that measure an arm's speed, after one that compiles
FORMS = {  # what can be changed
    "reference": lambda preset: preset,
    "unpainted": without_painter,
}
METRIC = "psnr_recall_ours"  # dB, on validation rooms


def own_contexts(preset: Preset) -> Preset:
    """As many targets a step, each with a context of its own; a rendered target serves as often as before."""
    targets = preset.task.targets
    task, pool = replace(preset.task, targets=1), max(1, preset.pool_targets // targets)
    return replace(preset, contexts=preset.contexts * targets, pool_targets=pool, task=task)


def weighting(preset: Preset, **changes: float) -> Preset:
    """Other noise levels, or another weight of their errors (see LossConfig)."""
    return replace(preset, loss=replace(preset.loss, **changes))


ARMS: dict[str, Callable[[Preset], Preset]] = {
    "preset": lambda preset: preset,
    "a rate of 1e-3": lambda preset: replace(preset, adamw_lr=1e-3),
    "a rate of 1e-2": lambda preset: replace(preset, adamw_lr=1e-2),
    "a context for each target": own_contexts,
    "half the batch": lambda preset: batch(preset, 0.5),
    "twice the batch": lambda preset: batch(preset, 2),
    "noise levels around the middle": lambda preset: weighting(preset, sigma_mean=0.0),
    "noise levels higher still": lambda preset: weighting(preset, sigma_mean=2.0),
    "plain error of clean latents": lambda preset: weighting(preset, min_sigma=1.0),
    "nearly the error of velocities": lambda preset: weighting(preset, min_sigma=0.1),
    "half the batch and plain error": lambda preset: batch(weighting(preset, min_sigma=1.0), 0.5),
}


def minutes_trained(lines: list[dict[str, Any]]) -> list[float]:
    """Minutes of training up to each line of a run's log, without validation and without each start's first step.

    ``seconds`` begin again at every start of a run.
    """
    total, before, found = 0.0, None, []
    for line in lines:
        if "loss" in line and before is not None and line["seconds"] >= before:
            total += line["seconds"] - before
        before = line["seconds"]
        found.append(total / 60)
    return found


def curve(lines: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Validation over training time, from a run's log."""
    pairs = zip(lines, minutes_trained(lines), strict=True)
    return [
        {"step": line["step"], "minutes": round(spent, 3), METRIC: line[METRIC]}
        for line, spent in pairs
        if METRIC in line
    ]


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log; none before it began."""
    log = folder / "log.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []


def steps_in(minutes: float, preset: Preset, folder: Path, seed: int, init: Path) -> int:
    """Optimizer steps that fit into ``minutes``, by the speed of a few of them; they are run once, in ``folder``."""
    if not (folder / "weights").is_dir():
        short = replace(preset, steps=SPEED_STEPS + 1, validation_rooms=1, validate_every=SPEED_STEPS + 1)
        train(short, folder, seed, init=init)
    taken = minutes_trained(read_log(folder))[-1] / SPEED_STEPS
    return max(1, round(minutes / taken))


def train_arm(
    name: str, preset: Preset, minutes: float, every: int, out: Path, seed: int, init: Path
) -> dict[str, Any]:
    """Train one arm, or go on with it; how many steps and targets that were, and its curve.

    Args:
        name: out of ``ARMS``.
        preset: that the arm changes.
        minutes: of training.
        every: optimizer steps between validations.
        out: folder of the arms' runs.
        seed: of rooms and noise.
        init: folder of the weights that all arms start from.
    """
    folder = out / f"{name.replace(' ', '_').replace(',', '')}-seed{seed}"
    changed = ARMS[name](preset)
    steps = steps_in(minutes, changed, folder / "speed", seed, init)
    train(replace(changed, steps=steps, validate_every=every), folder, seed, init=init)
    targets = steps * changed.contexts * changed.task.targets
    return {"steps": steps, "targets": targets, "curve": curve(read_log(folder))}


def _point(point: dict[str, float]) -> tuple[float, float]:
    """Minutes and score of a validation."""
    return point["minutes"], point[METRIC]


def table(arms: dict[str, dict[str, Any]]) -> str:
    """Every arm's scores over its minutes in Markdown, and how far it is from the first arm when the shortest ends."""
    end = min(arm["curve"][-1]["minutes"] for arm in arms.values())
    heads = ["arm", "steps", "targets", "psnr_recall (dB) after minutes of training"]
    heads.append(f"minus the first, after {end:.1f} (dB)")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    ends = {name: np.interp(end, *zip(*map(_point, arm["curve"]), strict=True)) for name, arm in arms.items()}
    first = next(iter(ends.values()))
    for name, arm in arms.items():
        scores = ", ".join(f"{score:.2f} after {spent:.1f}" for spent, score in map(_point, arm["curve"]))
        gain = ends[name] - first
        lines.append(f"| {name} | {arm['steps']} | {arm['targets']:,} | {scores} | {gain:+.2f} |")
    return "\n".join(lines)


@command("run the same command to go on from the last checkpoint")
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m v4s_lib.training.minutes", description=__doc__)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--of", default="reference", choices=FORMS, help="what is changed (default: reference)")
    parser.add_argument("--init", type=Path, help="folder of trained weights to start from (default: those that ship)")
    parser.add_argument("--minutes", type=float, default=20.0, help="of training for each arm (default: 20)")
    parser.add_argument("--every", type=int, default=100, help="steps between validations (default: 100)")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS, metavar="ARM", help="default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/minutes"), help="folder of runs, and of minutes.json")
    args = parser.parse_args(arguments)
    if args.minutes <= 0 or args.every < 1:
        raise ValueError(
            f"expected minutes above 0 and 1 or more steps, got {args.minutes} and {args.every}: give more"
        )
    preset = FORMS[args.of](arm_preset("reference", get_preset(args.preset)))
    init = arm_start("reference", args.preset, args.init)
    about = {"preset": preset.name, "of": args.of, "minutes": args.minutes, "every": args.every}
    arms = stored_before(args.out / "minutes.json", about, "name another --out").get("arms", {})
    for name in args.arms:
        trained = train_arm(name, preset, args.minutes, args.every, args.out, args.seed, init)
        arms[f"{name}, seed {args.seed}"] = trained
        beside = args.out / "minutes.part"
        beside.write_text(json.dumps({**about, "commit": current_commit(), "arms": arms}, indent=1) + "\n")
        beside.replace(args.out / "minutes.json")
        print(table(arms), flush=True)


if __name__ == "__main__":
    sys.exit(main())
