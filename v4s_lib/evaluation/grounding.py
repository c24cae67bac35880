"""The grounding experiment: test rooms, an object named, our model, its controls and the plain baselines, one table."""

import math
from functools import lru_cache

import torch
from torch import Tensor

from v4s_lib.data.boxes import is_centred, is_shown, mask_box
from v4s_lib.data.grounding import GroundingEpisode, grounding_episode
from v4s_lib.data.instructions import grounding_instruction, object_name
from v4s_lib.data.rooms import RoomTask, render_one
from v4s_lib.data.windows import grouped_frames
from v4s_lib.evaluation.camera import CameraFinder
from v4s_lib.evaluation.judges import (
    GATES,
    Limits,
    best_of,
    box_overlap,
    judge,
    limits_of,
    read_box,
    spatial_distance,
)
from v4s_lib.evaluation.navigation import OTHER_ROOM, Models, episode_seed
from v4s_lib.evaluation.reader import ObjectReader, load_reader
from v4s_lib.model.pipeline import Video4SpatialOutput, Video4SpatialPipeline
from v4s_lib.model.weights import weights_digest
from v4s_lib.training.presets import Preset
from v4s_lib.worlds.objects import COLORS, KINDS, NEW_LABELS
from v4s_lib.worlds.paths import FRAMES_PER_LATENT

SAMPLES = 5  # of ours, for the best of k
DRAWN = 1.0  # temperature of what ``ours_drawn`` looks for: as likely as the finder holds it
REACH = 1.0  # metres around the room's middle in which cameras are looked for; a path ends at most that far from it
UNITS = {
    "if_sd02": "1",
    "if_sd01": "1",
    "if_sd02_new": "1",  # of objects that no training room holds, and of the others; ours alone
    "if_sd02_known": "1",
    "if": "1",
    "sd": "1",
    "smooth": "1",
    "aimed": "1",  # whether the camera that explains the last frame best has the object in its middle, and SD < 0.2
    "sd_way": "1",  # SD half-way, of the first sample
    "box": "1",
    "box_overlap": "1",
    "object_shown": "1",  # whether the frames drawn as context show the object at all
    **{f"if_sd02_best_of_{k}": "1" for k in range(1, SAMPLES + 1)},  # whether one of k samples passes
}


def sample_words(
    pipeline: Video4SpatialPipeline,
    context: Tensor | None,
    episode: GroundingEpisode,
    preset: Preset,
    seed: int,
    instruction: str,
    count: int,
    latents: int,
    find_temperature: float = 0.0,
    guide_context: bool = True,
) -> Video4SpatialOutput:
    """``count`` samples (count, F, H, W, 3) from an episode's start frame that look for what an instruction names."""
    return pipeline(
        context,
        episode.target_frames[:1].expand(count, -1, -1, -1),
        instruction=instruction,
        num_frames=len(episode.target_c2w) + FRAMES_PER_LATENT * preset.task.tail_latents,
        num_context_latents=latents,
        num_inference_steps=preset.inference_steps,
        guidance_scale=preset.guidance_scale,
        guide_context=guide_context,
        find_temperature=find_temperature,
        generator=torch.Generator().manual_seed(seed),
    )


def sample_grounding(
    models: Models,
    episode: GroundingEpisode,
    other: GroundingEpisode,
    preset: Preset,
    seed: int,
    samples: int = SAMPLES,
) -> tuple[dict[str, Tensor], Tensor]:
    """Clips (N, F, H, W, 3) of every method and the frames of our context; ours and ``ours_drawn`` have ``samples``.

    Samples of ours all go to the likeliest thing, those of ``ours_drawn`` each to one that was drawn.
    """
    instruction = episode.instruction
    shuffled = grounding_instruction(object_name(other_label(episode)))
    wanted = preset.task.context_latents
    asked = {
        "ours": (models.ours, episode.scan.rgb, instruction, samples, wanted),
        "ours_drawn": (models.ours, episode.scan.rgb, instruction, samples, wanted, DRAWN),
        "no_context": (models.ours, None, instruction, 1, wanted),
        "first_frame_only": (models.first_frame_only, None, instruction, 1, 0),
        "other_context": (models.ours, other.scan.rgb, instruction, 1, wanted),
        "shuffled_instruction": (models.ours, episode.scan.rgb, shuffled, 1, wanted),
    }
    drawn = {
        name: sample_words(pipeline, context, episode, preset, seed, *how)
        for name, (pipeline, context, *how) in asked.items()
        if pipeline is not None
    }
    frames = grouped_frames(drawn["ours"].context_index).flatten().unique()
    return {name: output.frames for name, output in drawn.items()}, frames


def baselines(episode: GroundingEpisode, frames: Tensor) -> dict[str, Tensor]:
    """Clips (1, F, H, W, 3) of what needs no model: the start frame, the best context frame, the truth.

    ``frames`` are the numbers of the scan's frames that the model was given, too. Which of them is best is told by
    true masks. ``retrieve`` cuts to it, ``retrieve_faded`` fades in the middle third.
    """
    start, length = episode.target_frames[0], len(episode.target_frames)
    best = episode.scan.rgb[shown_best(episode, frames)]
    half = length // 2
    cut = torch.cat([start.expand(half, *start.shape), best.expand(length - half, *start.shape)])
    share = torch.linspace(-1, 2, length).clamp(0, 1)[:, None, None, None]
    return {
        "retrieve": cut[None],
        "retrieve_faded": torch.lerp(start, best, share)[None],
        "start_frame": start.expand(1, length, *start.shape),
        "ground_truth": episode.target_frames[None],
    }


