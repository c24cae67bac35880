"""Results with their provenance: what was scored, with which weights, from which commit."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from v4s_lib.data.manifests import MANIFESTS
from v4s_lib.data.provenance import current_commit
from v4s_lib.evaluation.claims import asked_ratios
from v4s_lib.evaluation.grounding import SAMPLES, score_grounding
from v4s_lib.evaluation.grounding import UNITS as GROUNDING_UNITS
from v4s_lib.evaluation.judges import limits_of
from v4s_lib.evaluation.lpips import BACKBONE
from v4s_lib.evaluation.navigation import (
    MEAN_OF,
    UNITS,
    Models,
    context_gain,
    scenes_of,
    score_all,
    score_episode,
    score_shared,
    store_key,
    table,
    values_of,
)
from v4s_lib.evaluation.statistics import in_words
from v4s_lib.model.weights import weights_digest
from v4s_lib.training.presets import Preset, get_preset
from v4s_lib.training.weights import load_pipeline

RESULTS = MANIFESTS / "results"
PICTURE = ["psnr_recall", "psnr", "psnr_start_seen", "psnr_unseen", "psnr_per_frame", "ssim", "lpips"]
FOLLOWING = ["navigation_accuracy", "rotation_error", "translation_error", "sd"]
GROUNDING = ["if_sd02", "if_sd01", "if", "aimed", "sd", "sd_way", "smooth", "box", "box_overlap"]

# What methods know of the context that is not in its pixels: the paper's column "3-D input" (sfm_splat: metres).
TOLD = {"posed": "poses", "sfm_splat": "scale"}
TOLD |= dict.fromkeys(("nearest_true_pose", "splat_true_geometry"), "poses, depth")
# Rows that no method stands behind: they show what a measure is worth.
SCALES = ("ground_truth", "turn_only", "shuffled", "random_object")


@dataclass(frozen=True)
class Experiment:
    """What differs between the two experiments, from scoring to the page."""

    title: str
    score: Callable[[Models, Preset, str, int, int, int], dict]  # of split, episode, seed, samples: every measure
    samples: int  # an episode, of ours
    units: dict[str, str]  # of the measures, in the order of the table's rows
    metric: str  # kept for each episode, compared when it is computed again; episodes are chosen by it
    best: str  # "largest" or "smallest"
    tolerance: float  # between stored and live values of it; other machines round differently
    gain: str  # metric of the paired differences
    unit: str  # of it
    tables: dict[str, list[str]]  # heading to columns


EXPERIMENTS = {
    "navigation": Experiment(
        "Scene navigation",
        score_episode,
        MEAN_OF,
        UNITS,
        metric="psnr_recall",
        best="largest",
        tolerance=0.05,
        gain="psnr_recall",
        unit=" dB",
        tables={
            "Pixels that only the context can tell": PICTURE,
            "Where the camera went (failed: frames that no camera in the room explains)": FOLLOWING,
        },
    ),
    "grounding": Experiment(
        "Object grounding",
        score_grounding,
        SAMPLES,
        GROUNDING_UNITS,
        metric="sd",
        best="smallest",
        tolerance=0.02,
        gain="if_sd02",
        unit="",
        tables={"The object is centred (IF), the room is this one (SD), the motion is smooth": GROUNDING},
    ),
}


def run_experiment(
    task: str,
    preset_name: str,
    weights: Path | None = None,
    first_frame_only: Path | None = None,
    split: str = "test",
    episodes: int = 128,
    seed: int = 0,
    store: Path = Path("runs/evaluation"),
    samples: int | None = None,
    workers: int = 1,
) -> dict[str, Any]:
    """Score a preset; keys as in DESIGN §8, ``gain`` of paired differences and ``ratio`` of what claims ask.

    Args:
        task: "navigation" or "grounding".
        preset_name: of the scale.
        weights, first_frame_only: folders of trained transformers; None takes the shipped ones.
        split: "validation" or "test".
        episodes: number of them, one a room.
        seed: of the sampling noise and the context.
        store: folder of the scored episodes, to go on from.
        samples: of ours an episode; None is the experiment's. One is enough for all but the means and
            the best of k, which needs two, and ends at five.
        workers: processes that share out the episodes, at most one for each.
    """
    experiment, preset = EXPERIMENTS[task], get_preset(preset_name)
    limits_of(preset.name)  # both tasks are judged by them: refused before anything is sampled
    samples = experiment.samples if samples is None else samples
    asked = (task, preset, weights, first_frame_only, split, episodes, seed, store, samples)
    digests, lines = score_shared(_score, asked, episodes, workers)
    return {
        "task": task,
        "preset": preset.name,
        "split": split,
        **digests,
        "commit": current_commit(),
        "seed": seed,
        "samples": samples,
        "episodes": episodes,
        "guidance_scale": preset.guidance_scale,
        "inference_steps": preset.inference_steps,
        "pixels": [preset.task.camera.height, preset.task.camera.width],
        **({"lpips": BACKBONE} if "lpips" in experiment.units else {}),
        "rows": table(lines, experiment.units),
        "gain": context_gain(lines, experiment.gain),
        "ratio": asked_ratios(f"{task}_{preset.name}", partial(values_of, lines), scenes_of(lines)),
        "per_episode": {
            method: _each(lines, method, experiment.metric)
            for method, measures in lines[0]["methods"].items()
            if experiment.metric in measures
        },
        "per_episode_ours": {metric: _each(lines, "ours", metric) for metric in lines[0]["methods"]["ours"]},
    }


def _each(lines: list[dict], method: str, metric: str) -> list[float | None]:
    """A measure of each scored episode; None where it has no value, since JSON has no NaN."""
    values = [line["methods"][method].get(metric, math.nan) for line in lines]
    return [None if math.isnan(value) else value for value in values]


def _score(
    task: str,
    preset: Preset,
    weights: Path | None,
    first_frame_only: Path | None,
    split: str,
    episodes: int,
    seed: int,
    store: Path,
    samples: int,
    part: tuple[int, int] = (0, 1),
) -> tuple[dict[str, str], list[dict]]:
    """The digests of the models, and the scored episodes of ``part``, see ``score_all``."""
    models = load_models(preset, weights, first_frame_only)
    digests = task_digests(models, task)
    named = "-".join(digest[:12] for digest in digests.values())
    lines = score_all(
        lambda index: EXPERIMENTS[task].score(models, preset, split, index, seed, samples),
        episodes,
        store / f"{task}-{preset.name}-{split}-{named}-{store_key(preset, seed, samples)}.jsonl",
        part=part,
    )
    return digests, lines


def load_models(preset: Preset, weights: Path | None = None, first_frame_only: Path | None = None) -> Models:
    """The pipelines to compare; the first-frame-only one is left out where there is none."""
    ours = load_pipeline(preset, weights)
    shipped = MANIFESTS / "weights" / preset.name / "first_frame_only"
    if first_frame_only is not None:
        return Models(ours, load_pipeline(preset, first_frame_only))
    if weights is None and shipped.is_dir():
        return Models(ours, load_pipeline(preset, variant="first_frame_only"))
    return Models(ours)


def models_digest(models: Models) -> str:
    """sha256 over all parameters of the compared transformers."""
    compared = (models.ours, models.first_frame_only)
    return weights_digest(*(pipeline.transformer for pipeline in compared if pipeline is not None))


def task_digests(models: Models, task: str) -> dict[str, str]:
    """What a task's results are bound to: ``models_digest`` and, where clips end in a box, that of what draws it."""
    digests, drawer = {"weights_sha256": models_digest(models)}, models.ours.box_drawer
    if task == "grounding" and drawer is not None:
        digests["box_drawer_sha256"] = weights_digest(drawer)
    return digests


