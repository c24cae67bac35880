"""``python -m v4s_lib.evaluation.context_cost``: time and memory to encode a context, by its length (claim C7).

Run it on an idle machine. The lengths take turns, so that a busy moment hits all of them alike.
"""

import argparse
import statistics
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from v4s_lib.command import command
from v4s_lib.data.navigation import navigation_episode
from v4s_lib.data.provenance import current_commit
from v4s_lib.evaluation.claims import asked_ratios
from v4s_lib.evaluation.experiments import KIND
from v4s_lib.evaluation.ratios import seconds as seconds_of
from v4s_lib.evaluation.results import folder_of, load_models, markdown_table, models_digest, save_results
from v4s_lib.evaluation.statistics import Interval, Row
from v4s_lib.model.pipeline import Video4SpatialPipeline
from v4s_lib.training.memory import held_bytes
from v4s_lib.training.presets import Preset, get_preset
from v4s_lib.worlds.paths import latent_frames

LENGTHS = (3, 12, 25, 50, 100)  # latents: 9 to 397 frames
REPEATS = 9
METRICS = ["encoding_time", "time_per_frame", "peak_memory"]


@torch.no_grad()
def encode(pipeline: Video4SpatialPipeline, frames: Tensor) -> None:
    """All that a target needs of a context video (F, H, W, 3), F = 4k+1, computed once for every clip."""
    latents = pipeline.codec.encode(frames[None])
    pipeline.transformer.encode_context(
        latents, torch.arange(latents.shape[2])[None], longest=pipeline.config.longest_scan
    )


def measure(
    pipeline: Video4SpatialPipeline, preset: Preset, lengths: tuple[int, ...] = LENGTHS
) -> tuple[list[dict], dict[str, dict]]:
    """Rows of ``METRICS`` for every length, and the ratios that claims ask for.

    A row's mean is the median of ``REPEATS`` runs, its ends their extremes; so are a ratio's, of the runs in one turn.
    """
    scan = navigation_episode("demo", 0, preset.task, max(lengths)).scan.rgb
    videos = {count: scan[: latent_frames(count)] for count in lengths}
    seconds: dict[int, list[float]] = {count: [] for count in lengths}
    for turn in tqdm(range(REPEATS + 1), desc="turns"):
        for count, video in videos.items():
            taken = seconds_of(partial(encode, pipeline, video))
            if turn:  # the first is a warm-up
                seconds[count].append(taken)
    rows = []
    for count, video in videos.items():
        times = [1e3 * value for value in (statistics.median(seconds[count]), min(seconds[count]), max(seconds[count]))]
        each = [value / len(video) for value in times]
        peak = held_bytes(partial(encode, pipeline, video), torch.device("cpu")) / 2**20
        name = f"{count} latents"
        rows.append(Row(name, "encoding_time", "ms", *times, REPEATS, 0).to_json())
        rows.append(Row(name, "time_per_frame", "ms", *each, REPEATS, 0).to_json())
        rows.append(Row(name, "peak_memory", "MiB", peak, peak, peak, 1, 0).to_json())
    turns = {f"{count} latents": np.array(seconds[count]) / len(videos[count]) for count in lengths}
    asked = f"{folder_of(KIND, preset.name).name}/context_cost"

    def values(method: str, metric: str) -> np.ndarray | None:
        return turns.get(method) if metric == "time_per_frame" else None

    return rows, asked_ratios(asked, values, np.arange(REPEATS), turn_ratio)


def turn_ratio(first: np.ndarray, second: np.ndarray, _: np.ndarray) -> Interval:
    """Median and extremes of what was measured in the same turns (T,)."""
    ratios = first / second
    return Interval(float(np.median(ratios)), float(ratios.min()), float(ratios.max()), len(ratios))


def context_cost(preset: Preset) -> dict[str, Any]:
    """The rows of ``measure`` with their provenance."""
    models = load_models(preset)
    rows, ratio = measure(models.ours, preset)
    return {
        "experiment": "context_cost",
        "preset": preset.name,
        "weights_sha256": models_digest(models),
        "commit": current_commit(),
        "threads": torch.get_num_threads(),
        "rows": rows,
        "ratio": ratio,
    }


@command("nothing was written; run the same command again")
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m v4s_lib.evaluation.context_cost", description=__doc__)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--out", type=Path, help="file (default: with the preset's results)")
    args = parser.parse_args(arguments)
    results = context_cost(get_preset(args.preset))
    save_results(results, args.out or folder_of(KIND, args.preset) / "context_cost.json")
    print(markdown_table(results, METRICS))


if __name__ == "__main__":
    sys.exit(main())
