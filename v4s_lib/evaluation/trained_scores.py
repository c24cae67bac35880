"""What is measured of a trained arm on one test room. All arms meet the rooms of their preset, whatever they train on.

Each measure scores the model with its context and, where that is cheap, the same weights without.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from v4s_lib.data.grounding import grounding_episode
from v4s_lib.data.handheld import by_phone
from v4s_lib.data.navigation import NavigationEpisode, navigation_episode
from v4s_lib.data.windows import grouped_frames, sample_context
from v4s_lib.evaluation.experiments import follow
from v4s_lib.evaluation.grounding import judge_clips, sample_words, shipped_judges
from v4s_lib.evaluation.navigation import episode_seed, sample_clips
from v4s_lib.evaluation.picture import picture_measures
from v4s_lib.evaluation.statistics import paired_ratio
from v4s_lib.model.pipeline import Video4SpatialPipeline
from v4s_lib.training.presets import Preset, get_preset
from v4s_lib.worlds.paths import FRAMES_PER_LATENT

Scores = dict[str, dict[str, float]]  # measures by method
Score = Callable[[Video4SpatialPipeline, Preset, str, int, int], Scores]  # of split, episode and seed


def scored_preset(arm: Preset) -> Preset:
    """An arm's preset with the test rooms of its scale, and of its own task only what it must be sampled with."""
    rooms = get_preset(arm.name).task
    return replace(arm, task=replace(rooms, contiguous=arm.task.contiguous, tail_latents=arm.task.tail_latents))


def sample(
    pipeline: Video4SpatialPipeline, preset: Preset, episode: NavigationEpisode, context: bool, seed: int
) -> Tensor:
    """One clip (F, H, W, 3); a model that was trained without context tokens is never given any."""
    latents = preset.task.context_latents if preset.loss.use_context else 0
    video = episode.scan.rgb if context and latents else None
    return sample_clips(pipeline, video, episode, preset, seed, 1, latents).frames[0]


def score_navigation(pipeline: Video4SpatialPipeline, preset: Preset, split: str, index: int, seed: int) -> Scores:
    """Pictures, on the pixels that the same context latents tell in all arms, and whether the path was followed."""
    episode, seed = navigation_episode(split, index, preset.task), episode_seed(seed, index)
    clips = _clips(pipeline, preset, {"": episode}, seed)
    scores = _pictures(clips, episode, preset, seed)
    return scores | {"ours": scores["ours"] | follow(clips["ours"], episode, preset, split, index)}


def score_handheld(pipeline: Video4SpatialPipeline, preset: Preset, split: str, index: int, seed: int) -> Scores:
    """Pictures in the training's domain, and where scan and start frame come from a phone; the truth is the same."""
    episode, seed = navigation_episode(split, index, preset.task), episode_seed(seed, index)
    phone = by_phone(episode, preset.task, seed)
    return _pictures(_clips(pipeline, preset, {"": episode, "handheld_": phone}, seed), episode, preset, seed)


def _clips(
    pipeline: Video4SpatialPipeline, preset: Preset, shown: dict[str, NavigationEpisode], seed: int
) -> dict[str, Tensor]:
    """A clip with context and one without for each episode ``shown``, by prefix of the method."""
    return {
        prefix + name: sample(pipeline, preset, episode, context, seed)
        for prefix, episode in shown.items()
        for name, context in (("ours", True), ("no_context", False))
    }


def _pictures(clips: dict[str, Tensor], truth: NavigationEpisode, preset: Preset, seed: int) -> Scores:
    """What the clips are worth as pictures of ``truth``."""
    length = (len(truth.scan.rgb) - 1) // FRAMES_PER_LATENT + 1
    used = sample_context(length, preset.task.context_latents, torch.Generator().manual_seed(seed))
    known = truth.known(grouped_frames(used).flatten().unique(), preset.task.camera)
    return {name: picture_measures(clip, truth.target.rgb, known) for name, clip in clips.items()}


def score_grounding(pipeline: Video4SpatialPipeline, preset: Preset, split: str, index: int, seed: int) -> Scores:
    """Whether the named object was found; the clip has a box tail if the arm was trained with one."""
    episode = grounding_episode(split, index, get_preset(preset.name).task)
    latents = preset.task.context_latents if preset.loss.use_context else 0
    scan, seed = episode.scan.rgb if latents else None, episode_seed(seed, index)
    clips = {
        name: sample_words(pipeline, video, episode, preset, seed, episode.instruction, 1, latents).frames
        for name, video in (("ours", scan), ("no_context", None))
    }
    return judge_clips(clips, episode, *shipped_judges(preset.name), preset.task)


NAVIGATION_UNITS = {"psnr_recall": "dB", "psnr": "dB", "navigation_accuracy": "1", "rotation_error": "deg", "sd": "1"}
MEASURES: dict[str, tuple[Score, dict[str, str]]] = {  # how to score, and the units of what is compared
    "navigation": (score_navigation, NAVIGATION_UNITS),
    "grounding": (score_grounding, {"if_sd02": "1", "if_sd01": "1", "if": "1", "sd": "1"}),
    "handheld": (score_handheld, {"psnr_recall": "dB"}),
}


def kept_shares(lines: list[dict], metric: str = "psnr_recall") -> np.ndarray:
    """Numbers (E,), one a room, whose mean is the retention: the gain over no context from a phone, over the usual one.

    A ratio of means has no value in one room; these are its linear part there (delta method), so that the retentions of
    two arms can be compared in pairs. NaN where the usual gain is not surely above zero.
    """
    methods = ("handheld_ours", "handheld_no_context", "ours", "no_context")
    phone, phone_without, usual, without = (
        np.array([line["methods"][method][metric] for line in lines], float) for method in methods
    )
    kept, whole = phone - phone_without, usual - without
    counted = ~np.isnan(kept + whole)
    ratio = paired_ratio(kept, whole, np.arange(len(lines))).mean
    return ratio + (kept - ratio * whole) / whole[counted].mean()