def save_results(results: dict[str, Any], path: Path) -> None:
    """Write results as JSON, beside and then in place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".writing")
    beside.write_text(json.dumps(results, indent=1) + "\n")
    beside.replace(path)


def has_results(name: str) -> bool:
    """Whether results of that name are stored."""
    return (RESULTS / f"{name}.json").is_file()


def folder_of(kind: str, preset: str) -> Path:
    """Where a preset's results of a kind are kept; small's, which claims ask of, have the plain name."""
    if preset == "smoke":  # untrained, so nothing to ship
        return Path("runs") / f"{kind}_smoke"
    return RESULTS / (kind if preset == "small" else f"{kind}_{preset}")


def nearest(name: str, preset: str) -> str:
    """The name of a preset's own results, or of a folder of them, if there are any; otherwise of small's."""
    kind, _, rest = name.partition("/")
    own = f"{folder_of(kind, preset).name}/{rest}".rstrip("/")
    return own if has_results(own) or (RESULTS / own).is_dir() else name


def load_results(name: str) -> dict[str, Any]:
    """The committed results of that name, such as "navigation_small"."""
    path = RESULTS / f"{name}.json"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in RESULTS.glob("*.json"))) or "none yet"
        raise FileNotFoundError(f"expected stored results out of: {known}; got {name!r}: run the evaluation first")
    return json.loads(path.read_text())


def seed_results(name: str) -> list[dict[str, Any]]:
    """The committed results of that name of other training seeds than the shipped weights'."""
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob(f"seed*/{name}.json"))]