def shown_best(episode: GroundingEpisode, frames: Tensor) -> int:
    """That of the scan's ``frames`` which shows the object best: most of its pixels, weighted towards the middle."""
    shown = (episode.scan.instance[frames] == episode.item.instance).float()
    rows, columns = (torch.linspace(-1, 1, size) for size in shown.shape[1:])
    weight = torch.exp(-2 * (rows[:, None].square() + columns[None].square()))
    return int(frames[(shown * weight).sum(dim=(1, 2)).argmax()])


def other_label(episode: GroundingEpisode, same: str | None = None) -> str:
    """An object that the room does not hold, of another colour and kind: what a shuffled instruction asks for.

    ``same`` keeps one of the two: "color" or "kind".
    """
    colors = [color for color in COLORS if (color == episode.item.color) == (same == "color")]
    kinds = [kind for kind in KINDS if (kind == episode.item.kind) == (same == "kind")]
    held = {item.label for item in episode.scenes.objects[0]}
    pairs = [f"{color} {kind}" for color in colors for kind in kinds]
    free = [pair for pair in pairs if pair not in held]
    return free[episode.item.instance * 7919 % len(free)]


@lru_cache(maxsize=1)
def shipped_judges(preset: str) -> tuple[ObjectReader, Limits]:
    """The reader and the limits for that preset, checked and loaded once; ``ValueError`` if they do not fit."""
    reader, limits = load_reader(), limits_of(preset)
    digest = weights_digest(reader)
    if limits.reader_sha256 != digest:
        raise ValueError(
            f"expected limits for reader {digest[:12]}, got some for {limits.reader_sha256[:12]}: "
            f"run python -m v4s_lib.evaluation.calibrate --preset {preset}"
        )
    return reader, limits


def score_grounding(
    models: Models, preset: Preset, split: str, index: int, seed: int, samples: int = SAMPLES
) -> dict[str, dict[str, float]]:
    """Every measure of every method for one episode; means over the samples where there are several."""
    episode = grounding_episode(split, index, preset.task)
    other = grounding_episode(split, index + OTHER_ROOM, preset.task)
    clips, frames = sample_grounding(models, episode, other, preset, episode_seed(seed, index), samples)
    scores = judge_clips(clips | baselines(episode, frames), episode, *shipped_judges(preset.name), preset.task)
    scores["random_object"] = chance(episode)
    scores["ours"] |= by_novelty(episode.item.label, scores["ours"]["if_sd02"])
    scores["ours"]["object_shown"] = float(is_shown(episode.scan.instance[frames] == episode.item.instance))
    return scores


def by_novelty(label: str, share: float) -> dict[str, float]:
    """A share of passes once more, under whether training rooms hold such an object; NaN under the other name."""
    new = label in NEW_LABELS
    return {"if_sd02_new": share if new else math.nan, "if_sd02_known": math.nan if new else share}


def chance(episode: GroundingEpisode) -> dict[str, float]:
    """What a perfect camera would score that ends on any of the room's objects, whatever it was asked for."""
    share = 1 / len(episode.scenes.objects[0])
    return {"if_sd02": share, "if_sd01": share, "if": share}


def judge_clips(
    clips: dict[str, Tensor], episode: GroundingEpisode, reader: ObjectReader, limits: Limits, task: RoomTask
) -> dict[str, dict[str, float]]:
    """The measures of each method's clips (N, F, H, W, 3), and, where there are several, how many of them passed."""
    last = len(episode.target_c2w) - 1
    finder = CameraFinder(episode.scenes, task.camera, REACH)
    distance, cameras = spatial_distance(finder, torch.cat([clip[:, last] for clip in clips.values()]), limits)
    half, _ = spatial_distance(finder, torch.stack([clip[0, last // 2] for clip in clips.values()]), limits)
    sizes = [len(clip) for clip in clips.values()]
    found = zip(clips.items(), distance.split(sizes), cameras.split(sizes), half.tolist(), strict=True)
    scores = {}
    for (name, clip), sd, c2w, sd_way in found:
        verdicts = judge(clip, last, episode.item.label, reader, sd, limits)
        for verdict, sample, camera in zip(verdicts, clip, c2w, strict=True):
            mask = render_one(episode.scenes, camera[None, None], task).instance[0] == episode.item.instance
            verdict |= box_measures(sample, last, mask) | {"sd_way": sd_way}
            verdict["aimed"] = float(is_centred(mask) and verdict["sd"] < GATES["sd02"])
        scores[name] = {key: _mean([verdict[key] for verdict in verdicts]) for key in verdicts[0]}
        scores[name]["passed"] = int(sum(verdict["if_sd02"] for verdict in verdicts))
        scores[name]["samples"] = len(verdicts)
        if len(verdicts) > 1:
            scores[name] |= best_of_measures(scores[name]["passed"], len(verdicts))
    return scores


def best_of_measures(passed: int, samples: int) -> dict[str, float]:
    """The chance that one of k samples passes, of which ``passed`` do, for every k of ``UNITS`` that there are."""
    return {f"if_sd02_best_of_{k}": best_of(passed, samples, k) for k in range(1, min(samples, SAMPLES) + 1)}


def box_measures(clip: Tensor, last: int, mask: Tensor) -> dict[str, float]:
    """Whether a box is drawn in a clip's tail and, if so, how well it fits the object as the clip's own camera sees it.

    ``mask`` (H, W) is the object's from the camera that best explains frame ``last``; NaN where there is no box, or no
    object to see.
    """
    box = read_box(clip[last], clip[-1])
    if box is None:
        return {"box": 0.0, "box_overlap": math.nan}
    return {"box": 1.0, "box_overlap": box_overlap(box, mask_box(mask)) if mask.any() else math.nan}


def _mean(values: list[float]) -> float:
    """Mean of the numbers that are there; NaN if none is."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
