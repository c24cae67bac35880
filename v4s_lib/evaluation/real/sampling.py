"""Clips of a curated window of a real scan, for which a model is given what it is given in training (PAPER.md §3).

The context comes from outside of window and gap, and each latent's time index is its place in the scan.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from v4s_lib.data.curation_windows import Window
from v4s_lib.data.episodes import Episode
from v4s_lib.data.sources import whole_latents
from v4s_lib.data.windows import grouped_frames, outside_gap, sample_context
from v4s_lib.model.pipeline import Video4SpatialOutput, Video4SpatialPipeline
from v4s_lib.worlds.paths import FRAMES_PER_LATENT, latent_frames


@dataclass(frozen=True)
class Settings:
    """What is asked of every window, beside the rules by which it was curated."""

    task: str  # one of curation's KINDS
    context_latents: int
    inference_steps: int
    guidance_scale: float = 1.0
    tail_latents: int = 0  # of the box, after a grounding window: as many as the model's targets had in training
    point_frames: int = 84  # of a scan, at most, that give the points by which cameras are found
    seed: int = 0
    tiling: bool = False  # frames are encoded and decoded in tiles


class WindowPipeline(Video4SpatialPipeline):
    """Samples windows of a scan: time indices are places in the scan, before and behind the window.

    The plain pipeline counts its video's latents from 0, and goes on behind its end.
    """

    places: Tensor | None = None

    @property
    def reads_any_words(self) -> bool:
        """Whether it has a text encoder, and no vocabulary that may lack a window's words."""
        config = self.transformer.config
        return config.text_dim is not None and config.vocabulary is None

    @contextmanager
    def placed(self, places: Tensor, first: int) -> Iterator[None]:
        """For as long as it lasts, a video's latents have the time indices ``places`` (T,), a target ``first`` and on.

        A model that was trained with ranks for time indices (``contiguous``) keeps them.
        """
        gap = self.config.gap
        self.register_to_config(gap=first - len(places))  # a target begins so far behind the end of the video
        self.places = places
        try:
            yield
        finally:
            self.register_to_config(gap=gap)
            self.places = None

    def _branch(self, context: Tensor, index: Tensor, is_noise: bool) -> dict:
        if self.places is not None and not self.config.contiguous:
            index = self.places.to(index.device)[index]
        return super()._branch(context, index, is_noise)


def context_places(scan: Episode, window: Window, gap: int) -> Tensor:
    """Which of the scan's latents (L,) lie outside of window and gap."""
    return outside_gap(whole_latents(len(scan.frames), 1), window.first, window.length, gap).nonzero()[:, 0]


def context_video(scan: Episode, window: Window, gap: int) -> Tensor:
    """The scan (F, H, W, 3) in 0..1 without window and gap: its latents are ``context_places``.

    Nothing of window and gap is in it. Of a scan whose beginning is left out, the first latent is its last frame alone;
    an encoder that looks back sees, in the first latents behind the window, what is before it.
    """
    frames = grouped_frames(context_places(scan, window, gap)).flatten()[FRAMES_PER_LATENT - 1 :]
    return scan.frames[frames].float() / 255


def sample_window(
    pipeline: WindowPipeline, scan: Episode, window: Window, gap: int, settings: Settings, seed: int
) -> dict[str, Video4SpatialOutput]:
    """What the model makes of a window with a context, ``ours``, and without one, ``no_context``.

    Both have the same noise and the same time indices.

    Args:
        pipeline: the model.
        scan: as the model sees it (``as_seen``).
        window: of it; a navigation window's path is told, a grounding window's instruction, and any window's to a model
            with a text encoder, which was trained with it.
        gap: latents on either side of the window that hold no context.
        settings: how to sample.
        seed: of the noise and of the context that is drawn.
    """
    start = scan.frames[window.frames][:1].float() / 255
    if settings.task == "navigation":
        said = window.instruction if pipeline.reads_any_words else None
        told = {"camera_path": scan.c2w[window.frames][None], "instruction": said}
    else:
        length = latent_frames(window.length + settings.tail_latents)
        told = {"instruction": window.instruction, "num_frames": length}
    latents, wanted = whole_latents(len(scan.frames), 1), settings.context_latents
    generator = torch.Generator().manual_seed(seed)
    drawn = sample_context(latents, wanted, generator, window.first, window.length, gap)
    video, outside = context_video(scan, window, gap), context_places(scan, window, gap)
    outputs = {}
    for name, context, places in (("ours", video, outside), ("no_context", None, drawn)):
        with pipeline.placed(places, window.first):
            outputs[name] = pipeline(
                context,
                start,
                **told,
                num_context_latents=wanted,
                num_inference_steps=settings.inference_steps,
                guidance_scale=settings.guidance_scale,
                generator=torch.Generator().manual_seed(seed),
            )
    return outputs
