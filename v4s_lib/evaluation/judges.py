"""Did it find what was named, in this room, without a cut? The judges of grounding (DESIGN §7).

Every judge looks at generated pixels. What a judge is allowed to know besides: the named object (IF), the room's
geometry and colours (SD). Their limits come from ``python -m v4s_lib.evaluation.calibrate``, on validation rooms.
"""

import json
from dataclasses import asdict, dataclass
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest
from skimage.metrics import structural_similarity
from torch import Tensor
from torch.nn.functional import avg_pool2d

from v4s_lib.data.boxes import BOX_COLOR, line_width
from v4s_lib.data.manifests import MANIFESTS
from v4s_lib.data.provenance import current_commit
from v4s_lib.evaluation.camera import CameraFinder
from v4s_lib.evaluation.reader import ObjectReader
from v4s_lib.evaluation.statistics import LEVEL
from v4s_lib.worlds.cameras import Camera
from v4s_lib.worlds.raycast import render

LIMITS = MANIFESTS / "results" / "judges.json"  # of preset small, and of smoke, whose clips are of its kind
GATES = {"sd02": 0.2, "sd01": 0.1}
JUDGED = 32  # rows of the frames that are compared, which the limits were set on; larger ones are averaged down
SSIM = {"channel_axis": -1, "data_range": 1.0, "win_size": 15}  # pixels, nearly half of the height; our choice
BOX_STRENGTH = 0.4  # of the way from a pixel's colour to the box's, at least, for it to be of the box; our choice
BOX_PIXELS = 8  # of the box, at least, for one to be there; the smallest there is has 14


@dataclass(frozen=True)
class Limits:
    """What the judges were calibrated to, and with which reader."""

    least_score: float  # of the reader, for an object to count as found
    other_room: float  # median distance of a frame from the best view of another room: SD = 1
    most_change: float  # mean absolute change of a pixel from one frame to the next, at most, of smooth motion
    reader_sha256: str  # of the reader's parameters


def limits_file(preset: str) -> Path:
    """Where the limits of a preset are: its clips may be longer than those of ``small``, and change less."""
    return LIMITS if preset in ("small", "smoke") else LIMITS.with_stem(f"{LIMITS.stem}_{preset}")


def load_limits(path: Path = LIMITS) -> Limits:
    """The calibrated limits that ship with the kit."""
    if not path.is_file():
        raise FileNotFoundError(
            f"expected calibrated limits in {path}, got nothing there: run "
            "python -m v4s_lib.evaluation.calibrate, with the --preset that they are for"
        )
    return Limits(**json.loads(path.read_text())["limits"])


def limits_of(preset: str) -> Limits:
    """The limits that clips of a preset are judged by."""
    return load_limits(limits_file(preset))


def spatial_distance(finder: CameraFinder, frames: Tensor, limits: Limits) -> tuple[Tensor, Tensor]:
    """SD (N,) of frames (N, H, W, 3) from the finder's room, and the cameras (N, 4, 4) that explain them best.

    In units of what another room leaves: 0 is this room, 1 is some other. It is our scale, not the paper's.
    """
    c2w = finder.find(frames).c2w
    return view_distance(finder, frames, c2w) / limits.other_room, c2w


