"""A scan of your own with cameras, as the readers write it: the model goes on in it, and the scan is the truth."""

from torch import Tensor

from v4s_lib.data.sources import whole_latents
from v4s_lib.evaluation.own_video import follow
from v4s_lib.model.pipeline import Video4SpatialOutput, Video4SpatialPipeline
from v4s_lib.training.presets import Preset
from v4s_lib.worlds.paths import FRAMES_PER_LATENT, latent_frames


def go_on(
    pipeline: Video4SpatialPipeline, preset: Preset, frames: Tensor, c2w: Tensor, context: bool = True, seed: int = 0
) -> Video4SpatialOutput:
    """Generate the last window of a scan again, from its first frame, its path, and what was seen before the gap.

    The layout is that of training: scan, gap, target. The scan's last ``len(output.frames[0])`` frames are the truth.

    Args:
        pipeline, preset: from ``load_pipeline``.
        frames: (F, H, W, 3) in 0..1, of the preset's size. Of a long scan, as many before the gap as in training count.
        c2w: (F, 4, 4), OpenCV axes, metres; those of the window steer, the others are not looked at.
        context: False leaves the context out; the noise stays the same.
        seed: of the noise and of the context that is drawn.
    """
    task = preset.task
    start = len(frames) - latent_frames(task.target_latents)
    end = start - FRAMES_PER_LATENT * (task.gap + 1) + 1  # the start frame is the last of its latent
    if end < 1 or len(c2w) != len(frames):
        least = len(frames) - end + 1
        raise ValueError(
            f"expected {least} frames or more with a pose each, got {len(frames)} and {len(c2w)} poses: film longer"
        )
    latents = min(task.scan_latents[1], whole_latents(end, 1))
    seen = frames[end - latent_frames(latents) : end]
    return follow(pipeline, preset, seen, frames[start], c2w[start:], seed, context)
