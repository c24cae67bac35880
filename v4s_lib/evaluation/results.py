"""Results with their provenance: what was scored, with which weights, from which commit."""

import hashlib
import json
from pathlib import Path
from typing import Any

from diffusers import ModelMixin

from v4s_lib.data.manifests import MANIFESTS
from v4s_lib.data.provenance import current_commit
from v4s_lib.evaluation.grounding import UNITS as GROUNDING_UNITS
from v4s_lib.evaluation.grounding import best_of_curve, score_grounding
from v4s_lib.evaluation.judges import load_limits
from v4s_lib.evaluation.navigation import Models, context_gain, score_all, score_episode, table
from v4s_lib.evaluation.reader import load_reader
from v4s_lib.training.presets import Preset, get_preset
from v4s_lib.training.weights import load_pipeline

RESULTS = MANIFESTS / "results"
PICTURE = ["psnr_recall", "psnr", "psnr_start_seen", "psnr_unseen", "ssim"]  # columns of the two tables
FOLLOWING = ["navigation_accuracy", "rotation_error", "translation_error"]
GROUNDING = ["if_sd02", "if_sd01", "if", "sd", "smooth", "box", "box_overlap"]


def navigation_results(
    preset_name: str,
    weights: Path | None = None,
    first_frame_only: Path | None = None,
    split: str = "test",
    episodes: int = 128,
    seed: int = 0,
    store: Path = Path("runs/evaluation"),
) -> dict[str, Any]:
    """Score a preset on navigation; the keys are those of DESIGN §8, with ``gain`` for the paired differences."""
    preset = get_preset(preset_name)
    models = load_models(preset, weights, first_frame_only)
    digest = weights_digest(models)
    lines = score_all(
        lambda index: score_episode(models, preset, split, index, seed),
        episodes,
        store / f"navigation-{preset.name}-{split}-{digest[:12]}-seed{seed}.jsonl",
    )
    return {
        "task": "navigation",
        "preset": preset.name,
        "split": split,
        "weights_sha256": digest,
        "commit": current_commit(),
        "seed": seed,
        "episodes": episodes,
        "guidance_scale": preset.guidance_scale,
        "inference_steps": preset.inference_steps,
        "rows": table(lines),
        "gain": context_gain(lines),
        "per_episode": {
            method: [line["methods"][method]["psnr_recall"] for line in lines]
            for method, measures in lines[0]["methods"].items()
            if "psnr_recall" in measures
        },
    }


def grounding_results(
    preset_name: str,
    weights: Path | None = None,
    first_frame_only: Path | None = None,
    split: str = "test",
    episodes: int = 128,
    seed: int = 0,
    store: Path = Path("runs/evaluation"),
) -> dict[str, Any]:
    """Score a preset on grounding; the keys are those of navigation, with the best-of-k curve among the rows."""
    preset = get_preset(preset_name)
    models = load_models(preset, weights, first_frame_only)
    reader, limits = load_reader(), load_limits()
    digest = weights_digest(models)
    lines = score_all(
        lambda index: score_grounding(models, reader, limits, preset, split, index, seed),
        episodes,
        store / f"grounding-{preset.name}-{split}-{digest[:12]}-seed{seed}.jsonl",
    )
    return {
        "task": "grounding",
        "preset": preset.name,
        "split": split,
        "weights_sha256": digest,
        "commit": current_commit(),
        "seed": seed,
        "episodes": episodes,
        "guidance_scale": preset.guidance_scale,
        "inference_steps": preset.inference_steps,
        "rows": table(lines, GROUNDING_UNITS) + best_of_curve(lines),
        "gain": context_gain(lines, "if_sd02"),
        "per_episode": {
            method: [line["methods"][method]["if_sd02"] for line in lines] for method in lines[0]["methods"]
        },
        "per_episode_sd": [line["methods"]["ours"]["sd"] for line in lines],
    }


def load_models(preset: Preset, weights: Path | None = None, first_frame_only: Path | None = None) -> Models:
    """The pipelines to compare; the first-frame-only one is left out where there is none."""
    ours = load_pipeline(preset, weights)
    shipped = MANIFESTS / "weights" / preset.name / "first_frame_only"
    if first_frame_only is not None:
        return Models(ours, load_pipeline(preset, first_frame_only))
    if weights is None and shipped.is_dir():
        return Models(ours, load_pipeline(preset, variant="first_frame_only"))
    return Models(ours)


def weights_digest(models: Models) -> str:
    """sha256 over all parameters of the compared transformers."""
    digest = hashlib.sha256()
    for pipeline in (models.ours, models.first_frame_only):
        if pipeline is not None:
            _hash_parameters(pipeline.transformer, digest)
    return digest.hexdigest()


def _hash_parameters(model: ModelMixin, digest) -> None:
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())


def save_results(results: dict[str, Any], path: Path) -> None:
    """Write results as JSON, beside and then in place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".writing")
    beside.write_text(json.dumps(results, indent=1) + "\n")
    beside.replace(path)


def load_results(name: str) -> dict[str, Any]:
    """The committed results of that name, such as "navigation_small"."""
    path = RESULTS / f"{name}.json"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in RESULTS.glob("*.json"))) or "none yet"
        raise FileNotFoundError(f"expected stored results out of: {known}; got {name!r}: run the evaluation first")
    return json.loads(path.read_text())


def markdown_table(results: dict[str, Any], metrics: list[str]) -> str:
    """The rows as a table, a method a line: mean [95% interval]."""
    cells: dict[str, dict[str, str]] = {}
    units = {}
    for row in results["rows"]:
        if row["metric"] in metrics:
            units[row["metric"]] = row["unit"]
            cells.setdefault(row["method"], {})[row["metric"]] = _cell(row)
    lines = ["| method | " + " | ".join(f"{m} ({units[m]})" for m in metrics if m in units) + " |"]
    lines.append("|---" * (1 + sum(m in units for m in metrics)) + "|")
    for method, values in cells.items():
        lines.append(f"| {method} | " + " | ".join(values.get(m, "–") for m in metrics if m in units) + " |")
    return "\n".join(lines)


def _cell(row: dict[str, Any]) -> str:
    if row["mean"] is None:
        return "–"
    interval = "" if row["low"] is None else f" [{row['low']:.2f}, {row['high']:.2f}]"
    failed = f" ({row['failed']} failed)" if row["failed"] else ""
    return f"{row['mean']:.2f}{interval}{failed}"


def print_table(results: dict[str, Any]) -> None:
    tables = [GROUNDING] if results["task"] == "grounding" else [PICTURE, FOLLOWING]
    print(*(markdown_table(results, metrics) for metrics in tables), sep="\n\n")
    metric, unit = ("if_sd02", "") if results["task"] == "grounding" else ("psnr_recall", " dB")
    for pair, gain in results["gain"].items():
        numbers = f"{gain['mean']:+.2f}{unit} [{gain['low']:+.2f}, {gain['high']:+.2f}], n = {gain['n']}"
        print(f"{metric}, {pair}: {numbers}")