def view_distance(finder: CameraFinder, frames: Tensor, c2w: Tensor) -> Tensor:
    """How far (N,) frames (N, H, W, 3) are from the views of the finder's room from ``c2w`` (N, 4, 4).

    Half is the squared error over the contrast of both pictures, which a grey frame cannot keep small. Half is the
    structure that is missing (1 - SSIM), which a blurred frame cannot. Unrelated pictures are about 1 apart. Frames are
    compared at ``JUDGED`` rows, whatever they have.
    """
    factor = max(1, finder.camera.height // JUDGED)
    camera = Camera(finder.camera.height // factor, finder.camera.width // factor, finder.camera.horizontal_fov)
    frames = avg_pool2d(frames.permute(0, 3, 1, 2), factor).permute(0, 2, 3, 1) if factor > 1 else frames
    room = torch.zeros(len(c2w), dtype=torch.long)
    views = render(finder.scenes, room, c2w, camera, samples=3, chunk=8).rgb
    contrast = frames.var(dim=(1, 2)).mean(dim=1) + views.var(dim=(1, 2)).mean(dim=1)
    error = (frames - views).square().mean(dim=(1, 2, 3)) / contrast.clamp(min=1e-4)
    pairs = zip(frames.double().numpy(), views.double().numpy(), strict=True)
    alike = [structural_similarity(*pair, full=True, **SSIM)[1].mean() for pair in pairs]  # to the very edge
    return (error + 1 - torch.tensor(alike)).float() / 2


def largest_change(clip: Tensor) -> float:
    """The largest mean absolute change of a pixel between consecutive frames of a clip (F, H, W, 3)."""
    return (clip[1:] - clip[:-1]).abs().mean(dim=(1, 2, 3)).max().item()


def read_box(before: Tensor, frame: Tensor) -> Tensor | None:
    """First and last row and column (4,) inside the box that is drawn in a frame (H, W, 3), or None without one.

    A pixel of the box has come from its colour in ``before``, the last frame without a box, nearer to the box's; a wall
    that has that colour anyway has not. Five in a hundred pixels may stray, on every side.
    """
    way = frame.new_tensor(BOX_COLOR) - before
    gone = ((frame - before) * way).sum(dim=-1) / way.square().sum(dim=-1).clamp(min=0.1)
    drawn = (gone > BOX_STRENGTH).nonzero()
    if len(drawn) < BOX_PIXELS:
        return None
    ends = drawn.float().quantile(torch.tensor([0.05, 0.95]), dim=0).round().long()
    (top, left), (bottom, right) = ends.tolist()
    line = line_width(len(frame))
    if bottom - top < 2 * line or right - left < 2 * line:
        return None
    return torch.tensor([top + line, bottom - line, left + line, right - line])


def box_overlap(first: Tensor, second: Tensor) -> float:
    """Intersection over union of two boxes (4,), given by first and last rows and columns."""
    low, high = torch.maximum(first[[0, 2]], second[[0, 2]]), torch.minimum(first[[1, 3]], second[[1, 3]])
    both = (high - low + 1).clamp(min=0).prod().item()
    areas = [(box[[1, 3]] - box[[0, 2]] + 1).prod().item() for box in (first, second)]
    return both / (sum(areas) - both)


def judge(clips: Tensor, last: int, label: str, reader: ObjectReader, sd: Tensor, limits: Limits) -> list[dict]:
    """The verdict on each clip (N, F, H, W, 3).

    Args:
        clips: generated, start frame included.
        last: number of the last frame before the box tail.
        label: of the object that should be in its middle.
        reader, limits: the judge of pixels, and what it was calibrated to.
        sd: (N,) of the clips' frames ``last``.
    """
    scores = reader.score(clips[:, last], [label] * len(clips)).tolist()
    verdicts = []
    for clip, score, distance in zip(clips, scores, sd.tolist(), strict=True):
        found, smooth = score >= limits.least_score, largest_change(clip[: last + 1]) <= limits.most_change
        verdict = {"if": float(found), "sd": distance, "smooth": float(smooth)}
        for name, gate in GATES.items():
            verdict[f"if_{name}"] = float(found and smooth and distance < gate)
        verdicts.append(verdict)
    return verdicts


def best_of(passed: int, samples: int, k: int) -> float:
    """Chance that one of ``k`` samples passes, drawn without repeats from ``samples`` of which ``passed`` do."""
    return 1 - comb(samples - passed, k) / comb(samples, k)


def judged_right(judge: str, frames: str, values: np.ndarray, least_score: float) -> np.ndarray:
    """Which of a gate's frames count, by their SD or the reader's score (R,).

    Of SD: the truth that passes, and false frames that are stopped. Of IF: all that pass, as they should or not.
    """
    if judge == "sd":
        return values < 0.1 if frames == "ground truth" else values > 0.2
    return values >= least_score


def gate_interval(found: dict[str, Any], judge: str, frames: str) -> tuple[float, float] | None:
    """The 95% interval (Wilson) of the share of frames, one a room, that a judge lets pass or stops.

    None where what it said of each room is not stored.
    """
    values = found["gates"].get("distances" if judge == "sd" else "scores", {}).get(frames)
    if values is None:
        return None
    right = judged_right(judge, frames, np.array(values), found["limits"]["least_score"])
    share = binomtest(int(right.sum()), len(right)).proportion_ci(LEVEL, method="wilson")
    return float(share.low), float(share.high)


def save_limits(limits: Limits, gates: dict, path: Path = LIMITS) -> None:
    """Write the limits with the shares that they were calibrated to, and the commit of the code."""
    path.parent.mkdir(parents=True, exist_ok=True)
    found = {"commit": current_commit(), "limits": asdict(limits), "gates": gates}
    path.write_text(json.dumps(found, indent=1) + "\n")
