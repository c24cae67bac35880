"""Curated windows of real scans, scored: our model, the same without a context, and the true clip (DESIGN §7).

What a rendered room would tell exactly is estimated from the points that COLMAP finds outside of the window.
"""

from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from v4s_lib.data.curation_windows import Rules, Window, as_seen, at_nominal_scale
from v4s_lib.data.episodes import Annotations, Episode, load_episode
from v4s_lib.data.files import sha256
from v4s_lib.data.provenance import current_commit
from v4s_lib.data.sources import source_hashes
from v4s_lib.data.windows import grouped_frames
from v4s_lib.evaluation.following import replayed
from v4s_lib.evaluation.grounding import UNITS as GROUNDING_UNITS
from v4s_lib.evaluation.judges import Limits, judge, load_limits, save_limits
from v4s_lib.evaluation.navigation import UNITS as NAVIGATION_UNITS
from v4s_lib.evaluation.navigation import context_gain, episode_seed, score_all, store_key, table
from v4s_lib.evaluation.picture import picture_measures
from v4s_lib.evaluation.real.detect import Detector
from v4s_lib.evaluation.real.judging import point_distance, scan_limits
from v4s_lib.evaluation.real.locate import PointFinder, following_on_scan
from v4s_lib.evaluation.real.reconstruct import reconstruct
from v4s_lib.evaluation.real.sampling import Settings, WindowPipeline, context_places, sample_window
from v4s_lib.model.weights import weights_digest
from v4s_lib.worlds.cameras import rotation_angle

UNITS = {"navigation": NAVIGATION_UNITS, "grounding": GROUNDING_UNITS | {"context_used": "1"}}
GAIN = {"navigation": "psnr", "grounding": "if_sd02"}  # metric of the paired differences


@dataclass(frozen=True, eq=False)
class Curated:
    """Windows of one kind, scan by scan, and what is known of them."""

    windows: list[Window]
    paths: list[Tensor]  # (F, 4, 4) of each, in its scan's axes
    rules: Rules
    episodes: dict[str, Path]
    longest: int  # latents of the longest scan

    def facts(self) -> list[Any]:
        """All that decides what is in the windows, as JSON has it."""
        sources = {name: source_hashes(self.episodes[name]) for name in sorted({w.scan for w in self.windows})}
        return [[asdict(window) for window in self.windows], asdict(self.rules), sources]


@dataclass(frozen=True, eq=False)
class Job:
    """What is scored, and how; grounding needs a detector and the windows that its limits are chosen on."""

    curated: Curated
    settings: Settings
    pipeline: WindowPipeline
    folder: Path  # of the pipeline
    detector: Detector | None = None
    validation: Curated | None = None


@lru_cache(maxsize=1)  # windows come scan by scan
def read_scan(folder: Path, rules: Rules) -> Episode:
    """An episode as a model sees it, in nominal metres where its unit is unknown."""
    return at_nominal_scale(as_seen(load_episode(folder), rules))


def goal_label(scan: Episode | Annotations, window: Window) -> str:
    """Name of the object that a grounding window ends on; ``ValueError`` where the scan has no such object."""
    for item in scan.objects:
        if item.instance == window.object:
            return item.label
    raise ValueError(
        f"expected object {window.object} in the scan {window.scan}, got others: give the episodes that were curated"
    )


def window_finder(scan: Episode, window: Window, gap: int, count: int) -> PointFinder:
    """Finds cameras by what the scan shows outside of window and gap, in ``count`` frames that lie evenly."""
    frames = grouped_frames(context_places(scan, window, gap)).flatten().unique()
    frames = frames[torch.linspace(0, len(frames) - 1, min(count, len(frames))).round().long()]
    return PointFinder(reconstruct(scan.frames[frames].float() / 255, scan.camera, scan.c2w[frames]), scan.camera)


def unrelated_path(curated: Curated, index: int) -> Tensor:
    """Of the other windows' paths (F, 4, 4), each replayed from where this one's starts, the one that turns away most.

    Some of them may be much like it, and a frame that is not located is to count as wrong.
    """
    path = curated.paths[index]
    others = [replayed(other, path[0]) for number, other in enumerate(curated.paths) if number != index]
    return max(others, key=lambda other: rotation_angle(other, path).mean().item())


