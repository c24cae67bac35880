"""``python -m v4s_lib.evaluation.settings``: guidance, solver and number of steps, compared on validation rooms.

The preset's ``guidance_scale`` and ``inference_steps`` are chosen from this table; the test split is never looked at.
With ``--json`` every setting is stored as soon as it is measured, and is not measured again.
"""

import argparse
import itertools
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from v4s_lib.command import check_counts, command
from v4s_lib.data.navigation import navigation_episode
from v4s_lib.data.provenance import current_commit
from v4s_lib.data.windows import grouped_frames
from v4s_lib.evaluation.navigation import sample_clips
from v4s_lib.evaluation.picture import picture_measures
from v4s_lib.evaluation.results import save_results
from v4s_lib.evaluation.solvers import SOLVERS, evaluations, make_scheduler
from v4s_lib.evaluation.statistics import bootstrap, in_words, paired_difference
from v4s_lib.model.pipeline import Video4SpatialPipeline
from v4s_lib.model.weights import weights_digest
from v4s_lib.training.presets import Preset, get_preset
from v4s_lib.training.runs import stored_before
from v4s_lib.training.weights import load_pipeline


def episode_recall(pipeline: Video4SpatialPipeline, preset: Preset, index: int, samples: int) -> tuple[float, float]:
    """``psnr_recall`` in dB of one sample, and of the mean of ``samples``, on one validation room."""
    episode = navigation_episode("validation", index, preset.task)
    latents = preset.task.context_latents
    output = sample_clips(pipeline, episode.scan.rgb, episode, preset, index, samples, latents)
    known = episode.known(grouped_frames(output.context_index).flatten().unique(), preset.task.camera)
    clips, truth = output.frames, episode.target.rgb
    return tuple(picture_measures(clip, truth, known)["psnr_recall"] for clip in (clips[0], clips.mean(dim=0)))


def score_setting(
    pipeline: Video4SpatialPipeline, preset: Preset, setting: dict[str, Any], samples: int, episodes: int
) -> dict[str, Any]:
    """The row of one setting: solver, guidance and steps, with the intervals of both measures."""
    asked = replace(preset, guidance_scale=setting["guidance"], inference_steps=setting["steps"])
    pipeline.scheduler = make_scheduler(setting["solver"], preset.shift)
    rooms = tqdm(range(episodes), desc=", ".join(f"{name} {value}" for name, value in setting.items()), leave=False)
    scores = np.array([episode_recall(pipeline, asked, index, samples) for index in rooms])
    one, mean = (vars(bootstrap(column, np.arange(episodes))) for column in scores.T)
    times = evaluations(setting["solver"], setting["steps"])
    return {**setting, "evaluations": times, "one": one, "mean": mean, "per_episode": scores[:, 0].tolist()}


def head(first: dict[str, Any], samples: int) -> str:
    """The head of the table, in Markdown; ``first`` is the row that others are compared with."""
    scores = f"psnr_recall, one sample (dB) | minus {first['solver']}, {first['steps']} (dB) | mean of {samples} (dB)"
    return f"| solver | guidance | steps | NFE | {scores} |\n|---|---|---|---|---|---|---|"


def line(row: dict[str, Any], first: dict[str, Any]) -> str:
    """A row of the table, in Markdown."""
    own, other = (np.array(one["per_episode"], float) for one in (row, first))
    difference = "–" if row is first else in_words(paired_difference(own, other, np.arange(len(own))), "+")
    cells = [row["solver"], row["guidance"], row["steps"], row["evaluations"], in_words(row["one"])]
    return f"| {' | '.join(map(str, cells))} | {difference} | {in_words(row['mean'])} |"


@command("settings in the --json file are kept; run the same command to go on")
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m v4s_lib.evaluation.settings", description=__doc__)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--weights", type=Path, help="folder of a trained transformer (default: the shipped one)")
    parser.add_argument("--solver", nargs="+", default=["euler"], choices=SOLVERS)
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 1.5, 2.0])
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 10, 20, 40])
    parser.add_argument("--samples", type=int, default=4, help="in the mean (default: 4)")
    parser.add_argument("--episodes", type=int, default=32, help="validation rooms (default: 32)")
    parser.add_argument("--json", type=Path, help="file of results, to go on from")
    args = parser.parse_args(arguments)
    check_counts(samples=args.samples, episodes=args.episodes)
    preset = get_preset(args.preset)
    pipeline = load_pipeline(preset, args.weights)
    contract = {"preset": preset.name, "split": "validation", "samples": args.samples, "episodes": args.episodes}
    contract["weights_sha256"] = weights_digest(pipeline.transformer)
    rows, shown = stored_before(args.json, contract, "name another file").get("rows", []), []
    for values in itertools.product(args.solver, args.guidance, args.steps):
        setting = dict(zip(("solver", "guidance", "steps"), values, strict=True))
        row = next((row for row in rows if setting.items() <= row.items()), None)
        if row is None:
            row = score_setting(pipeline, preset, setting, args.samples, args.episodes)
            rows.append(row)
            if args.json is not None:
                save_results({**contract, "commit": current_commit(), "rows": rows}, args.json)
        if not shown:
            print(head(row, args.samples))
        shown.append(row)
        print(line(row, shown[0]), flush=True)


if __name__ == "__main__":
    sys.exit(main())
