"""Where was this frame taken? Camera following on a scan that cannot be rendered, by its own points (DESIGN §7).

What ``CameraFinder`` does in a known room, ``PointFinder`` does in a reconstructed one: features of a frame are matched
with the points, and the camera is the one that most matches agree on. Each frame is located by itself, against the scan
alone, so that generated frames cannot support each other.
"""

import numpy as np
import pycolmap
import torch
from torch import Tensor
from torch.nn.functional import normalize

from v4s_lib.evaluation.camera import Found
from v4s_lib.evaluation.following import _measures, looked_at
from v4s_lib.evaluation.real.reconstruct import (
    CPU,
    FEATURES,
    RANSAC,
    REGISTERED,
    Structure,
    check_frames,
    pinhole,
    pixels,
)
from v4s_lib.worlds.cameras import Camera, rotation_angle, translation_distance

MAX_RATIO = 0.8  # of a match: how far its point is over how far the next one is; COLMAP's default
MAX_ERROR = 4.0  # pixels between a feature and its point; COLMAP's 12 are for photographs, 416x256 is the paper's size
# Matches that agree on a camera, at least, for it to be one: of a true frame 79 or more do, of another room's at most 6
# (20 frames each, of two rooms with walls of random texture, at 208x128 and at 416x256).
MIN_AGREE = REGISTERED


class PointFinder:
    """Finds cameras in one scan; made once a scan, used for the frames of every method.

    Args:
        structure: of the scan, in metres.
        camera: intrinsics of the frames that are looked at.
    """

    def __init__(self, structure: Structure, camera: Camera) -> None:
        self.structure, self.camera = structure, camera
        self.extractor = pycolmap.FeatureExtractor.create(FEATURES, CPU)

    def find(self, frames: Tensor) -> Found:
        """The camera of each frame (N, H, W, 3) in 0..1; the residual is the share of its matches that disagree.

        A frame that fails, for lack of matches or of agreement, has residual 1 and the identity for a camera.
        """
        check_frames(frames, self.camera)
        c2w, residual = torch.eye(4).repeat(len(frames), 1, 1), torch.ones(len(frames))
        options = {"ransac": RANSAC | {"max_error": MAX_ERROR}}
        for number, frame in enumerate(pixels(frames)):
            places, points = self._matches(frame)
            if len(places) < MIN_AGREE:
                continue
            answer = pycolmap.estimate_and_refine_absolute_pose(places, points, pinhole(self.camera), options)
            if answer is not None and answer["num_inliers"] >= MIN_AGREE:
                c2w[number, :3] = torch.from_numpy(answer["cam_from_world"].inverse().matrix())
                residual[number] = 1 - answer["num_inliers"] / len(places)
        return Found(c2w, residual)

    def _matches(self, frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (M, 2) and points (M, 3): each the other's nearest, and no second point nearly as near."""
        grey = pycolmap.Bitmap.from_array(frame).clone_as_grey()
        keypoints, descriptors = self.extractor.extract(grey)
        places = pycolmap.keypoints_to_matrix(keypoints)[:, :2].astype(np.float64)
        if len(places) == 0 or len(self.structure.points) < 2:
            return np.zeros((0, 2)), np.zeros((0, 3))
        described = normalize(torch.tensor(descriptors.data).float(), dim=1)
        distance = torch.cdist(described, self.structure.descriptors)
        (near, second), (point, _) = (part.T for part in distance.topk(2, dim=1, largest=False))
        mutual = distance.argmin(dim=0)[point] == torch.arange(len(point))
        kept = mutual & (near < MAX_RATIO * second)
        return places[kept.numpy()], self.structure.points[point[kept]].numpy()


def following_on_scan(
    clips: dict[str, Tensor], finder: PointFinder, path: Tensor, unrelated: Tensor
) -> dict[str, dict[str, float]]:
    """What ``following_measures`` reports, on a real scan; a frame that is not located counts as the unrelated path.

    Args:
        clips: one clip (F, H, W, 3) a method.
        finder: of the scan.
        path: (F, 4, 4) the instructed one, in the scan's axes.
        unrelated: (F, 4, 4) one in the scan that has nothing to do with it, such as another window's, ``replayed``.
    """
    frames = looked_at(len(path))
    true, other = path[frames], unrelated[frames]
    wrong = (rotation_angle(other, true), translation_distance(other, true))
    measures = {"shuffled": _measures(*wrong, torch.zeros(len(frames), dtype=torch.bool))}
    for name, clip in clips.items():
        found = finder.find(clip[frames])
        failed = found.residual == 1
        rotation = torch.where(failed, wrong[0], rotation_angle(found.c2w, true))
        translation = torch.where(failed, wrong[1], translation_distance(found.c2w, true))
        measures[name] = _measures(rotation, translation, failed)
    return measures
