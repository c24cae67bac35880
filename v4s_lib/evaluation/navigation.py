"""The navigation experiment: test rooms, our model, its controls and the plain baselines, one table.

Episodes are scored one at a time and appended to a file, so that an interrupted run goes on where it stopped.
"""

import glob
import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from v4s_lib.data.navigation import NavigationEpisode, navigation_episode, navigation_paths
from v4s_lib.data.provenance import current_commit
from v4s_lib.data.windows import grouped_frames
from v4s_lib.data.workers import run_workers
from v4s_lib.evaluation.baselines import context_mean, nearest_true_pose, posed, repeat_start, true_poses
from v4s_lib.evaluation.following import FOLLOWING_UNITS, following_measures, replayed
from v4s_lib.evaluation.picture import PICTURE_UNITS, picture_measures
from v4s_lib.evaluation.splatting import splat_sight, splat_true_geometry
from v4s_lib.evaluation.statistics import make_row, paired_difference
from v4s_lib.model.pipeline import Video4SpatialOutput, Video4SpatialPipeline
from v4s_lib.model.pose import relative_to_start
from v4s_lib.training.presets import Preset
from v4s_lib.training.weights import make_pipeline
from v4s_lib.worlds.cameras import Camera

MEAN_OF = 4  # samples in the rows that average before they are scored
# Single samples, whose cameras are looked for; a mean follows nothing.
FOLLOWED = ("ours", "no_context", "first_frame_only", "other_context", "posed", "splat_sight", "sfm_splat")
SFM_UNITS = {"failure": "1", "registered": "1"}  # of the classical baseline: did it fail, share of frames registered
UNITS = PICTURE_UNITS | FOLLOWING_UNITS | {"context_used": "1"} | SFM_UNITS


@dataclass
class Models:
    """The pipelines that are compared; the first-frame-only one was trained without context tokens."""

    ours: Video4SpatialPipeline
    first_frame_only: Video4SpatialPipeline | None = None


def sample_clips(
    pipeline: Video4SpatialPipeline,
    context: Tensor | None,
    episode: NavigationEpisode,
    preset: Preset,
    seed: int,
    count: int,
    latents: int,
) -> Video4SpatialOutput:
    """``count`` samples (count, F, H, W, 3) of one episode, and the context latents they used."""
    return pipeline(
        context,
        episode.target.rgb[:1].expand(count, -1, -1, -1),
        episode.target_c2w[None].expand(count, -1, -1, -1),
        num_context_latents=latents,
        num_inference_steps=preset.inference_steps,
        guidance_scale=preset.guidance_scale,
        generator=torch.Generator().manual_seed(seed),
    )


def episode_clips(
    models: Models, preset: Preset, split: str, index: int, seed: int, samples: int = MEAN_OF
) -> tuple[NavigationEpisode, dict[str, Tensor], Tensor, dict[str, bool]]:
    """All methods' clips (F, H, W, 3) of one episode, the frames of the context that was drawn, and who used one.

    With several ``samples`` there are their means, too; another room's context, a control, is sampled once: with the
    rule that puts it aside, and, ``other_context_forced``, without.
    """
    episode = navigation_episode(split, index, preset.task)
    other = navigation_episode(split, index + OTHER_ROOM, preset.task)
    clips, context, used = drawn_clips(models, preset, episode, other.scan.rgb, episode_seed(seed, index), samples)
    frames = grouped_frames(context).flatten().unique()
    clips |= plain_clips(episode, frames, preset.task.camera)
    by_sight = splat_sight(models.ours, episode, context, preset.task.camera)
    return episode, clips if by_sight is None else {**clips, "splat_sight": by_sight}, frames, used


