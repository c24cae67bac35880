"""What makes a window of a scan worth training on: small measures, each of a few tensors, and their bounds.

A window is a target in its scan: the last frame of its first latent is the start frame, the frames of its other latents
follow. Poses and depths are those of the last frame of each latent. Every bound is our choice, with its reason; the
paper's are not known (PAPER.md §6).
"""

import numpy as np
import torch
from skimage.color import rgb2gray
from skimage.measure import blur_effect
from torch import Tensor

from v4s_lib.data.episodes import EpisodeObject
from v4s_lib.data.fitting import fit_frames
from v4s_lib.worlds.cameras import Camera, to_room
from v4s_lib.worlds.visibility import NEAR, seen_in

# Metres from the camera between which a scan without depth has its surfaces, for all that is known: from what stands
# next to a person to the far wall of a large room.
NEAREST, FARTHEST = 0.5, 5.0
# Share of what a window shows that the context has seen: with less than one half, a model learns to invent rather than
# to recall.
LEAST_COVISIBLE = 0.5
# Of the scan's own median. The three demo scans' frames have 0.87 to 1.18, be it a wall or a shelf; blurred by 2% of
# their 48 pixels (rendered with 208: by 0.5%), they have 0.45 to 0.70. A quarter of a window may be worse: it blinks.
LEAST_SHARP, WORST_FRAMES = 0.75, 0.25
# A latent, on average. Over the paper's 40 moving latents less than 0.4 m and 20 degrees: the start frame shows it all.
LEAST_METRES, LEAST_DEGREES = 0.01, 0.5
# A latent, at most. Faster than a person walks at 6 frames a second, or half of a usual picture: tracking was lost.
MOST_METRES, MOST_DEGREES = 1.0, 45.0
# Metres for which a scan of unknown unit counts its median step from latent to latent: the middle of the two bounds. So
# it stands still below a tenth of its median step, and jumps above ten times that.
NOMINAL_STEP = 0.1
# Root mean square, of 255, between small pictures. The demo scans' rooms, rendered with 208x128 pixels, come back at
# 2.3 or less from hard compression (H.264, crf 28); a turn of the camera by 1 degree makes 3.7 or more.
LEAST_AWAY = 3.0
FILTER = 5  # pixels of the blur; the default, 11, tells less at 48x32
SMALL = (16, 24)  # rows and columns of a small picture
BOX_MARGIN = 0.01  # metres: an object's surface lies on its box, and is measured
GOLDEN = 0.6180339887  # its multiples, without their whole part, fill 0..1 evenly


def is_still(metres: Tensor, degrees: Tensor) -> bool:
    """Whether a camera that goes and turns so far from latent to latent (N,) neither walks nor turns."""
    return bool(metres.mean() < LEAST_METRES and degrees.mean() < LEAST_DEGREES)


def is_jumping(metres: Tensor, degrees: Tensor) -> bool:
    """Whether a camera goes or turns farther in one of the steps (N,) than a camera in a hand does."""
    return bool(metres.max() > MOST_METRES or degrees.max() > MOST_DEGREES)


def nominal_scale(metres: Tensor) -> float:
    """What makes ``NOMINAL_STEP`` of the median of a scan's steps (N,), of those in which the camera moves at all."""
    moves = metres[metres > 0]
    return NOMINAL_STEP / moves.median().item() if len(moves) else 1.0


def sharpness(frames: Tensor) -> Tensor:
    """How much detail uint8 frames (F, H, W, 3) would lose if they were blurred, over the median of all: (F,).

    scikit-image's ``blur_effect`` (Crete et al. 2007): unlike the variance of the Laplacian, which varies fourfold over
    the sharp frames of a demo scan, it hardly depends on what there is to see. A frame of one colour has none.
    """
    with np.errstate(invalid="ignore"):
        detail = torch.tensor([1 - blur_effect(rgb2gray(frame), h_size=FILTER) for frame in frames.numpy()])
    detail = detail.nan_to_num(0)
    return detail / detail.median().clamp(min=1e-6)


def window_sharpness(sharpness: Tensor) -> float:
    """What all frames of a window but the worst ``WORST_FRAMES`` reach, of the ``sharpness`` (F,) of each."""
    return sharpness.quantile(WORST_FRAMES).item()


def small_pictures(frames: Tensor) -> Tensor:
    """uint8 frames (F, H, W, 3) as float rows (F, N), in which compression is averaged away."""
    return fit_frames(frames, *SMALL).flatten(1).float()


def least_difference(target: Tensor, context: Tensor) -> float:
    """Root mean square between the two most similar of the small pictures (F, N) and (G, N), of 255."""
    return torch.cdist(target, context).min().item() / target.shape[1] ** 0.5


def nominal_depth(camera: Camera, frames: int) -> Tensor:
    """Depths (F, H, W) for frames of unknown depth, metres: a fixed pattern, even in its logarithm over the range."""
    share = torch.arange(camera.height * camera.width, dtype=torch.float64) * GOLDEN % 1
    depth = NEAREST * (FARTHEST / NEAREST) ** share
    return depth.float().view(1, camera.height, camera.width).expand(frames, -1, -1)


def covisible(
    c2w: Tensor, context_c2w: Tensor, camera: Camera, depth: Tensor | None = None, context_depth: Tensor | None = None
) -> float:
    """Share of what the frames (F, 4, 4) show that at least one context frame (G, 4, 4) shows, too.

    With depths (F, H, W) and (G, H, W) in metres, hidden surfaces do not count. Without, points stand for surfaces at
    ``nominal_depth``, and count where they are in a context frame's frustum up to ``FARTHEST``: nothing hides anything.
    Unknown depths (0) are left out, and a context frame has not seen what is there. Of poses at a ``nominal_scale``
    this is a guess: surfaces are then taken to be 5 to 50 median steps away, which holds for 30 frames a second of a
    slow walk, and not for a path that hardly moves. What turns of the camera share is right at every scale.
    """
    if depth is None or context_depth is None:
        depth = nominal_depth(camera, len(c2w))
        context_depth = torch.full((len(context_c2w), camera.height, camera.width), FARTHEST)
    seen = seen_in(depth, c2w, context_depth, context_c2w, camera)[depth > 0]
    return seen.float().mean().item() if len(seen) else 0.0


def object_mask(item: EpisodeObject, c2w: Tensor, camera: Camera, depth: Tensor | None = None) -> Tensor:
    """Which pixels (F, H, W) of frames with poses (F, 4, 4) show an object, by its box.

    With depth (F, H, W), those whose surface is known (not 0) and lies in the box. Without, those whose ray meets the
    box: nothing hides it, and it fills its box.
    """
    low, high = torch.tensor(item.box_min) - BOX_MARGIN, torch.tensor(item.box_max) + BOX_MARGIN
    rays, origin = camera.rays().flatten(0, 2), c2w[:, None, :3, 3]
    if depth is not None:
        points = to_room(depth.flatten(1)[..., None] * rays, c2w)
        inside = ((points > low) & (points < high)).all(dim=-1) & (depth.flatten(1) > 0)
    else:
        direction = to_room(rays, c2w) - origin
        direction = torch.where(direction.abs() < 1e-6, 1e-6, direction)  # along an axis, it never meets two sides
        enter, leave = (low - origin) / direction, (high - origin) / direction
        first, last = torch.minimum(enter, leave).amax(dim=-1), torch.maximum(enter, leave).amin(dim=-1)
        inside = (first < last) & (last > NEAR)
    return inside.unflatten(1, (camera.height, camera.width))
