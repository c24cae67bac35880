"""Validation while it trains: does the model show what only its context can have told it?

On validation rooms, a clip is sampled with the right context, with another room's and with none; ``psnr_recall`` is
measured on the pixels that the context saw and the start frame did not.
"""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from v4s_lib.data.navigation import NavigationEpisode, navigation_episode
from v4s_lib.data.windows import grouped_frames, sample_context
from v4s_lib.model.pipeline import Video4SpatialPipeline
from v4s_lib.training.presets import Preset
from v4s_lib.training.weights import make_pipeline

CONDITIONS = ("ours", "other_context", "no_context")
STEPS = 6  # Euler steps of a validation sample; few, it is run often


class Validation:
    """The same episodes at every call, so that figures of one run can be compared."""

    def __init__(self, preset: Preset, device: torch.device | str) -> None:
        self.preset, self.device = preset, device
        self.episodes: list[NavigationEpisode] = []
        self.recalled: list[Tensor] = []  # pixels of each that are asked for

    def scores(self, model: nn.Module, picture: Path | None = None) -> dict[str, float]:
        """``psnr_recall`` in dB of each condition, mean over the episodes that have something to recall.

        Writes a contact sheet to ``picture``.
        """
        if not self.episodes:
            rooms = range(self.preset.validation_rooms)
            self.episodes = [navigation_episode("validation", i, self.preset.task) for i in rooms]
            self.recalled = [self._recalled(episode) for episode in self.episodes]
        pipeline = make_pipeline(model, self.preset).to(self.device)
        values, rows = {name: [] for name in CONDITIONS}, []
        for i, (episode, mask) in enumerate(zip(self.episodes, self.recalled, strict=True)):
            other = self.episodes[(i + 1) % len(self.episodes)]
            contexts = {"ours": episode.scan.rgb, "other_context": other.scan.rgb, "no_context": None}
            clips = {name: self._sample(pipeline, context, episode) for name, context in contexts.items()}
            for name, clip in clips.items():
                values[name] += [masked_psnr(clip, episode.target.rgb, mask)] if mask.any() else []
            rows.append([episode.scan.rgb, episode.target.rgb, *clips.values()])
        if picture is not None:
            save_sheet(rows[:4], picture)
        return {f"psnr_recall_{name}": round(sum(psnr) / len(psnr), 3) for name, psnr in values.items() if psnr}

    def _recalled(self, episode: NavigationEpisode) -> Tensor:
        """Pixels (F, H, W) that the context saw and the start frame did not; also for a model that is given none."""
        latents = (len(episode.scan.rgb) - 1) // 4 + 1
        index = sample_context(latents, self.preset.task.context_latents, _generator())
        frames = grouped_frames(index).flatten().unique()
        return episode.known(frames, self.preset.task.camera).recalled

    def _sample(self, pipeline: Video4SpatialPipeline, context: Tensor | None, episode: NavigationEpisode) -> Tensor:
        output = pipeline(
            context,
            episode.target.rgb[:1],
            episode.target_c2w[None],
            num_context_latents=self.preset.task.context_latents if self.preset.loss.use_context else 0,
            num_inference_steps=STEPS,
            generator=_generator(),
        )
        return output.frames[0]


def _generator() -> torch.Generator:
    """The same for all samples; the pipeline draws its context latents from it first."""
    return torch.Generator().manual_seed(0)


def masked_psnr(clip: Tensor, truth: Tensor, mask: Tensor) -> float:
    """PSNR in dB over the pixels of ``mask`` (F, H, W), squared error pooled over the clip."""
    error = (clip - truth).square().mean(dim=-1)[mask].mean()
    return (-10 * torch.log10(error.clamp(min=1e-10))).item()


def save_sheet(rows: list[list[Tensor]], path: Path) -> None:
    """Each clip a line of eight frames: scan, truth, ours, other room's context, no context."""
    lines = [torch.cat(list(clip[torch.linspace(0, len(clip) - 1, 8).long()]), dim=1) for row in rows for clip in row]
    pixels = (torch.cat(lines).clamp(0, 1) * 255).byte().numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).resize((pixels.shape[1] * 2, pixels.shape[0] * 2), Image.NEAREST).save(path)
