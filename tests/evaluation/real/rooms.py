"""Rooms with texture enough for SIFT at 128x208: every texel, about 16 cm wide, has a random colour."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from v4s_lib.data.navigation import NavigationEpisode, navigation_paths
from v4s_lib.data.rooms import render_one
from v4s_lib.evaluation.real.locate import PointFinder
from v4s_lib.evaluation.real.reconstruct import reconstruct
from v4s_lib.training.presets import SMALL
from v4s_lib.worlds.cameras import Camera

TASK = replace(SMALL.task, camera=Camera(128, 208), samples=1)


@dataclass
class Scanned:
    """A room, its scan and what is known of it from the scan with its poses."""

    episode: NavigationEpisode
    unrelated: Tensor  # (5, 4, 4) a path that turns elsewhere
    finder: PointFinder


def scanned(index: int, step: int) -> Scanned:
    """Validation room ``index``: every ``step``-th frame of its scan, and five frames of its path."""
    scenes, scan, target = navigation_paths("validation", index, TASK)
    scenes.textures = torch.rand(scenes.textures.shape, generator=torch.Generator().manual_seed(index))
    scan, target = scan[:, ::step], target[:, ::7]
    shown = render_one(scenes, scan, TASK)
    episode = NavigationEpisode(scenes, shown, scan[0], render_one(scenes, target, TASK), target[0])
    finder = PointFinder(reconstruct(shown.rgb, TASK.camera, scan[0]), TASK.camera)
    return Scanned(episode, scan[0, [0, 6, 2, 8, 4]], finder)
