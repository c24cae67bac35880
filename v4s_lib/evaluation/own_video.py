"""A video of your own as the context: any file, no cameras, no objects; the model goes on from one of its frames.

Nothing measures how good the result is, for nobody knows the truth: look at it.
"""

from pathlib import Path

import torch
from torch import Tensor

from v4s_lib.data.fitting import fit_frames
from v4s_lib.data.sources import whole_latents
from v4s_lib.data.video import count_frames, read_frames, spread
from v4s_lib.model.pipeline import Video4SpatialOutput, Video4SpatialPipeline
from v4s_lib.training.presets import Preset
from v4s_lib.worlds.paths import latent_frames


def read_scan(video: str | Path, preset: Preset) -> Tensor:
    """Frames (F, H, W, 3) in 0..1 of a video file, of the preset's size, at most as many as in its longest scans.

    Frames are taken evenly over the video: one made for 30 frames a second tells little new in each. A slow walk around
    the middle of a room, about 45 degrees a second, comes close to what the model was trained on.
    """
    count, most = count_frames(video), latent_frames(preset.task.scan_latents[1])
    camera = preset.task.camera
    return fit_frames(read_frames(video, spread(count, most)), camera.height, camera.width).float() / 255


def navigate(
    pipeline: Video4SpatialPipeline, preset: Preset, scan: Tensor, path: Tensor, start: int = -1, seed: int = 0
) -> Video4SpatialOutput:
    """Go on from a frame of a scan along a path.

    Args:
        pipeline, preset: from ``load_pipeline``.
        scan: (F, H, W, 3) from ``read_scan``; where it is short, all of its latents are the context.
        path: (4k+1, 4, 4) c2w of the frames to generate, any axes, metres: only poses relative to the first count.
        start: number of the scan's frame to go on from; the last one by default.
        seed: of the noise and of the context that is drawn.
    """
    if not -len(scan) <= start < len(scan):
        raise ValueError(f"expected a start frame out of the scan's {len(scan)}, got {start}: choose one of them")
    return follow(pipeline, preset, scan, scan[start], path, seed)


def follow(
    pipeline: Video4SpatialPipeline,
    preset: Preset,
    scan: Tensor,
    start_frame: Tensor,
    path: Tensor,
    seed: int,
    context: bool = True,
) -> Video4SpatialOutput:
    """One clip as the preset samples, with as many latents of the scan for its context as there are, up to its own.

    Args:
        pipeline, preset, seed: as above.
        scan: (F, H, W, 3) in 0..1.
        start_frame: (H, W, 3) in 0..1.
        path: (4k+1, 4, 4) c2w.
        context: False puts noise in the place of the scan's latents.
    """
    return pipeline(
        scan if context else None,
        start_frame[None],
        path[None],
        num_context_latents=min(preset.task.context_latents, whole_latents(len(scan), 1)),
        num_inference_steps=preset.inference_steps,
        guidance_scale=preset.guidance_scale,
        generator=torch.Generator().manual_seed(seed),
    )
