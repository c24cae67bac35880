"""Does the generated camera follow the instructed path? The measures of camera following (DESIGN §7).

Every looked-at frame is explained by a camera of the true room (``CameraFinder``). A frame that no camera of the room
explains is a failure: it counts as wrong, with the error of a path that has nothing to do with the instructed one.
"""

import torch
from torch import Tensor

from v4s_lib.data.navigation import NavigationEpisode
from v4s_lib.evaluation.camera import CameraFinder
from v4s_lib.evaluation.judges import limits_of, view_distance
from v4s_lib.training.presets import Preset
from v4s_lib.worlds.cameras import inverse, rotation_angle, translation_distance

FOLLOWING_UNITS = {"navigation_accuracy": "1", "rotation_error": "deg", "translation_error": "m", "sd": "1"}
LOOKED_AT = (0.45, 0.7, 1.0)  # shares of the clip's length; each frame costs about a seventh of a second
MAX_ROTATION, MAX_TRANSLATION = 5.0, 0.25  # degrees and metres, of a followed frame (DESIGN §7)
# A frame is a failure if no camera explains it better than another room's frames are explained (95% of them lie above
# 0.43, those of the ground truth below 0.04; 10 validation rooms), or if it has too little contrast to tell one camera
# from another, as grey frames and means have (rms; the ground truth's least is 0.12, 12 validation rooms).
MAX_RESIDUAL, MIN_CONTRAST = 0.4, 0.1


def looked_at(frames: int) -> list[int]:
    """Numbers of the frames whose camera is found, never the start frame."""
    return [max(1, round(share * (frames - 1))) for share in LOOKED_AT]


def replayed(path: Tensor, start: Tensor) -> Tensor:
    """The path (F, 4, 4) moved so that it begins at the pose ``start`` (4, 4)."""
    return start @ inverse(path[0]) @ path


def contrast(frames: Tensor) -> Tensor:
    """Root mean square (N,) of the pixels' difference from their frame's mean colour; frames are (N, H, W, 3)."""
    return (frames - frames.mean(dim=(1, 2), keepdim=True)).square().mean(dim=(1, 2, 3)).sqrt()


def following_measures(
    clips: dict[str, Tensor], episode: NavigationEpisode, unrelated: Tensor, preset: Preset
) -> dict[str, dict[str, float]]:
    """Camera measures of each clip (F, H, W, 3) and of two rows for scale, over ``looked_at`` frames.

    Args:
        clips: one clip a method; the truth's own has the floor that the finder itself leaves.
        episode: the room and the instructed path.
        unrelated: (F, 4, 4) a path in the room that has nothing to do with the instructed one.
        preset: of the episode.

    Returns:
        per method the measures of ``FOLLOWING_UNITS``, and ``failed_frames``. ``shuffled`` is the unrelated path's own
        error, ``turn_only`` that of a camera which turns as instructed and never leaves its place. ``sd`` is how far
        the frames are from any view of the room, see judges.
    """
    frames = looked_at(len(episode.target_c2w))
    true, other = episode.target_c2w[frames], unrelated[frames]
    finder = CameraFinder(episode.scenes, preset.task.camera, preset.task.reach)
    pictures = torch.cat([clip[frames] for clip in clips.values()])
    found = finder.find(pictures)
    lost = (found.residual > MAX_RESIDUAL) | (contrast(pictures) < MIN_CONTRAST)
    wrong = (rotation_angle(other, true), translation_distance(other, true))
    distance = view_distance(finder, pictures, found.c2w) / limits_of(preset.name).other_room
    none = torch.zeros(len(frames), dtype=torch.bool)
    still = episode.target_c2w[:1].expand_as(true)
    measures = {
        "shuffled": _measures(*wrong, none),
        "turn_only": _measures(torch.zeros(len(frames)), translation_distance(still, true), none),
    }
    cameras, failures, distances = (part.split(len(frames)) for part in (found.c2w, lost, distance))
    for name, c2w, failed, far in zip(clips, cameras, failures, distances, strict=True):
        rotation = torch.where(failed, wrong[0], rotation_angle(c2w, true))
        translation = torch.where(failed, wrong[1], translation_distance(c2w, true))
        measures[name] = _measures(rotation, translation, failed) | {"sd": far.mean().item()}
    return measures


def _measures(rotation: Tensor, translation: Tensor, failed: Tensor) -> dict[str, float]:
    followed = (rotation < MAX_ROTATION) & (translation < MAX_TRANSLATION) & ~failed
    return {
        "navigation_accuracy": followed.float().mean().item(),
        "rotation_error": rotation.mean().item(),
        "translation_error": translation.mean().item(),
        "failed_frames": int(failed.sum()),
    }
