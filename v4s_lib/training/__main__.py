"""``python -m v4s_lib.training --preset small``: train a preset; run it again to go on where it stopped.

With ``--arm NAME`` it trains an ablation arm of the preset (see ``v4s_lib.training.arms``) into ``runs/arms``.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from v4s_lib.command import command
from v4s_lib.training.arms import ARMS, arm_folder, arm_preset, arm_start
from v4s_lib.training.checkpoints import latest_step
from v4s_lib.training.loop import train
from v4s_lib.training.presets import PRESETS, Preset, get_preset


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m v4s_lib.training", description=__doc__)
    parser.add_argument("--preset", default="small", help=f"one of {', '.join(PRESETS)} (default: small)")
    parser.add_argument("--out", type=Path, help="output folder (default: runs/PRESET-seedS or runs/arms/ARM-seedS)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, rooms and noise (default: 0)")
    parser.add_argument("--steps", type=int, help="optimizer steps in all (default: the preset's, or the arm's)")
    parser.add_argument("--stop-at", type=int, help="stop and save after this step; run again to go on")
    parser.add_argument("--minutes", type=float, help="stop and save after so many minutes; run again to go on")
    parser.add_argument(
        "--init",
        type=Path,
        help="folder of a trained transformer to start from, at the end of the curriculum (an arm: what ships)",
    )
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--arm", help=f"train an ablation arm: {', '.join(ARMS)}")
    kinds.add_argument(
        "--no-context",
        action="store_true",
        help="train a first-frame-only model, the baseline; it has no use for the steps that teach to locate",
    )
    kinds.add_argument(
        "--find", action="store_true", help="teach the finder of --init alone, and leave the rest of it as it is"
    )
    parser.add_argument("--no-compile", action="store_true", help="do not compile the model")
    parser.add_argument("--restart", action="store_true", help="begin again, and replace the checkpoints")
    return parser.parse_args(arguments)


def asked(args: argparse.Namespace) -> Preset:
    """The preset with all that the options change."""
    preset = get_preset(args.preset)
    if args.no_compile:
        preset = replace(preset, compile=False)
    if args.arm is not None:
        return arm_preset(args.arm, preset, args.steps)
    changes = {} if args.steps is None else {"steps": args.steps}
    if args.init is not None:  # what the curriculum teaches first is known
        task = preset.task
        changes |= {"locate_steps": 0, "find_steps": 0, "first_reach": task.reach, "first_spread": task.spread}
        changes["told_poses"] = (preset.told_poses[1],) * 2
    if args.find:
        if args.init is None:
            raise ValueError("expected --init with --find, got none: name the weights whose finder is to learn more")
        steps = preset.find_steps if args.steps is None else args.steps
        changes |= {"steps": steps, "find_steps": steps}
    drawing = replace(preset, **changes)
    if args.steps is not None and not args.find and 0 < drawing.steps <= drawing.draws_from:
        raise ValueError(
            f"expected more than the {drawing.draws_from:,} steps that teach to locate and to find, got --steps "
            f"{args.steps:,}: add those that are to teach drawing"
        )
    if args.no_context:
        # Nothing to locate, and as many targets seen as by the model that has a context.
        changes["steps"] = drawing.steps - drawing.draws_from
        changes |= {"locate_steps": 0, "find_steps": 0}
        changes["loss"] = replace(preset.loss, use_context=False)
    return replace(preset, **changes)


@command("run the same command to go on from the last checkpoint")
def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    preset = asked(args)
    name = f"{preset.name}{'-first-frame-only' if args.no_context else ''}-seed{args.seed}"
    init = args.init if args.arm is None else arm_start(args.arm, preset.name, args.init)
    out = Path("runs") / name if args.arm is None else arm_folder(args.arm, args.seed)
    out = args.out or out
    print(train(preset, out, args.seed, not args.restart, args.stop_at, args.minutes, init))
    step = latest_step(out / "checkpoints")
    if step < preset.steps:
        print(f"step {step} of {preset.steps}: run the same command to go on", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
