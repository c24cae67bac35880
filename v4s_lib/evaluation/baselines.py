"""Plain baselines, each a pure function from arrays to a video, and our model told the truth (DESIGN §7).

Every method is handed the start frame, so each of the plain ones returns it as frame 0.
"""

from contextlib import AbstractContextManager

import torch
from torch import Tensor

from v4s_lib.data.windows import grouped_frames
from v4s_lib.model.localizer import Told
from v4s_lib.model.transformer import ContextVideoTransformer
from v4s_lib.training.loss import teacher_forcing
from v4s_lib.worlds.cameras import Camera, inverse
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


def true_poses(scan_c2w: Tensor, context_index: Tensor, start: Tensor, path: Tensor) -> tuple[Tensor, Tensor]:
    """Where everything stands, in the axes of the last context frame, as later blocks are told it.

    Args:
        scan_c2w: (F, 4, 4) of the scan's frames.
        context_index: (P,) which of its latents are the context.
        start: (4, 4) c2w of the start frame.
        path: (B, T, 4, 4, 4) relative to it.

    Returns:
        poses of the context's frames (1, P, 4, 4, 4) and of the targets' (B, T, 4, 4, 4).
    """
    frames = grouped_frames(context_index)
    to_axes = inverse(scan_c2w[frames[-1, -1]])
    return (to_axes @ scan_c2w[frames])[None], to_axes @ start @ path


def posed(model: ContextVideoTransformer, poses: tuple[Tensor, Tensor]) -> AbstractContextManager:
    """For as long as it lasts, the model is told ``true_poses`` in place of what it works out; depths are its own.

    No legal input: it shows what better localizing could gain. The model has no argument for poses.
    """
    return teacher_forcing(model, Told(*poses))
