"""``python -m v4s_lib.evaluation.diagnose``: where does a model lose, in locating, in finding or in drawing?

On validation rooms the model predicts a clip once, from pure noise: as it is, with the true poses in place of its own
(no legal input, so this is what better localising could gain), without context, and with a context that no block's
targets attend to, which says what attention is worth beside the other parts. Beside it stand the errors of what it
works out: where the context and the start frame are, and how far the path that it plans ends from what was named.
"""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from v4s_lib.command import check_counts, command
from v4s_lib.data.grounding import GroundingEpisode, grounding_episode
from v4s_lib.data.instructions import NAVIGATION
from v4s_lib.data.navigation import NavigationEpisode, navigation_episode
from v4s_lib.data.targets import middle
from v4s_lib.data.windows import grouped_frames, sample_context
from v4s_lib.evaluation.baselines import posed, true_poses
from v4s_lib.evaluation.grounding import sample_words
from v4s_lib.evaluation.picture import pooled_psnr
from v4s_lib.evaluation.statistics import bootstrap, in_words
from v4s_lib.model.pipeline import Video4SpatialPipeline
from v4s_lib.model.pose import relative_to_start
from v4s_lib.model.text import tokenize
from v4s_lib.model.transformer import ContextVideoTransformer
from v4s_lib.training.presets import Preset, get_preset
from v4s_lib.training.weights import load_pipeline
from v4s_lib.worlds.cameras import degrees_off, inverse, rotation_angle, translation_distance


def predict(
    pipeline: Video4SpatialPipeline,
    episode: NavigationEpisode,
    preset: Preset,
    told: bool = False,
    with_context: bool = True,
    seed: int = 0,
) -> dict[str, Tensor]:
    """The clip (F, H, W, 3) that is predicted from pure noise in one step, and the poses behind it.

    The same ``seed`` draws the same context as in the pipeline.

    Returns:
        ``clip``; ``frames``, numbers of the context's; ``context`` and ``target``, poses (P, 4, 4, 4) and (T, 4, 4, 4)
        relative to the last context frame, of ``target`` with sight the start latent's alone; ``to_axes`` (4, 4), which
        brings the room's poses there.
    """
    generator = torch.Generator().manual_seed(seed)
    codec, model = pipeline.codec, pipeline.transformer
    latents = (len(episode.scan.rgb) - 1) // 4 + 1
    index = sample_context(latents, preset.task.context_latents, generator)
    frames = grouped_frames(index)
    context = codec.encode_groups(codec.group(episode.scan.rgb[None, : 4 * latents - 3])[:, index])
    path = relative_to_start(episode.target_c2w[None].double()).float()
    start = codec.encode(episode.target.rgb[None, :1])
    noisy = torch.randn((1, start.shape[1], path.shape[1], *start.shape[3:]), generator=generator)
    noisy[:, :, :1] = start
    to_axes = inverse(episode.scan_c2w[frames[-1, -1]])
    truth = true_poses(episode.scan_c2w, index, episode.target_c2w[0], path)
    given = {"words": None, "camera_path": path}
    if model.word_embedding is not None:
        given["words"] = tokenize([NAVIGATION], model.config.vocabulary)
    if with_context:
        given |= {"context_latents": context, "context_time_index": index[None]}
    time_index = (latents + preset.task.gap + torch.arange(path.shape[1]))[None]
    with torch.no_grad(), posed(model, truth) if told else nullcontext():
        output, findings = model(noisy, torch.tensor([1000.0]), time_index, return_findings=True, **given)
    clip = codec.decode(torch.cat([start, output[:, :, 1:]], dim=2))[0].clamp(0, 1)
    poses = {"context": findings.context_poses, "target": findings.target_poses}
    poses = {name: value[0] for name, value in poses.items() if value is not None}
    return {"clip": clip, "frames": frames, "to_axes": to_axes, **poses}