def drawn_clips(
    models: Models, preset: Preset, episode: NavigationEpisode, other: Tensor, seed: int, samples: int
) -> tuple[dict[str, Tensor], Tensor, dict[str, bool]]:
    """What the models sample, the context latents that were drawn, and who used a context.

    ``other`` (F, H, W, 3) is another room's scan.
    """
    wanted = preset.task.context_latents
    forced = make_pipeline(models.ours.transformer, replace(preset, least_shared=0.0))
    asked = {
        "ours": (models.ours, episode.scan.rgb, samples, wanted),
        "no_context": (models.ours, None, samples, wanted),
        "other_context": (models.ours, other, 1, wanted),
        "other_context_forced": (forced, other, 1, wanted),
        "first_frame_only": (models.first_frame_only, None, samples, 0),
    }
    drawn = {
        name: sample_clips(pipeline, video, episode, preset, seed, count, latents)
        for name, (pipeline, video, count, latents) in asked.items()
        if pipeline is not None
    }
    clips = {key: clip for name, output in drawn.items() for key, clip in with_mean(name, output.frames).items()}
    context = drawn["ours"].context_index
    if models.ours.transformer.localizer is not None:  # what has none cannot be told where frames stand
        path = relative_to_start(episode.target_c2w[None].double()).float()
        with posed(models.ours.transformer, true_poses(episode.scan_c2w, context, episode.target_c2w[0], path)):
            clips["posed"] = sample_clips(forced, episode.scan.rgb, episode, preset, seed, 1, wanted).frames[0]
    return clips, context, {name: output.context_used for name, output in drawn.items()}


def plain_clips(episode: NavigationEpisode, frames: Tensor, camera: Camera) -> dict[str, Tensor]:
    """The baselines that need no model; ``frames`` are the numbers of those that the context holds."""
    start, scan, length = episode.target.rgb[0], episode.scan, len(episode.target_c2w)
    shown = scan.rgb[frames], scan.depth[frames], episode.scan_c2w[frames]
    return {
        "repeat": repeat_start(start, length),
        "context_mean": context_mean(start, shown[0], length),
        "nearest_true_pose": nearest_true_pose(start, *shown, episode.target.depth, episode.target_c2w, camera),
        "splat_true_geometry": splat_true_geometry(episode, frames, camera),
    }


def with_mean(name: str, samples: Tensor) -> dict[str, Tensor]:
    """The first of some samples (N, F, H, W, 3) and, if there are more, their mean, averaged before it is scored."""
    return {name: samples[0]} | ({f"{name}_mean": samples.mean(dim=0)} if len(samples) > 1 else {})


def store_key(settings: Any, *asked: object) -> str:
    """A short hash for the name of a store of scored episodes: of the code's commit and of all that they hang on.

    ``settings`` is a preset, or another dataclass that says how they were made; ``asked`` is what JSON can hold.
    """
    facts = [asdict(settings), current_commit(), *asked]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]


def episode_seed(seed: int, index: int) -> int:
    """The seed of an episode's noise and context: every room draws its own, or intervals over rooms miss that part."""
    return seed * 1_000_003 + index


OTHER_ROOM = 1_000_000  # added to an episode's index to name the room whose context it is given as a control


def score_episode(
    models: Models, preset: Preset, split: str, index: int, seed: int, samples: int = MEAN_OF
) -> dict[str, dict[str, float]]:
    """Every measure of every method for one episode."""
    episode, clips, frames, used = episode_clips(models, preset, split, index, seed, samples)
    clips, facts = with_classical(clips, episode, frames, preset.task.camera)
    known = episode.known(frames, preset.task.camera)
    scores = {name: picture_measures(clip, episode.target.rgb, known, perceptual=True) for name, clip in clips.items()}
    _, _, unrelated = navigation_paths(split, index + OTHER_ROOM, preset.task)
    looked_at = {name: clips[name] for name in FOLLOWED if name in clips} | {"ground_truth": episode.target.rgb}
    path = replayed(unrelated[0], episode.target_c2w[0])
    for name, measures in following_measures(looked_at, episode, path, preset).items():
        scores[name] = scores.get(name, {}) | measures
    for name, answer in used.items():
        facts.setdefault(name, {})["context_used"] = float(answer)
    return scores | {name: scores[name] | more for name, more in facts.items()}


def with_classical(
    clips: dict[str, Tensor], episode: NavigationEpisode, frames: Tensor, camera: Camera
) -> tuple[dict[str, Tensor], dict[str, dict[str, float]]]:
    """The clips and, where pycolmap can be had, the classical baseline's, and what is known of that one by name."""
    if find_spec("pycolmap") is None:  # as on Linux on ARM
        return clips, {}
    from v4s_lib.evaluation.real.classical import classical_clip

    clip, facts = classical_clip(episode, frames, camera)
    return clips | {"sfm_splat": clip}, {"sfm_splat": facts}


