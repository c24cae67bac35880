"""``handheld``: a scan as a phone would take it, the stand-in for real video (claim C10).

The hand shakes, a turning camera blurs, exposure and white balance drift, the sensor adds noise, and the file is
compressed hard. The room and the truth stay exact. All strengths are our choice.
"""

from dataclasses import replace

import torch
from torch import Tensor

from v4s_lib.data.navigation import NavigationEpisode
from v4s_lib.data.rooms import RoomTask, render_one
from v4s_lib.data.video import through_file
from v4s_lib.worlds.cameras import turning
from v4s_lib.worlds.scenes import Scenes

SHAKE = (0.012, 0.008)  # standard deviations of a camera's turn, radians, and shift, metres
STEADY = 0.8  # share of shake and drift that is left one frame later
OPEN = 0.5  # share of the time between two frames in which the shutter is open
BLUR_SAMPLES = 3  # moments in it that are rendered
EXPOSURE, WHITE = 0.12, 0.03  # standard deviations of the logarithm of all colours' and of each colour's gain
NOISE = 0.02  # standard deviation, of 1
PHONE_STREAM = 500_000_000  # added to an episode's seed
CRF, PIXELS = 28, "yuv420p"  # of H.264: a quarter of the colour resolution; 6 and all of it in the kit's own files


def handheld(scenes: Scenes, c2w: Tensor, task: RoomTask, generator: torch.Generator) -> Tensor:
    """Frames (F, H, W, 3) in 0..1 of one room from a path (F, 4, 4), as a phone would show them."""
    shaken = shake(c2w, generator)
    rgb = torch.stack([render_one(scenes, poses[None], task).rgb for poses in open_shutter(shaken)]).mean(dim=0)
    gain = (EXPOSURE * drift((len(c2w), 1), generator) + WHITE * drift((len(c2w), 3), generator)).exp()
    noisy = rgb * gain[:, None, None] + NOISE * torch.randn(rgb.shape, generator=generator)
    return through_file(noisy.clamp(0, 1), CRF, PIXELS)


def by_phone(episode: NavigationEpisode, task: RoomTask, seed: int) -> NavigationEpisode:
    """The episode with scan and start frame as a phone would show them; the truth stays as it is.

    ``seed`` is the episode's own, of its sampling noise too: the phone's is drawn from another stream.
    """
    generator = torch.Generator().manual_seed(PHONE_STREAM + seed)
    scan = handheld(episode.scenes, episode.scan_c2w, task, generator)
    start = handheld(episode.scenes, episode.target_c2w[:2], task, generator)[:1]
    return replace(episode, scan=replace(episode.scan, rgb=scan), target=replace(episode.target, rgb=start))


def drift(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Numbers with mean 0 and variance 1 that change smoothly along the first axis."""
    fresh = torch.randn(shape, generator=generator)
    values = [fresh[0]]
    for new in fresh[1:]:
        values.append(STEADY * values[-1] + (1 - STEADY**2) ** 0.5 * new)
    return torch.stack(values)


def shake(c2w: Tensor, generator: torch.Generator) -> Tensor:
    """Poses (F, 4, 4) held by a hand."""
    shaken = c2w.clone()
    shaken[:, :3, :3] = c2w[:, :3, :3] @ turning(SHAKE[0] * drift((len(c2w), 3), generator))
    shaken[:, :3, 3] += SHAKE[1] * drift((len(c2w), 3), generator)
    return shaken


def open_shutter(c2w: Tensor) -> Tensor:
    """Poses (BLUR_SAMPLES, F, 4, 4) while the shutter is open, around those of F frames (F, 4, 4), F > 1."""
    step = torch.cat([c2w[1:], 2 * c2w[-1:] - c2w[-2:-1]]) - c2w
    moments = torch.linspace(-OPEN / 2, OPEN / 2, BLUR_SAMPLES)
    poses = c2w + moments[:, None, None, None] * step
    left, _, right = torch.linalg.svd(poses[..., :3, :3])  # a sum of rotations is nearly one
    poses[..., :3, :3] = left @ right
    return poses
