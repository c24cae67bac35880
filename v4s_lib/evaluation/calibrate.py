"""``python -m v4s_lib.evaluation.calibrate``: set the limits of grounding's judges on validation rooms, and check them.

No model is looked at. The limits come from the ground truth; the gates then ask whether the judges let the truth pass
and stop what is not it (DESIGN §7). Everything is stored, for the figure in notebook 06.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from skimage.filters import gaussian
from torch import Tensor
from tqdm.auto import tqdm

from v4s_lib.command import check_counts, command
from v4s_lib.data.grounding import GroundingEpisode, grounding_episode
from v4s_lib.data.video import through_file
from v4s_lib.evaluation.camera import CameraFinder
from v4s_lib.evaluation.grounding import REACH, other_label
from v4s_lib.evaluation.judges import (
    Limits,
    judged_right,
    largest_change,
    limits_file,
    save_limits,
    view_distance,
)
from v4s_lib.evaluation.reader import ObjectReader, load_reader
from v4s_lib.model.codec import PatchCodec
from v4s_lib.model.weights import weights_digest
from v4s_lib.training.presets import Preset, get_preset

TRUTH_PASSES = 0.975  # share of true last frames in which the reader is to find the object
NAMED = {  # what else is asked of the true last frame, and what that shares with the object in its middle
    "another object named": None,
    "another kind of that colour named": "color",
    "another colour of that kind named": "kind",
}
BLUR = 1 / 12  # of the width, of the blurred frames that are to be told from sharp ones; our choice


def frames_to_tell(episode: GroundingEpisode, other: GroundingEpisode, preset: Preset) -> dict[str, Tensor]:
    """Last frames (H, W, 3) that the distance is to tell apart: the truth, and four that are not of this room."""
    truth = episode.target.rgb[-1]
    return {
        "ground truth": as_delivered(episode.target.rgb, preset)[-1],
        "grey": torch.full_like(truth, 0.5),
        "blurred": torch.from_numpy(gaussian(truth.numpy(), BLUR * truth.shape[1], channel_axis=-1)),
        "context mean": episode.scan.rgb.mean(dim=0),
        "other room": other.target.rgb[-1],
    }


def as_delivered(clip: Tensor, preset: Preset) -> Tensor:
    """A clip (F, H, W, 3) as it comes back from a video file and the codec."""
    codec = PatchCodec(preset.patch_size)
    return codec.decode(codec.encode(through_file(clip)[None]))[0]


def calibrate(preset: Preset, reader: ObjectReader, rooms: int, progress: bool = True) -> tuple[Limits, dict]:
    """The limits, set on half of the rooms, and what the gates measure on the others: shares that pass, and values."""
    residuals: dict[str, list[float]] = {}
    scores: dict[str, list[float]] = {"ground truth": [], "start frame": []}
    changes = []
    for index in tqdm(range(rooms), disable=not progress, desc="validation rooms"):
        episode = grounding_episode("validation", index, preset.task)
        other = grounding_episode("validation", index + rooms, preset.task)
        finder = CameraFinder(episode.scenes, preset.task.camera, REACH)
        frames = frames_to_tell(episode, other, preset)
        pictures = torch.stack(list(frames.values()))
        distances = view_distance(finder, pictures, finder.find(pictures).c2w).tolist()
        for name, value in zip(frames, distances, strict=True):
            residuals.setdefault(name, []).append(value)
        label, last = episode.item.label, episode.target.rgb[[-1]]
        scores["ground truth"] += reader.score(as_delivered(episode.target.rgb, preset)[[-1]], [label]).tolist()
        scores["start frame"] += reader.score(episode.target.rgb[:1], [label]).tolist()
        for name, same in NAMED.items():
            scores.setdefault(name, []).extend(reader.score(last, [other_label(episode, same)]).tolist())
        changes.append(largest_change(episode.target.rgb))
    half = rooms // 2
    limits = Limits(
        least_score=float(np.quantile(scores["ground truth"][:half], 1 - TRUTH_PASSES)),
        other_room=float(np.median(residuals["other room"][:half])),
        most_change=float(np.quantile(changes[:half], 0.99)),
        reader_sha256=weights_digest(reader),
    )
    distances = {name: np.array(values[half:]) / limits.other_room for name, values in residuals.items()}
    told = {"distances": distances, "scores": {name: np.array(values[half:]) for name, values in scores.items()}}
    shares = {
        judge: {name: float(judged_right(judge, name, each, limits.least_score).mean()) for name, each in found.items()}
        for judge, found in (("sd", told["distances"]), ("if", told["scores"]))
    }
    values = {kind: {name: each.round(4).tolist() for name, each in found.items()} for kind, found in told.items()}
    return limits, {"preset": preset.name, "rooms": rooms} | shares | values


@command("nothing was written; run the same command again")
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m v4s_lib.evaluation.calibrate", description=__doc__)
    parser.add_argument("--rooms", type=int, default=256, help="validation rooms (default: 256)")
    parser.add_argument("--reader", type=Path, help="folder of a reader (default: the shipped one)")
    parser.add_argument("--preset", default="small", help="whose clips are to be judged (default: small)")
    parser.add_argument("--out", type=Path, help="default: where the preset's limits are looked for")
    args = parser.parse_args(arguments)
    check_counts(least=2, rooms=args.rooms)
    preset = get_preset(args.preset)
    limits, gates = calibrate(preset, load_reader(args.reader), args.rooms)
    save_limits(limits, gates, args.out or limits_file(preset.name))
    print(limits)
    for name, share in gates["sd"].items():
        print(f"SD: {share:.3f} of the {name} frames {'under 0.1' if name == 'ground truth' else 'above 0.2'}")
    for name, share in gates["if"].items():
        print(f"IF: {share:.3f} of the {name} frames pass")


if __name__ == "__main__":
    sys.exit(main())
