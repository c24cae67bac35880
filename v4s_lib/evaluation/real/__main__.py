"""``python -m v4s_lib.evaluation.real EPISODES --windows FILE --weights DIR``: score a pipeline on real scans.

EPISODES and FILE are what ``python -m v4s_lib.data.curation`` has read and written. Navigation windows are sampled
along their true path, grounding windows by their sentence, each with a context from outside of window and gap.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from v4s_lib.command import command
from v4s_lib.data.curation import load_rules, load_windows
from v4s_lib.data.curation_windows import KINDS, Rules, Window, nominal_poses
from v4s_lib.data.episodes import load_annotations
from v4s_lib.data.sources import find_episodes, whole_latents
from v4s_lib.data.windows import sample_context
from v4s_lib.evaluation.real.detect import Detector
from v4s_lib.evaluation.real.sampling import Settings, WindowPipeline
from v4s_lib.evaluation.real.scoring import GAIN, Curated, Job, evaluate, goal_label
from v4s_lib.evaluation.results import FOLLOWING, GROUNDING, PICTURE, gains, markdown_table, save_results
from v4s_lib.model.__main__ import DTYPES, enable_tiling
from v4s_lib.worlds.paths import latent_frames

COLUMNS = {"navigation": [*PICTURE, "psnr_per_frame", *FOLLOWING], "grounding": GROUNDING}


def read_curated(file: Path, folder: Path, task: str, context_latents: int) -> Curated:
    """The windows of a kind with their scans, each checked: so many latents must be left for a context.

    Raises:
        ValueError, OSError: one sentence, for windows that can not be scored.
    """
    found, rules, episodes = load_windows(file), load_rules(file), find_episodes(folder)
    windows = [window for window in found if window.kind == task]
    if len(windows) < 2:
        raise ValueError(
            f"expected 2 {task} windows or more in {file}, got {len(windows)} of {len(found)}: "
            "curate more scans, or choose another --task"
        )
    scans, kept, paths, longest = sorted({window.scan for window in windows}), [], [], 0
    for name in scans:
        if name not in episodes:
            raise ValueError(f"expected the scan {name} in {folder}, got others: give the episodes that were curated")
        own = [window for window in windows if window.scan == name]
        c2w = read_path(episodes[name], own, rules, context_latents)
        kept += own
        paths += [c2w[window.frames] for window in own]
        longest = max(longest, whole_latents(len(c2w), 1))
    return Curated(kept, paths, rules, episodes, longest)


def read_path(episode: Path, windows: list[Window], rules: Rules, context_latents: int) -> Tensor:
    """The c2w (F, 4, 4) of a scan by the rules, in nominal metres where its unit is unknown.

    Refused without the length or the objects that its windows need.
    """
    known = load_annotations(episode)
    if known is None:
        raise ValueError(
            f"expected cameras of the scan {episode}, got none: what was generated is measured by them, "
            "so give a scan with transforms.json"
        )
    latents = whole_latents(len(known.c2w), rules.stride)
    for window in windows:
        sample_context(latents, context_latents, torch.Generator(), window.first, window.length, rules.gap)
        if window.kind == "grounding":
            goal_label(known, window)
    c2w = known.c2w[:: rules.stride][: latent_frames(latents)]
    return c2w if known.metric else nominal_poses(c2w)[0]


def read_validation(args: argparse.Namespace, curated: Curated) -> Curated:
    """The grounding windows that the judges' limits are chosen on: curated alike, two scans or more, all other ones."""
    validation = read_curated(args.limits_from, args.limits_episodes or args.episodes, "grounding", 1)
    rules = curated.rules
    if replace(validation.rules, step=rules.step, context=rules.context) != rules:
        raise ValueError(f"expected {args.limits_from} curated as {args.windows}, got other rules: curate both alike")
    scans, tested = ({of.episodes[window.scan].resolve() for window in of.windows} for of in (validation, curated))
    if len(scans) < 2 or scans & tested:
        raise ValueError(
            f"expected 2 scans or more in {args.limits_from}, none of them in {args.windows}, got {len(scans)} and "
            f"{len(scans & tested)} of both: choose limits on other scans than those that are scored"
        )
    return validation


def load_model(args: argparse.Namespace) -> WindowPipeline:
    """The pipeline that the options name, on its device."""
    if not (args.weights / "model_index.json").is_file():
        raise FileNotFoundError(
            f"expected a saved pipeline in {args.weights}, got no model_index.json: save one with save_pretrained"
        )
    pipeline = WindowPipeline.from_pretrained(args.weights, DTYPES[args.dtype])
    pipeline.set_progress_bar_config(disable=True)
    if args.tiling:
        enable_tiling(pipeline)
    if args.offload:
        pipeline.enable_model_cpu_offload(device=args.device)
        return pipeline
    return pipeline.to(args.device)


