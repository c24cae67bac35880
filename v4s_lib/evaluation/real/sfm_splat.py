"""``python -m v4s_lib.evaluation.real.sfm_splat --height 256 --width 416 --rooms 4``: the classical baseline by itself.

It is scored in rendered rooms, at any size of frames; the navigation table has it at the preset's. Failures are
counted, and show the mean of the context.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from v4s_lib.command import command
from v4s_lib.data.navigation import navigation_episode
from v4s_lib.data.provenance import current_commit
from v4s_lib.data.rooms import RoomTask
from v4s_lib.data.windows import grouped_frames, sample_context
from v4s_lib.evaluation.baselines import context_mean
from v4s_lib.evaluation.navigation import SFM_UNITS, scenes_of, score_all, store_key, table
from v4s_lib.evaluation.picture import PICTURE_UNITS, picture_measures
from v4s_lib.evaluation.real.classical import classical_clip
from v4s_lib.evaluation.results import markdown_table, save_results
from v4s_lib.evaluation.statistics import paired_difference
from v4s_lib.training.presets import get_preset
from v4s_lib.worlds.cameras import Camera
from v4s_lib.worlds.paths import FRAMES_PER_LATENT

COLUMNS = ["failure", "registered", "psnr_recall", "psnr", "ssim"]  # of the table


def score_room(split: str, index: int, task: RoomTask) -> dict[str, dict[str, float]]:
    """Picture measures of the baseline and of the context's mean in one room, and whether the baseline failed."""
    episode = navigation_episode(split, index, task)
    latents = (len(episode.scan.rgb) - 1) // FRAMES_PER_LATENT + 1
    generator = torch.Generator().manual_seed(index)
    frames = grouped_frames(sample_context(latents, task.context_latents, generator)).flatten().unique()
    clip, facts = classical_clip(episode, frames, task.camera)
    mean = context_mean(episode.target.rgb[0], episode.scan.rgb[frames], len(episode.target_c2w))
    known = episode.known(frames, task.camera)
    clips = {"sfm_splat": clip, "context_mean": mean}
    scores = {name: picture_measures(video, episode.target.rgb, known) for name, video in clips.items()}
    return scores | {"sfm_splat": scores["sfm_splat"] | facts}


def compare(lines: list[dict]) -> dict[str, Any]:
    """Rows of all scored rooms, and by how many decibels over recalled pixels the baseline is ahead of the mean."""
    scores = [[line["methods"][method]["psnr_recall"] for line in lines] for method in ("sfm_splat", "context_mean")]
    gain = paired_difference(*(np.array(values, float) for values in scores), scenes_of(lines))
    return {"rows": table(lines, PICTURE_UNITS | SFM_UNITS), "gain": {"sfm_splat - context_mean": gain.to_json()}}


@command("scored rooms are kept; run the same command to go on")
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m v4s_lib.evaluation.real.sfm_splat", description=__doc__)
    parser.add_argument("--height", type=int, default=32, help="of the frames, pixels (default: 32)")
    parser.add_argument("--width", type=int, default=48, help="of the frames, pixels (default: 48)")
    parser.add_argument("--split", default="validation", choices=["validation", "test"])
    parser.add_argument("--rooms", type=int, default=8, help="one episode each (default: 8)")
    parser.add_argument("--store", type=Path, default=Path("runs/evaluation"), help="scored rooms, to go on from")
    parser.add_argument("--json", type=Path, help="file for the figures and where they come from")
    args = parser.parse_args(arguments)
    preset = get_preset("small")
    task = replace(preset.task, camera=Camera(args.height, args.width))
    store = args.store / f"sfm_splat-{args.height}x{args.width}-{args.split}-{store_key(preset)}.jsonl"
    found = compare(score_all(lambda index: score_room(args.split, index, task), args.rooms, store))
    facts = {"split": args.split, "height": args.height, "width": args.width, "episodes": args.rooms}
    if args.json is not None:
        save_results(facts | {"commit": current_commit()} | found, args.json)
    print(markdown_table(facts | found, COLUMNS))


if __name__ == "__main__":
    sys.exit(main())
