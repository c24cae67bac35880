"""``python -m v4s_lib.evaluation.experiments guidance``: arms of an experiment, on the same test rooms.

An arm is a way to sample the shipped weights. Rooms are scored one at a time, by all arms, and kept: a stopped run goes
on. Figures go to ``data_manifests/results/experiments`` (of preset base, to ``experiments_base`` beside it), one JSON
an arm and one for all, compared in pairs, room by room. Pixels are the same in all arms of an experiment: recalled from
the context or, where that differs from arm to arm, from the whole scan.
"""

import argparse
import sys
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from v4s_lib.command import command
from v4s_lib.data.grounding import grounding_episode
from v4s_lib.data.handheld import by_phone
from v4s_lib.data.navigation import NavigationEpisode, navigation_paths
from v4s_lib.data.provenance import current_commit
from v4s_lib.data.rooms import RoomTask
from v4s_lib.data.windows import grouped_frames, sample_context
from v4s_lib.data.worlds import WORLDS, world_episode
from v4s_lib.evaluation.arms import EXPERIMENTS, RETAINED, Arm
from v4s_lib.evaluation.claims import asked_ratios
from v4s_lib.evaluation.following import following_measures, replayed
from v4s_lib.evaluation.grounding import judge_clips, sample_words, shipped_judges
from v4s_lib.evaluation.judges import limits_of
from v4s_lib.evaluation.navigation import OTHER_ROOM, episode_seed, score_all, score_shared, store_key, table
from v4s_lib.evaluation.picture import picture_measures
from v4s_lib.evaluation.results import RESULTS, folder_of, load_models, models_digest, save_results
from v4s_lib.evaluation.statistics import Row, in_words, paired_difference, paired_ratio
from v4s_lib.model.pipeline import Video4SpatialPipeline
from v4s_lib.training.presets import Preset, get_preset
from v4s_lib.training.weights import make_pipeline
from v4s_lib.worlds.visibility import Partition

KIND = "experiments"
FOLDER = RESULTS / KIND  # of preset small
# Pictures and, of arms that are followed, paths; of arms that seek an object, what the judges say; sd is of both.
METRICS = {"psnr_recall": "dB", "psnr": "dB", "navigation_accuracy": "1", "sd": "1", "if_sd02": "1", "aimed": "1"}
KEPT = {"retention": "psnr_recall", "accuracy_retention": "navigation_accuracy"}  # shares of the gain over no context


# The arms of one room are scored in a row.
_room = lru_cache(maxsize=len(WORLDS))(world_episode)
_search_room = lru_cache(maxsize=1)(grounding_episode)


@lru_cache(maxsize=1)
def _told_by_scan(world: str, split: str, index: int, task: RoomTask, scan_latents: int) -> Partition:
    """What all of a scan tells of the target's pixels."""
    episode = _room(world, split, index, task, scan_latents)
    return episode.known(torch.arange(len(episode.scan.rgb)), task.camera)