def score_window(job: Job, limits: Limits | None, index: int) -> dict[str, dict[str, float]]:
    """Every measure of every method for one window; ``limits`` are grounding's."""
    curated, settings, window = job.curated, job.settings, job.curated.windows[index]
    scan = read_scan(curated.episodes[window.scan], curated.rules)
    seed = episode_seed(settings.seed, index)
    outputs = sample_window(job.pipeline, scan, window, curated.rules.gap, settings, seed)
    clips = {name: output.frames[0] for name, output in outputs.items()}
    clips["ground_truth"] = scan.frames[window.frames].float() / 255
    finder = window_finder(scan, window, curated.rules.gap, settings.point_frames)
    if limits is None:
        scores = score_path(clips, finder, curated.paths[index], unrelated_path(curated, index))
    else:
        scores = score_goal(clips, finder, goal_label(scan, window), job.detector, limits)
    for name, output in outputs.items():
        scores[name]["context_used"] = float(output.context_used)
    return scores


def score_path(
    clips: dict[str, Tensor], finder: PointFinder, path: Tensor, unrelated: Tensor
) -> dict[str, dict[str, float]]:
    """Measures of navigation clips (F, H, W, 3): camera following and, but for ``ground_truth``, the picture's.

    Paths are (F, 4, 4), see ``following_on_scan``.
    """
    followed = following_on_scan(clips, finder, path, unrelated)
    truth = clips["ground_truth"]
    drawn = {name: clip for name, clip in clips.items() if clip is not truth}
    pictures = {name: picture_measures(clip, truth, perceptual=True) for name, clip in drawn.items()}
    return pictures | {name: pictures.get(name, {}) | measures for name, measures in followed.items()}


def score_goal(
    clips: dict[str, Tensor], finder: PointFinder, label: str, detector: Detector, limits: Limits
) -> dict[str, dict[str, float]]:
    """The judges' verdict on grounding clips (F, H, W, 3), of which ``ground_truth`` has no box tail."""
    last, scores = len(clips["ground_truth"]) - 1, {}
    for name, clip in clips.items():
        sd = point_distance(finder, clip[last][None]) / limits.other_room
        (scores[name],) = judge(clip[None], last, label, detector, sd, limits)
    return scores


def choose_limits(validation: Curated, point_frames: int, detector: Detector, store: Path) -> Limits:
    """The judges' limits by the first window of each scan of ``validation``; they are kept in the folder ``store``."""
    key = store_key(validation.rules, validation.facts(), point_frames, weights_digest(detector.model))
    path = store / f"real-limits-{key}.json"
    if path.is_file():
        return load_limits(path)
    first = {window.scan: window for window in reversed(validation.windows)}
    finders, clips, labels = [], [], []
    for name, window in sorted(first.items()):
        scan = read_scan(validation.episodes[name], validation.rules)
        finders.append(window_finder(scan, window, validation.rules.gap, point_frames))
        clips.append(scan.frames[window.frames].float() / 255)
        labels.append(goal_label(scan, window))
    limits = scan_limits(finders, clips, labels, detector)
    save_limits(limits, {"scans": sorted(first)}, path)
    return limits


def evaluate(job: Job, store: Path) -> dict[str, Any]:
    """Score all windows; the keys are those of DESIGN §8. What the folder ``store`` holds already is not scored again.

    Windows of one scan are not independent: intervals are over scans.
    """
    settings, windows, limits = job.settings, job.curated.windows, None
    if job.validation is not None:
        limits = choose_limits(job.validation, settings.point_frames, job.detector, store)
    judged = None if limits is None else asdict(limits)
    digest = weights_digest(job.pipeline.transformer)
    configs = [sha256(path) for path in (job.folder / "model_index.json", *sorted(job.folder.glob("*/*config.json")))]
    key = store_key(settings, job.curated.facts(), judged, configs)
    path = store / f"real-{settings.task}-{digest[:12]}-{key}.jsonl"
    lines = score_all(lambda index: score_window(job, limits, index), len(windows), path)
    lines = [line | {"scene": window.scan} for line, window in zip(lines, windows, strict=True)]
    return {
        "task": settings.task,
        "weights_sha256": digest,
        "commit": current_commit(),
        "seed": settings.seed,
        "episodes": len(windows),
        "scans": len({window.scan for window in windows}),
        "settings": asdict(settings),
        "rules": asdict(job.curated.rules),
        "limits": judged,
        "rows": table(lines, UNITS[settings.task]),
        "gain": context_gain(lines, GAIN[settings.task]),
    }