def check_model(pipeline: WindowPipeline, curated: Curated, settings: Settings) -> None:
    """Refuse what the pipeline can not do: the frames' size, the words, the numbers, the length of the scans."""
    rules, navigation = curated.rules, settings.task == "navigation"
    size, fixed = (rules.height, rules.width), pipeline.fixed_size
    if fixed not in (None, size):
        raise ValueError(
            f"expected windows for the model's frames of {fixed[0]}x{fixed[1]} pixels (H x W), got {size[0]}x{size[1]}:"
            f" curate with --height {fixed[0]} --width {fixed[1]}"
        )
    sentences = sorted({window.instruction for window in curated.windows})
    length = latent_frames(rules.length if navigation else rules.length + settings.tail_latents)
    pipeline.check_inputs(
        torch.zeros(1, *size, 3).expand(latent_frames(settings.context_latents), -1, -1, -1),
        torch.zeros(1, *size, 3).expand(len(sentences), -1, -1, -1),
        torch.eye(4).expand(len(sentences), length, 4, 4) if navigation else None,
        None if navigation and not pipeline.reads_any_words else sentences,
        length,
        settings.context_latents,
        settings.inference_steps,
    )
    limit = pipeline.transformer.config.rope_max_seq_len
    if curated.longest + settings.tail_latents > limit:
        raise ValueError(
            f"expected scans of at most {limit} latents for the model's time indices, got one of {curated.longest} and "
            f"a tail of {settings.tail_latents}: curate with a larger --stride"
        )


def prepare(args: argparse.Namespace) -> Job:
    """All that is needed, read and checked, before any work starts."""
    if args.tail_latents < 0 or args.point_frames < 2:
        raise ValueError(
            f"expected --tail-latents from 0 and --point-frames from 2, got {args.tail_latents} and "
            f"{args.point_frames}: choose others"
        )
    context = load_rules(args.windows).context if args.context_latents is None else args.context_latents
    curated = read_curated(args.windows, args.episodes, args.task, context)
    detector = validation = None
    if args.task == "grounding":
        if args.detector is None or args.limits_from is None:
            missing = "--detector" if args.detector is None else "--limits-from"
            raise ValueError(
                f"expected --detector and --limits-from for grounding, got no {missing}: give the folder of a "
                "detector, such as OWLv2, and the grounding windows of validation scans"
            )
        validation, detector = read_validation(args, curated), Detector(args.detector, args.device)
    pipeline = load_model(args)
    steps = pipeline.config.inference_steps if args.steps is None else args.steps
    numbers = (steps, args.guidance, args.tail_latents, args.point_frames, args.seed)
    settings = Settings(args.task, context, *numbers, tiling=args.tiling)
    check_model(pipeline, curated, settings)
    return Job(curated, settings, pipeline, args.weights, detector, validation)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m v4s_lib.evaluation.real", description=__doc__)
    parser.add_argument("episodes", type=Path, help="an episode, or a folder of episodes, as it was curated")
    parser.add_argument("--windows", type=Path, required=True, help="their windows, from v4s_lib.data.curation")
    parser.add_argument("--weights", type=Path, required=True, help="folder of a saved pipeline")
    parser.add_argument("--task", choices=KINDS, default="navigation", help="kind of windows (default: navigation)")
    parser.add_argument("--context-latents", type=int, help="of four frames each (default: what was curated for)")
    parser.add_argument("--steps", type=int, help="of sampling (default: the pipeline's; Wan: 50)")
    parser.add_argument("--guidance", type=float, default=1.0, help="scale (default: 1, none; Wan: 5)")
    parser.add_argument("--tail-latents", type=int, default=0, help="of the box, drawn after the window (default: 0)")
    parser.add_argument("--detector", type=Path, help="grounding: folder of an open-vocabulary detector, such as OWLv2")
    parser.add_argument("--limits-from", type=Path, help="grounding: windows of the scans that limits are chosen on")
    parser.add_argument("--limits-episodes", type=Path, help="those scans (default: the folder of the others)")
    parser.add_argument(
        "--point-frames", type=int, default=84, help="of a scan, matched for its points, each with each (default: 84)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the sampling noise and the context (default: 0)")
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--store", type=Path, default=Path("runs/evaluation"), help="scored windows, to go on from")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="to compute on")
    parser.add_argument("--dtype", default="float32", choices=list(DTYPES), help="of the transformer")
    parser.add_argument("--offload", action="store_true", help="keep on the device only the model that computes")
    parser.add_argument("--tiling", action="store_true", help="encode and decode in tiles, which takes less memory")
    return parser.parse_args(arguments)


@command("scored windows are kept; run the same command to go on")
def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    results = evaluate(prepare(args), args.store)
    if args.json:
        save_results(results, args.json)
    print(markdown_table(results, COLUMNS[args.task]))
    for pair, gain in gains(results).items():
        n, scans = results["gain"][pair]["n"], results["scans"]
        print(f"{GAIN[args.task]}, {pair}: {gain}, n = {n} windows of {scans} scans")


if __name__ == "__main__":
    sys.exit(main())
