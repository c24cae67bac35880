"""Many arms, trained one after another: what is done is not trained again, what was stopped goes on."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from v4s_lib.training.arms import arm_folder, arm_preset, arm_start, get_arm
from v4s_lib.training.checkpoints import latest_step
from v4s_lib.training.loop import deadline, train
from v4s_lib.training.presets import Preset


def train_arms(
    names: Sequence[str],
    seeds: Sequence[int],
    preset: Preset,
    runs: Path,
    steps: int | None = None,
    minutes: float | None = None,
    init: Path | None = None,
    progress: bool = True,
) -> list[str]:
    """Train every arm with every seed into ``runs/NAME-seedS``, all arms of a seed before the next seed.

    Args:
        names: of arms.
        seeds: of weights, rooms and noise; the arms of one seed share them.
        preset: that the arms change.
        runs: folder of all trainings.
        steps: of every arm; None is as many as each has.
        minutes: for all of them together; the one under way is saved then. None takes as long as it takes.
        init: folder of weights that the arms start from which do not start from scratch; None is what ships.
        progress: show a progress bar for each.

    Returns:
        the names of the trainings that are not done yet.
    """
    starts = {name: arm_start(name, preset.name, None if get_arm(name).scratch else init) for name in names}
    presets = {name: arm_preset(name, preset, steps) for name in names}
    trainings = [(arm_folder(name, seed, runs), name, seed) for seed in seeds for name in names]
    ends = deadline(minutes)
    for run, name, seed in trainings:
        left = (ends - time.perf_counter()) / 60
        if left <= 0:
            break
        if not is_trained(run, presets[name].steps):
            print(f"arm {name}, seed {seed}", file=sys.stderr)
            train(presets[name], run, seed, minutes=left, init=starts[name], progress=progress)
    return [run.name for run, name, _ in trainings if not is_trained(run, presets[name].steps)]


def is_trained(run: Path, steps: int) -> bool:
    """Whether a training's folder holds weights of so many steps, or more."""
    return (run / "weights" / "config.json").is_file() and latest_step(run / "checkpoints") >= steps
