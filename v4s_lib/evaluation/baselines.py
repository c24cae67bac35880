"""Plain baselines, each a pure function from arrays to a video (DESIGN §7).

Every method is handed the start frame, so each of these returns it as frame 0.
"""

import torch
from torch import Tensor

from v4s_lib.worlds.cameras import Camera
from v4s_lib.worlds.visibility import covisibility


def repeat_start(start: Tensor, frames: int) -> Tensor:
    """The start frame (H, W, 3) again and again: a video (F, H, W, 3) that follows no instruction."""
    return start.expand(frames, *start.shape).clone()


def context_mean(start: Tensor, context: Tensor, frames: int) -> Tensor:
    """The mean of the context frames (R, H, W, 3): the room's colours and no place in it. Returns (F, H, W, 3)."""
    return torch.cat([start[None], context.mean(dim=0, keepdim=True).expand(frames - 1, *start.shape)])


def nearest_true_pose(
    start: Tensor,
    context: Tensor,
    context_depth: Tensor,
    context_c2w: Tensor,
    target_depth: Tensor,
    target_c2w: Tensor,
    camera: Camera,
) -> Tensor:
    """For each target frame the context frame that has seen most of its pixels, by true poses and depths.

    No legal input of the model: it shows what perfect retrieval without any drawing would reach.

    Args:
        start: (H, W, 3).
        context: (R, H, W, 3), with depth (R, H, W) and c2w (R, 4, 4).
        target_depth: (F, H, W) of the ground truth, with target_c2w (F, 4, 4); frame 0 is the start frame.
        camera: intrinsics of all frames.

    Returns:
        (F, H, W, 3).
    """
    share = covisibility(target_depth, target_c2w, context_depth, context_c2w, camera)
    return torch.cat([start[None], context[share[1:].argmax(dim=1)]])