def find_row(results: dict[str, Any], method: str, metric: str) -> dict[str, Any]:
    """The row of a method and metric; ``ValueError`` where there is none."""
    for row in results["rows"]:
        if (row["method"], row["metric"]) == (method, metric):
            return row
    raise ValueError(f"expected {metric} of {method} in the results, got none: run their command again")


def markdown_table(results: dict[str, Any], metrics: list[str], methods: list[str] | None = None) -> str:
    """The rows as a table, a method a line: mean [95% interval]; of all methods or those named, in their order."""
    cells: dict[str, dict[str, str]] = {method: {} for method in methods or []}
    units = {}
    for row in results["rows"]:
        if row["metric"] in metrics and (methods is None or row["method"] in methods):
            units[row["metric"]] = row["unit"]
            cells.setdefault(row["method"], {})[row["metric"]] = _cell(row, results.get("episodes"))
    names = [metric for metric in metrics if metric in units]
    told = ["3-D input"] if TOLD.keys() & cells.keys() else []
    heads = ["method", *told, *(f"{metric} ({units[metric]})" for metric in names)]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for method, values in cells.items():
        if values:
            known = ["–" if method in SCALES else TOLD.get(method, "none")] if told else []
            lines.append(f"| {' | '.join([method, *known, *(values.get(metric, '–') for metric in names)])} |")
    return "\n".join(lines)


def _cell(row: dict[str, Any], episodes: int | None) -> str:
    """Mean and interval; of how many rooms if not of all."""
    if row["mean"] is None:
        return "–"
    rooms = "" if episodes in (None, row["n"]) else f", n = {row['n']}"
    failed = f" ({row['failed']} failed)" if row["failed"] else ""
    return f"{in_words(row)}{failed}{rooms}"


def tables(results: dict[str, Any]) -> dict[str, str]:
    """The experiment's tables in Markdown, by heading."""
    columns = EXPERIMENTS[results["task"]].tables
    return {heading: markdown_table(results, metrics) for heading, metrics in columns.items()}


def gains(results: dict[str, Any]) -> dict[str, str]:
    """The paired differences, each with its unit and, where it is known, its interval."""
    unit = EXPERIMENTS[results["task"]].unit
    return {pair: in_words(gain, "+", unit=unit) for pair, gain in results["gain"].items()}
