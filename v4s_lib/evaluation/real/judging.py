"""Is it this scene, and is the object there? The judges of grounding on scans that cannot be rendered (DESIGN §7).

``judges.judge`` gives the verdict, as in rendered rooms. Only what it is told comes from elsewhere: the distance from
the scan's points, the score from an open-vocabulary detector, and the limits from the scans themselves.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from v4s_lib.evaluation.calibrate import TRUTH_PASSES
from v4s_lib.evaluation.judges import Limits, largest_change
from v4s_lib.evaluation.real.detect import Detector
from v4s_lib.evaluation.real.locate import PointFinder
from v4s_lib.model.cloud import CLOSEST
from v4s_lib.model.weights import weights_digest
from v4s_lib.worlds.cameras import inverse, to_room

LEAST_POINTS = 20  # that a camera must have before it for a frame to be compared with them; our choice


def point_distance(finder: PointFinder, frames: Tensor) -> Tensor:
    """How far (N,) frames (N, H, W, 3) are from the nearest view of the scan; over ``Limits.other_room`` it is the SD.

    A view is where the scan's points fall in a picture, with their colours. It is compared with the frame's colours
    there: the squared error over the contrast of both, 0 for equal pictures, about 1 for unrelated or grey ones. The
    views are those of the scan's own cameras and of the camera that the frame is located at, if it is. Points that
    something hides are not left out: they are too sparse to hide each other.
    """
    found = finder.find(frames)
    scan = finder.structure.c2w[finder.structure.registered].float()
    distances = []
    for frame, c2w, residual in zip(frames, found.c2w, found.residual, strict=True):
        cameras = scan if residual == 1 else torch.cat([scan, c2w[None]])
        distances.append(min(_view_distance(finder, frame, camera) for camera in cameras))
    return torch.tensor(distances)


def _view_distance(finder: PointFinder, frame: Tensor, c2w: Tensor) -> float:
    camera, structure = finder.camera, finder.structure
    pixel, far = camera.project(to_room(structure.points.float(), inverse(c2w)))
    place = pixel / torch.tensor([camera.width / 2, camera.height / 2]) - 1  # -1..1 over the picture
    shown = (far > CLOSEST) & (place.abs() < 1).all(dim=-1)
    if shown.sum() < LEAST_POINTS:
        return 1.0
    painted = grid_sample(frame.permute(2, 0, 1)[None], place[shown][None, None], align_corners=False)[0, :, 0].T
    colors = structure.colors[shown]
    contrast = painted.var(dim=0).mean() + colors.var(dim=0).mean()
    return ((painted - colors).square().mean() / contrast.clamp(min=1e-4)).item()


def scan_limits(finders: list[PointFinder], clips: list[Tensor], labels: list[str], detector: Detector) -> Limits:
    """The judges' limits, from true clips (F, H, W, 3) that end on an object; chosen on validation scans.

    Args:
        finders: one a scan, two or more.
        clips: one a scan, up to the last frame before the box.
        labels: of the objects in the middle of the clips' last frames.
        detector: the judge of pixels.
    """
    if not 2 <= len(finders) == len(clips) == len(labels):
        counts = f"{len(finders)}, {len(clips)} and {len(labels)}"
        raise ValueError(f"expected a finder, a clip and a label for each of 2 scans or more, got {counts}: match them")
    others = zip(finders, clips[1:] + clips[:1], strict=True)
    scores = [detector.score(clip[-1:], [label]).item() for clip, label in zip(clips, labels, strict=True)]
    return Limits(
        least_score=float(np.quantile(scores, 1 - TRUTH_PASSES)),
        other_room=float(np.median([point_distance(finder, clip[-1:]).item() for finder, clip in others])),
        most_change=float(np.quantile([largest_change(clip) for clip in clips], 0.99)),
        reader_sha256=weights_digest(detector.model),
    )