def score_all(
    score: Callable[[int], dict], episodes: int, store: Path, progress: bool = True, part: tuple[int, int] = (0, 1)
) -> list[dict]:
    """Score episodes 0.., one JSON line each; those that are stored already are read, not computed again.

    With ``part`` (k, n) only every n-th from k on, into a store of its own beside ``store``: so n processes share the
    work, and a call without ``part`` reads what they have stored.
    """
    store.parent.mkdir(parents=True, exist_ok=True)
    own = store if part[1] == 1 else store.with_name(f"{store.stem}-part{part[0]}of{part[1]}.jsonl")
    files = (store, *sorted(store.parent.glob(f"{glob.escape(store.stem)}-part*of*.jsonl")))
    stored = {file: file.read_text() for file in files if file.is_file()}
    whole = {file: text[: text.rfind("\n") + 1] for file, text in stored.items()}  # a kill may have torn the last line
    if whole.get(own) != stored.get(own):
        own.write_text(whole[own])
    done = {line["episode"]: line for line in map(json.loads, "".join(whole.values()).splitlines())}
    wanted = range(episodes)[part[0] :: part[1]]
    with own.open("a") as file:
        for index in tqdm(wanted, disable=not progress, desc="episodes"):
            if index not in done:
                done[index] = {"episode": index, "methods": score(index)}
                file.write(json.dumps(done[index]) + "\n")
                file.flush()
    return [done[index] for index in wanted]


def score_shared(score: Callable[..., Any], asked: tuple, episodes: int, workers: int) -> Any:
    """``score(*asked)``, after ``workers`` processes, at most one an episode, have stored its episodes in parts.

    ``score`` hands its keyword ``part`` on to ``score_all``.
    """
    if workers < 1:
        raise ValueError(f"expected 1 or more workers, got {workers}: one for each core is quickest")
    workers = min(workers, episodes)
    if workers > 1:
        run_workers(_score_part, (score, asked), [[str(number), str(workers)] for number in range(workers)])
    return score(*asked)


def _score_part(job: tuple[Callable[..., Any], tuple], part: list[str], number: int) -> None:
    """What one of several processes does."""
    score, asked = job
    score(*asked, part=tuple(map(int, part)))


def scenes_of(lines: list[dict]) -> np.ndarray:
    """The scene (E,) of each scored episode: a room of its own, or what the line names where scenes have several."""
    return np.array([line.get("scene", line["episode"]) for line in lines])


def values_of(lines: list[dict], method: str, metric: str) -> np.ndarray | None:
    """A method's measure (E,) of each scored episode; None where it has none."""
    if metric not in lines[0]["methods"].get(method, {}):
        return None
    return np.array([line["methods"][method][metric] for line in lines], float)


def table(lines: list[dict], units: dict[str, str] = UNITS) -> list[dict]:
    """Rows of the evaluation's JSON: every method and measure that it has, with its interval over scenes."""
    scenes = scenes_of(lines)
    rows = []
    for method, measures in lines[0]["methods"].items():
        for metric, unit in units.items():
            if metric in measures:
                values = values_of(lines, method, metric)
                failed = 0
                if metric in FOLLOWING_UNITS and metric != "sd":
                    failed = sum(line["methods"][method]["failed_frames"] for line in lines)
                rows.append(make_row(method, metric, unit, values, scenes, failed).to_json())
    return rows


def context_gain(lines: list[dict], metric: str = "psnr_recall") -> dict[str, dict[str, float]]:
    """Paired differences, ours minus each control, with their intervals over scenes."""
    scenes = scenes_of(lines)
    methods = [m for m, measures in lines[0]["methods"].items() if metric in measures]
    values = {m: values_of(lines, m, metric) for m in methods}
    pairs = [("ours", name) for name in values if name != "ours"]
    pairs += [(name, "no_context") for name in ("other_context", "other_context_forced")]
    pairs = [pair for pair in pairs if values.keys() >= set(pair)]
    return {f"{a} - {b}": paired_difference(values[a], values[b], scenes).to_json() for a, b in pairs}