@contextmanager
def unheard(model: ContextVideoTransformer) -> Iterator[None]:
    """For as long as it lasts, no block's targets attend to the context: what is left of it comes by other parts."""
    blocks = model.config.context_blocks
    model.register_to_config(context_blocks=[])
    try:
        yield
    finally:
        model.register_to_config(context_blocks=blocks)


def diagnose_navigation(pipeline: Video4SpatialPipeline, preset: Preset, index: int) -> dict[str, float]:
    """Decibels over recalled pixels and errors of the poses, one validation room."""
    episode = navigation_episode("validation", index, preset.task)
    found = predict(pipeline, episode, preset)
    known = episode.known(found["frames"].flatten().unique(), preset.task.camera).recalled[1:]
    clips = {
        "psnr_recall, as it is (dB)": found["clip"],
        "psnr_recall, true poses (dB)": predict(pipeline, episode, preset, told=True)["clip"],
        "psnr_recall, no context (dB)": predict(pipeline, episode, preset, with_context=False)["clip"],
    }
    with unheard(pipeline.transformer):
        clips["psnr_recall, no attention to the context (dB)"] = predict(pipeline, episode, preset)["clip"]
    truth = episode.target.rgb[1:].double()
    measures = {name: pooled_psnr(clip[1:].double(), truth, known) for name, clip in clips.items()}
    true_context = found["to_axes"] @ episode.scan_c2w[found["frames"]]
    true_start = found["to_axes"] @ episode.target_c2w[0]
    for name, predicted, true in (
        ("context", found["context"].flatten(0, 1), true_context.flatten(0, 1)),
        ("start", found["target"][:1, -1], true_start[None]),
    ):
        measures[f"{name}, rotation (deg)"] = rotation_angle(predicted, true).mean().item()
        measures[f"{name}, translation (m)"] = translation_distance(predicted, true).mean().item()
    return measures


def diagnose_plan(pipeline: Video4SpatialPipeline, preset: Preset, index: int) -> dict[str, float]:
    """Degrees between where the plan ends and where the object is, seen from there, one validation room."""
    episode = grounding_episode("validation", index, preset.task)
    wanted, preset = preset.task.context_latents, replace(preset, inference_steps=1)
    output = sample_words(pipeline, episode.scan.rgb, episode, preset, 0, episode.instruction, 1, wanted)
    return measure_plan(output.camera_path[0, -1, -1], episode)


def measure_plan(last: Tensor, episode: GroundingEpisode) -> dict[str, float]:
    """Degrees off the object of a plan's last frame (4, 4), in the start frame's axes, and of the start frame."""
    start, goal = episode.target_c2w[0], middle(episode.item)
    return {
        "plan, last frame off the object (deg)": degrees_off(start @ last, goal),
        "start frame off the object (deg)": degrees_off(start, goal),
    }


@command("run the same command again")
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m v4s_lib.evaluation.diagnose", description=__doc__)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--weights", type=Path, help="folder of a trained transformer (default: the shipped one)")
    parser.add_argument("--rooms", type=int, default=32, help="validation rooms (default: 32)")
    args = parser.parse_args(arguments)
    check_counts(rooms=args.rooms)
    preset = get_preset(args.preset)
    pipeline = load_pipeline(preset, args.weights)
    if pipeline.transformer.localizer is None:
        raise ValueError(f"expected a model with a localizer, got {args.weights} without: it has no poses to diagnose")
    reads = pipeline.transformer.word_embedding is not None
    values: dict[str, list[float]] = {}
    for index in tqdm(range(args.rooms), desc="validation rooms"):
        measures = diagnose_navigation(pipeline, preset, index)
        measures |= diagnose_plan(pipeline, preset, index) if reads else {}
        for name, value in measures.items():
            values.setdefault(name, []).append(value)
    print("| measure | mean | median |\n|---|---|---|")
    for name, numbers in values.items():
        mean = bootstrap(np.array(numbers), np.arange(len(numbers)))
        print(f"| {name} | {in_words(mean)} | {np.nanmedian(numbers):.2f} |")


if __name__ == "__main__":
    sys.exit(main())
