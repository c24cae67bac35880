"""``python -m v4s_lib.training --preset small``: train a preset; run it again to go on where it stopped."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from v4s_lib.command import command
from v4s_lib.training.loop import train
from v4s_lib.training.presets import PRESETS, get_preset


@command("run the same command to go on from the last checkpoint")
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m v4s_lib.training", description=__doc__)
    parser.add_argument("--preset", default="small", help=f"one of {', '.join(PRESETS)} (default: small)")
    parser.add_argument("--out", type=Path, help="output folder (default: runs/PRESET-seedS)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, rooms and noise (default: 0)")
    parser.add_argument("--steps", type=int, help="optimizer steps in all (default: the preset's)")
    parser.add_argument("--stop-at", type=int, help="stop and save after this step; run again to go on")
    parser.add_argument(
        "--init", type=Path, help="folder of a trained transformer to start from, at the end of the curriculum"
    )
    parser.add_argument(
        "--no-context",
        action="store_true",
        help="train a first-frame-only model, the baseline; it has no use for the steps that teach to locate",
    )
    parser.add_argument("--no-compile", action="store_true", help="do not compile the model")
    parser.add_argument("--restart", action="store_true", help="begin again, and replace the checkpoints")
    args = parser.parse_args(arguments)
    preset = get_preset(args.preset)
    changes = {} if args.steps is None else {"steps": args.steps}
    if args.no_compile:
        changes["compile"] = False
    if args.init is not None:  # what the curriculum teaches first is known
        task = preset.task
        changes |= {"locate_steps": 0, "first_reach": task.reach, "first_spread": task.spread}
        changes["true_poses_until"] = 0.0
    if args.no_context:
        # Nothing to locate, and as many targets seen as by the model that has a context.
        changes["steps"] = changes.get("steps", preset.steps) - changes.get("locate_steps", preset.locate_steps)
        changes["locate_steps"] = 0
        changes["loss"] = replace(preset.loss, use_context=False)
    preset = replace(preset, **changes)
    suffix = "-first-frame-only" if args.no_context else ""
    out = args.out or Path("runs") / f"{preset.name}{suffix}-seed{args.seed}"
    weights = train(preset, out, args.seed, not args.restart, args.stop_at, args.init)
    print(weights)


if __name__ == "__main__":
    sys.exit(main())
