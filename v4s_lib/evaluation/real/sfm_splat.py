"""The classical baseline: structure from motion on the unposed video, then point splatting along the path (DESIGN §7).

``python -m v4s_lib.evaluation.real.sfm_splat --height 256 --width 416 --rooms 4`` scores it in rendered rooms and says
how often it fails. A failure shows the mean of the context, and is scored like every other video.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.interpolate import griddata
from torch import Tensor

from v4s_lib.command import command
from v4s_lib.data.navigation import NavigationEpisode, navigation_episode
from v4s_lib.data.provenance import current_commit
from v4s_lib.data.rooms import RoomTask
from v4s_lib.data.windows import grouped_frames, sample_context
from v4s_lib.evaluation.baselines import context_mean
from v4s_lib.evaluation.following import replayed
from v4s_lib.evaluation.navigation import scenes_of, score_all, store_key, table
from v4s_lib.evaluation.picture import PICTURE_UNITS, picture_measures
from v4s_lib.evaluation.real.reconstruct import Structure, reconstruct
from v4s_lib.evaluation.results import markdown_table, save_results
from v4s_lib.evaluation.splatting import splat, unproject
from v4s_lib.evaluation.statistics import paired_difference
from v4s_lib.training.presets import get_preset
from v4s_lib.worlds.cameras import Camera, inverse, to_room
from v4s_lib.worlds.paths import FRAMES_PER_LATENT

UNITS = PICTURE_UNITS | {"failure": "1", "registered": "1"}
COLUMNS = ["failure", "registered", "psnr_recall", "psnr", "ssim"]  # of the table


def sfm_splat(episode: NavigationEpisode, frames: Tensor, camera: Camera) -> tuple[Tensor | None, float]:
    """The episode's video (F, H, W, 3) from the scan's ``frames`` (R,) and the start frame, and the share registered.

    Poses are not given. The unit of length is taken from them, for a video does not tell it: a favour to the baseline.
    The video is None where there is no structure, or where it does not hold the start frame, from which the path leads.
    Every fourth frame, as many as a latent holds, is splatted; those between show the same.
    """
    rgb = torch.cat([episode.scan.rgb[frames], episode.target.rgb[:1]])
    structure = reconstruct(rgb, camera)
    share = structure.registered.float().mean().item()
    structure = structure.in_metres(torch.cat([episode.scan_c2w[frames], episode.target_c2w[:1]]))
    if structure is None or not structure.registered[-1]:
        return None, share
    shown = structure.registered.nonzero()[:, 0].flip(0)[::FRAMES_PER_LATENT]  # from the start frame backwards
    depth = torch.stack([frame_depth(structure, number, camera) for number in shown.tolist()])
    path = replayed(episode.target_c2w, structure.c2w[-1].float())[1:]
    points = unproject(depth, structure.c2w[shown].float(), camera)
    return torch.cat([rgb[-1:], splat(points, rgb[shown].flatten(0, 2), path, camera)]), share


def frame_depth(structure: Structure, number: int, camera: Camera) -> Tensor:
    """Depth (H, W) of a registered frame from the points it shows.

    One over depth is linear in the pixels of a flat wall: it is interpolated linearly between the points, and is that
    of the nearest one outside of them.
    """
    points = structure.points[structure.seen[number]]
    pixel, far = camera.project(to_room(points, inverse(structure.c2w[number])))
    grid = np.mgrid[0.5 : camera.height, 0.5 : camera.width][::-1].transpose(1, 2, 0)  # x, then y
    between = griddata(pixel.numpy(), 1 / far.numpy(), grid, "linear")
    outside = griddata(pixel.numpy(), 1 / far.numpy(), grid, "nearest")
    return torch.from_numpy(1 / np.where(np.isnan(between), outside, between)).float()


def score_room(split: str, index: int, task: RoomTask) -> dict[str, dict[str, float]]:
    """Picture measures of the baseline and of the context's mean in one room, and whether the baseline failed."""
    episode = navigation_episode(split, index, task)
    latents = (len(episode.scan.rgb) - 1) // FRAMES_PER_LATENT + 1
    generator = torch.Generator().manual_seed(index)
    frames = grouped_frames(sample_context(latents, task.context_latents, generator)).flatten().unique()
    clip, share = sfm_splat(episode, frames, task.camera)
    mean = context_mean(episode.target.rgb[0], episode.scan.rgb[frames], len(episode.target_c2w))
    known = episode.known(frames, task.camera)
    clips = {"sfm_splat": mean if clip is None else clip, "context_mean": mean}
    scores = {name: picture_measures(video, episode.target.rgb, known, True) for name, video in clips.items()}
    scores["sfm_splat"] |= {"failure": float(clip is None), "registered": share}
    return scores


def compare(lines: list[dict]) -> dict[str, Any]:
    """Rows of all scored rooms, and by how many decibels over recalled pixels the baseline is ahead of the mean."""
    scores = [[line["methods"][method]["psnr_recall"] for line in lines] for method in ("sfm_splat", "context_mean")]
    gain = paired_difference(*(np.array(values, float) for values in scores), scenes_of(lines))
    return {"rows": table(lines, UNITS), "gain": {"sfm_splat - context_mean": gain.to_json()}}


@command("scored rooms are kept; run the same command to go on")
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m v4s_lib.evaluation.real.sfm_splat", description=__doc__)
    parser.add_argument("--height", type=int, default=32, help="of the frames, pixels (default: 32)")
    parser.add_argument("--width", type=int, default=48, help="of the frames, pixels (default: 48)")
    parser.add_argument("--split", default="validation", choices=["validation", "test"])
    parser.add_argument("--rooms", type=int, default=8, help="one episode each (default: 8)")
    parser.add_argument("--store", type=Path, default=Path("runs/evaluation"), help="scored rooms, to go on from")
    parser.add_argument("--json", type=Path, help="file for the figures and where they come from")
    args = parser.parse_args(arguments)
    preset = get_preset("small")
    task = replace(preset.task, camera=Camera(args.height, args.width))
    store = args.store / f"sfm_splat-{args.height}x{args.width}-{args.split}-{store_key(preset)}.jsonl"
    found = compare(score_all(lambda index: score_room(args.split, index, task), args.rooms, store))
    facts = {"split": args.split, "height": args.height, "width": args.width, "episodes": args.rooms}
    if args.json is not None:
        save_results(facts | {"commit": current_commit()} | found, args.json)
    print(markdown_table(facts | found, COLUMNS))


if __name__ == "__main__":
    sys.exit(main())