def score_arm(
    pipeline: Video4SpatialPipeline, preset: Preset, arm: Arm, split: str, index: int, seed: int
) -> dict[str, float]:
    """The picture measures of one sample of one episode and, where the arm asks, whether its camera was followed.

    Of an arm that seeks an object it is the judges' measures.
    """
    if arm.least_shared is not None:
        pipeline = make_pipeline(
            pipeline.transformer, replace(preset, least_shared=arm.least_shared), pipeline.box_drawer
        )
    if arm.seeks:
        return score_search(pipeline, preset, arm, split, index, seed)
    asked = (arm.world, split, index, preset.task, arm.scan_latents)
    episode, seed = _room(*asked), episode_seed(seed, index)
    shown = by_phone(episode, preset.task, seed) if arm.handheld else episode
    scan, start = shown.scan.rgb, shown.target.rgb[:1]
    output = pipeline(
        scan if arm.with_context else None,
        start,
        episode.target_c2w[None],
        num_context_latents=arm.context_latents or preset.task.context_latents,
        num_inference_steps=preset.inference_steps,
        guidance_scale=arm.guidance_scale,
        guide_context=arm.guide_context,
        generator=torch.Generator().manual_seed(seed),
    )
    if arm.scan_latents is not None:
        known = _told_by_scan(*asked)
    else:
        used = output.context_index
        if not arm.with_context:  # the pixels that the latents tell which the pipeline would have drawn
            used = sample_context((len(scan) - 1) // 4 + 1, len(used), torch.Generator().manual_seed(seed))
        known = episode.known(grouped_frames(used).flatten().unique(), preset.task.camera)
    measures = picture_measures(output.frames[0], episode.target.rgb, known)
    if arm.followed:
        measures |= follow(output.frames[0], episode, preset, split, index)
    return measures


def score_search(
    pipeline: Video4SpatialPipeline, preset: Preset, arm: Arm, split: str, index: int, seed: int
) -> dict[str, float]:
    """The judges' measures of one sample that looks for a named object, in a scan as long as the arm's."""
    length = preset.task.scan_latents if arm.scan_latents is None else (arm.scan_latents, arm.scan_latents)
    task = replace(preset.task, scan_latents=length)
    episode, latents = _search_room(split, index, task), arm.context_latents or task.context_latents
    scan, seed = episode.scan.rgb if arm.with_context else None, episode_seed(seed, index)
    guided = replace(preset, guidance_scale=arm.guidance_scale)
    asked = (seed, episode.instruction, 1, latents)
    output = sample_words(pipeline, scan, episode, guided, *asked, guide_context=arm.guide_context)
    return judge_clips({"ours": output.frames}, episode, *shipped_judges(preset.name), task)["ours"]


def follow(clip: Tensor, episode: NavigationEpisode, preset: Preset, split: str, index: int) -> dict[str, float]:
    """The camera measures of a clip (F, H, W, 3); a failure counts the error of an unrelated path."""
    _, _, unrelated = navigation_paths(split, index + OTHER_ROOM, preset.task)
    path = replayed(unrelated[0], episode.target_c2w[0])
    return following_measures({"ours": clip}, episode, path, preset)["ours"]


def run_arms(
    experiment: str,
    arms: list[Arm],
    preset: Preset,
    split: str = "test",
    episodes: int = 128,
    seed: int = 0,
    store: Path = Path("runs/experiments"),
    workers: int = 1,
) -> list[dict[str, Any]]:
    """Score the arms; what ``store`` holds of them already is not computed again. At most one process an episode."""
    limits_of(preset.name)  # refused before anything is sampled
    asked = (experiment, arms, preset, split, episodes, seed, store)
    digest, lines = score_shared(_score, asked, episodes, workers)
    rows = table(lines, METRICS)
    results = []
    for arm in arms:
        own = [row for row in rows if row["method"] == arm.name]
        facts = {"experiment": experiment, "arm": asdict(arm), "preset": preset.name, "split": split}
        facts |= {"weights_sha256": digest, "commit": current_commit(), "seed": seed, "episodes": episodes}
        facts["inference_steps"] = preset.inference_steps
        values = {row["metric"]: [line["methods"][arm.name][row["metric"]] for line in lines] for row in own}
        results.append(facts | {"rows": own, "per_episode": values})
    return results


def _score(
    experiment: str,
    arms: list[Arm],
    preset: Preset,
    split: str,
    episodes: int,
    seed: int,
    store: Path,
    part: tuple[int, int] = (0, 1),
) -> tuple[str, list[dict]]:
    """The digest of the models, and the scored episodes of ``part``, see ``score_all``."""
    models = load_models(preset)
    digest = models_digest(models)
    asked = store_key(preset, [asdict(arm) for arm in arms])

    def score(index: int) -> dict[str, dict[str, float]]:
        return {arm.name: score_arm(models.ours, preset, arm, split, index, seed) for arm in arms}

    file = store / f"{experiment}-{asked}-{preset.name}-{split}-{digest[:12]}-seed{seed}.jsonl"
    return digest, score_all(score, episodes, file, part=part)


def file_name(experiment: str, arm: Arm) -> str:
    """An arm's name in file names."""
    return f"{experiment}_{arm.name.replace(' ', '_').replace('.', 'p')}"


def compare_arms(results: list[dict[str, Any]], metric: str = "psnr_recall") -> str:
    """Every arm's mean, and its paired difference from the first arm, as a table in Markdown."""
    lines = [f"| arm | {metric} ({METRICS[metric]}) | minus {results[0]['arm']['name']} | n |", "|---|---|---|---|"]
    first = np.array(results[0]["per_episode"][metric], float)
    for number, result in enumerate(results):
        row = next(row for row in result["rows"] if row["metric"] == metric)
        own = np.array(result["per_episode"][metric], float)
        difference = paired_difference(own, first, np.arange(len(own)))
        gain = in_words(difference, "+") if number else "–"
        lines.append(f"| {result['arm']['name']} | {in_words(row)} | {gain} | {row['n']} |")
    return "\n".join(lines)


def summarise(results: list[dict[str, Any]], metric: str = "psnr_recall") -> dict[str, Any]:
    """All arms in one result, for the ledger: rows, every later arm minus every earlier, and ratios."""
    names = [result["arm"]["name"] for result in results]
    values = [np.array(result["per_episode"][metric], float) for result in results]
    scenes = np.arange(len(values[0]))
    pairs = [(later, first) for later in range(len(names)) for first in range(later)]
    gain = {f"{names[a]} - {names[b]}": vars(paired_difference(values[a], values[b], scenes)) for a, b in pairs}
    rows = [row for result in results for row in result["rows"]]
    if results[0]["experiment"] in RETAINED:
        rows += [row for at in range(2, len(results), 2) for row in retentions(results[:2], results[at : at + 2])]
    provenance = ("experiment", "preset", "split", "weights_sha256", "commit", "seed", "episodes", "inference_steps")
    stored = {
        (name, metric): each
        for name, result in zip(names, results, strict=True)
        for metric, each in result["per_episode"].items()
    }
    asked = f"{folder_of(KIND, results[0]['preset']).name}/{results[0]['experiment']}"
    ratio = asked_ratios(asked, lambda *asked: stored.get(asked), scenes)
    found = {"rows": rows, "gain": gain, "ratio": ratio}
    return {name: results[0][name] for name in provenance} | found


def retentions(inside: list[dict[str, Any]], outside: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of ``KEPT``: what is left out of domain; each side is an arm with context and one without."""
    rows = []
    for name, metric in KEPT.items():
        with_context, without, far, far_without = (
            np.array(result["per_episode"][metric], float) for result in (*inside, *outside)
        )
        kept = paired_ratio(far - far_without, with_context - without, np.arange(len(far)))
        rows.append(Row(outside[0]["arm"]["name"], name, "1", **vars(kept), failed=0).to_json())
    return rows


@command("scored episodes are kept; run the same command to go on")
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m v4s_lib.evaluation.experiments", description=__doc__)
    parser.add_argument("experiment", choices=list(EXPERIMENTS))
    parser.add_argument("--preset", default="small")
    parser.add_argument("--split", default="test", choices=["validation", "test"])
    parser.add_argument("--episodes", type=int, default=128, help="one a room (default: 128)")
    parser.add_argument("--workers", type=int, default=1, help="processes that share out the episodes (default: 1)")
    parser.add_argument("--out", type=Path, help="folder of the results (default: the preset's among those that ship)")
    parser.add_argument("--store", type=Path, default=Path("runs/experiments"), help="scored episodes, to go on from")
    args = parser.parse_args(arguments)
    if args.episodes < 2:
        raise ValueError(f"expected 2 episodes or more, got {args.episodes}: an interval needs two rooms, ask for more")
    arms, asked = EXPERIMENTS[args.experiment], (args.split, args.episodes)
    results = run_arms(args.experiment, arms, get_preset(args.preset), *asked, store=args.store, workers=args.workers)
    out = args.out or folder_of(KIND, args.preset)
    for arm, result in zip(arms, results, strict=True):
        save_results(result, out / f"{file_name(args.experiment, arm)}.json")
    metric = "if_sd02" if arms[0].seeks else "psnr_recall"
    save_results(summarise(results, metric), out / f"{args.experiment}.json")
    print(compare_arms(results, metric))


if __name__ == "__main__":
    sys.exit(main())
