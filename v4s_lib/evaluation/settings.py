"""``python -m v4s_lib.evaluation.settings``: guidance and number of steps, compared on validation rooms.

The preset's ``guidance_scale`` and ``inference_steps`` are chosen from this table; the test split is never looked at.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from v4s_lib.command import command
from v4s_lib.data.navigation import navigation_episode
from v4s_lib.data.windows import grouped_frames
from v4s_lib.evaluation.navigation import sample_clips
from v4s_lib.evaluation.picture import picture_measures
from v4s_lib.evaluation.statistics import bootstrap
from v4s_lib.model.pipeline import Video4SpatialPipeline
from v4s_lib.training.presets import Preset, get_preset
from v4s_lib.training.weights import load_pipeline


def episode_recall(pipeline: Video4SpatialPipeline, preset: Preset, index: int, samples: int) -> tuple[float, float]:
    """``psnr_recall`` in dB of one sample, and of the mean of ``samples``, on one validation room."""
    episode = navigation_episode("validation", index, preset.task)
    latents = preset.task.context_latents
    clips, used = sample_clips(pipeline, episode.scan.rgb, episode, preset, index, samples, latents)
    known = episode.known(grouped_frames(used).flatten().unique(), preset.task.camera)
    truth = episode.target.rgb
    return tuple(picture_measures(clip, truth, known)["psnr_recall"] for clip in (clips[0], clips.mean(dim=0)))


@command("nothing was written; run the same command again")
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m v4s_lib.evaluation.settings", description=__doc__)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--weights", type=Path, help="folder of a trained transformer (default: the shipped one)")
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 1.5, 2.0])
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 10, 20, 40])
    parser.add_argument("--samples", type=int, default=4, help="in the mean (default: 4)")
    parser.add_argument("--episodes", type=int, default=32, help="validation rooms (default: 32)")
    args = parser.parse_args(arguments)
    preset = get_preset(args.preset)
    pipeline = load_pipeline(preset, args.weights)
    print(f"| guidance | steps | psnr_recall, one sample (dB) | mean of {args.samples} (dB) |\n|---|---|---|---|")
    for guidance in args.guidance:
        for steps in args.steps:
            asked = replace(preset, guidance_scale=guidance, inference_steps=steps)
            rooms = tqdm(range(args.episodes), desc=f"guidance {guidance}, {steps} steps", leave=False)
            scores = np.array([episode_recall(pipeline, asked, index, args.samples) for index in rooms])
            one, mean = (bootstrap(column, np.arange(args.episodes)) for column in scores.T)
            cells = " | ".join(f"{part.mean:.2f} [{part.low:.2f}, {part.high:.2f}]" for part in (one, mean))
            print(f"| {guidance} | {steps} | {cells} |")


if __name__ == "__main__":
    sys.exit(main())
