"""From an unposed context video, a start frame and an instruction to a video.

The shape follows diffusers' pipelines: check_inputs, prepare latents, a numbered ``__call__``. There is no argument
for the poses or the depth of the context: the model is given video alone (claim C13).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from diffusers.utils import BaseOutput
from torch import Tensor

from v4s_lib.data.instructions import NAVIGATION
from v4s_lib.data.windows import sample_context
from v4s_lib.model.codec import PatchCodec
from v4s_lib.model.pose import relative_to_start
from v4s_lib.model.text import PADDING, tokenize
from v4s_lib.model.transformer import ContextVideoTransformer
from v4s_lib.worlds.cameras import check_rigid, inverse

FRAMES = 33  # generated where no camera path says how many: start frame, 28 moving ones, 4 of the box tail; our choice
MIN_SIGMA = 1e-3  # floor of sigma where a clean prediction is turned into a velocity


@dataclass
class Video4SpatialOutput(BaseOutput):
    frames: Tensor  # (M, F, H, W, 3) in 0..1, the start frame first
    context_index: Tensor  # (P,) which latents of the context video were drawn
    context_used: bool = True  # False: none was given, or it shows none of the start frames and was put aside


def to_velocity(output: Tensor, noisy: Tensor, sigma: float, prediction_type: str) -> Tensor:
    """The model's output as d x_t / d sigma = noise - clean, whatever it predicts."""
    if prediction_type == "velocity":
        return output
    return (noisy - output) / max(sigma, MIN_SIGMA)


def _shape(value: Tensor) -> tuple[int, ...]:
    return tuple(value.shape)


class Video4SpatialPipeline(DiffusionPipeline):
    """Samples videos of a scene that a context video shows.

    Args:
        transformer: the denoiser.
        codec: pixels to latents and back.
        scheduler: flow-matching Euler scheduler; its shift is part of the saved pipeline.
        gap: latents between the scan's last and the start frame's time index.
        least_shared: share of a start frame that a context must show, or it is put aside as one of another place.
    """

    model_cpu_offload_seq = "transformer"

    def __init__(
        self,
        transformer: ContextVideoTransformer,
        codec: PatchCodec,
        scheduler: FlowMatchEulerDiscreteScheduler,
        gap: int = 4,
        least_shared: float = 0.0,
    ) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, codec=codec, scheduler=scheduler)
        self.register_to_config(gap=gap, least_shared=least_shared)

    @classmethod
    def from_pretrained(cls, folder: str | Path, **kwargs) -> "Video4SpatialPipeline":
        """As diffusers', but from safetensors only, and strict (see the transformer's)."""
        return super().from_pretrained(folder, **{**kwargs, "use_safetensors": True})

    def check_inputs(
        self,
        context_video: Tensor | None,
        start_frame: Tensor,
        camera_path: Tensor | None,
        instruction: str | list[str] | None = None,
        num_frames: int | None = None,
        num_context_latents: int = 16,
        num_inference_steps: int = 10,
    ) -> None:
        """Raise ``ValueError`` with one sentence for inputs that can not be used; nothing has been computed yet."""
        self._check_frames("start_frame", start_frame, start_frame.shape[1:3])
        if context_video is not None:
            self._check_frames("context_video", context_video, start_frame.shape[1:3])
        frames = FRAMES if num_frames is None else num_frames
        if camera_path is not None:
            self._check_path(camera_path, len(start_frame), num_frames)
            frames = camera_path.shape[1]
        if frames % 4 != 1 or frames < 5:
            raise ValueError(f"expected num_frames of 4k+1, k > 0, got {frames}: ask for one more than a multiple of 4")
        self._check_instruction(instruction, len(start_frame), camera_path is not None)
        length = self._context_length(context_video, num_context_latents)
        if not 0 <= num_context_latents <= length:
            raise ValueError(
                f"expected 0 to {length} context latents (context_video holds {length} of 4 frames each), "
                f"got {num_context_latents}: ask for fewer or use a longer video"
            )
        last, limit = length + self.config.gap + frames // 4, self.transformer.config.rope_max_seq_len
        if last >= limit:
            raise ValueError(
                f"expected time indices below {limit} for context video, gap and path, got up to {last}: shorten them"
            )
        if num_inference_steps < 1:
            raise ValueError(f"expected num_inference_steps of 1 or more, got {num_inference_steps}: ask for some")

    def _check_path(self, camera_path: Tensor, starts: int, num_frames: int | None) -> None:
        frames = camera_path.shape[1] if camera_path.ndim == 4 else 0
        if frames % 4 != 1 or frames < 5:
            raise ValueError(
                f"expected camera_path of shape (M, 4k+1, 4, 4), k > 0, got {_shape(camera_path)}: give that many poses"
            )
        if len(camera_path) != starts:
            raise ValueError(
                f"expected a start_frame for each camera_path, got {starts} and {len(camera_path)}: "
                "pass as many of both"
            )
        if num_frames not in (None, frames):
            raise ValueError(
                f"expected a camera_path of num_frames poses, got {frames} and {num_frames}: leave num_frames out"
            )
        check_rigid(camera_path.float(), "camera_path")

    def _check_instruction(self, instruction: str | list[str] | None, starts: int, has_path: bool) -> None:
        if instruction is None:
            if not has_path:
                raise ValueError("expected an instruction, a camera_path or both, got neither: pass one")
            return
        if self.transformer.word_embedding is None:
            raise ValueError("expected no instruction for a model without a vocabulary, got one: pass a camera_path")
        sentences = [instruction] if isinstance(instruction, str) else list(instruction)
        if len(sentences) != starts and not isinstance(instruction, str):
            raise ValueError(
                f"expected an instruction for each start_frame and camera_path, got {len(sentences)} and {starts}: "
                "pass as many of all, or one for all"
            )
        if not all(sentence.strip() for sentence in sentences):
            raise ValueError("expected an instruction in words, got an empty one: say what to do, or pass None")
        tokenize(sentences, self.transformer.config.vocabulary)

    def _check_frames(self, name: str, frames: Tensor, size: tuple[int, int]) -> None:
        """Frames (N, H, W, 3), floats in 0..1, of the model's size or, where it has none, of ``size``."""
        if frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) == 0:
            raise ValueError(f"expected {name} of shape (N, H, W, 3), got {_shape(frames)}: pass RGB frames")
        unit = [self.codec.config.patch_size * tokens for tokens in self.transformer.config.patch_size[1:]]
        fixed = self.transformer.config.position_size
        if fixed is not None:
            size = (fixed[0] * unit[0], fixed[1] * unit[1])
        if tuple(frames.shape[1:3]) != tuple(size):
            raise ValueError(
                f"expected {name} of {size[0]}x{size[1]} pixels (H x W), got shape {_shape(frames)}: resize it"
            )
        if size[0] % unit[0] or size[1] % unit[1]:
            raise ValueError(
                f"expected {name} in multiples of {unit[0]}x{unit[1]} pixels (H x W), "
                f"got shape {_shape(frames)}: resize it"
            )
        low, high = frames.min().item(), frames.max().item()
        if not (frames.is_floating_point() and low >= 0 and high <= 1):
            raise ValueError(
                f"expected {name} as floats in 0..1, got {frames.dtype} from {low} to {high}: "
                "divide 8-bit frames by 255"
            )

    def _context_length(self, context_video: Tensor | None, num_context_latents: int) -> int:
        """Latents of the context video; without one, those of the noise that stands for it."""
        if context_video is None or num_context_latents == 0:
            return max(num_context_latents, 0)
        return (len(context_video) - 1) // 4 + 1

    @torch.no_grad()
    def __call__(
        self,
        context_video: Tensor | None,
        start_frame: Tensor,
        camera_path: Tensor | None = None,
        instruction: str | list[str] | None = None,
        num_frames: int | None = None,
        num_context_latents: int = 16,
        num_inference_steps: int = 10,
        guidance_scale: float = 1.0,
        guide_context: bool = True,
        generator: torch.Generator | None = None,
        callback=None,
    ) -> Video4SpatialOutput:
        """Generate one video a start frame; all of them share the context.

        Args:
            context_video: (F, H, W, 3) in 0..1; frames past 4k+1 are left out. None runs without context: noise in its
                place, as in the unconditional branch.
            start_frame: (M, H, W, 3) in 0..1.
            camera_path: (M, 4k+1, 4, 4) c2w, any world axes: only poses relative to the first are used. With None a
                model with a localizer plans one, before the first step, and follows it.
            instruction: a sentence for each start frame, or one for all. None is the navigation sentence, and needs a
                camera path.
            num_frames: 4k+1 frames to generate where there is no camera path; None is 33.
            num_context_latents: how many latents (4 frames each) of the video are used; 0 for a model that was trained
                without context tokens.
            num_inference_steps: Euler steps.
            guidance_scale: of the guidance; 1 is none.
            guide_context: joint guidance over context, path and instruction together; False leaves out the context.
            generator: CPU generator; the same seed gives the same video.
            callback: called with (step, clean frames so far) after each step.
        """
        # 1. Check inputs
        generator = generator or torch.Generator().manual_seed(0)
        self.check_inputs(
            context_video,
            start_frame,
            camera_path,
            instruction,
            num_frames,
            num_context_latents,
            num_inference_steps,
        )
        # 2. Encode context and start frame
        device = self._execution_device
        start = self.codec.encode(start_frame[:, None].to(device))
        latent_count, path = ((num_frames or FRAMES) - 1) // 4 + 1, None
        if camera_path is not None:
            path = relative_to_start(camera_path.cpu().double()).float().to(device)  # exact far from the world's origin
            latent_count = path.shape[1]
        words = self._words(instruction, len(start), device)
        length = self._context_length(context_video, num_context_latents)
        if context_video is None or num_context_latents == 0:
            index, context = torch.arange(num_context_latents), None
        else:
            index = sample_context(length, num_context_latents, generator)
            groups = self.codec.group(context_video[None, : 4 * length - 3].to(device))
            context = self.codec.encode_groups(groups[:, index])
        # 3. Draw noise: the target's, and the context of the unconditional branch
        shape = (*start.shape[:2], latent_count, *start.shape[3:])
        latents = torch.randn(shape, generator=generator).to(device)
        latents[:, :, :1] = start
        noise = torch.randn((1, *start.shape[1:2], len(index), *start.shape[3:]), generator=generator).to(device)
        # 4. Prepare both branches: time indices and contexts
        target_index = (length + self.config.gap + torch.arange(latent_count, device=device)).expand(len(start), -1)
        context_index = index[None].to(device)
        conditional = self._branch(noise if context is None else context, context_index, context is None)
        if context is not None and self.transformer.shows(start, conditional) < self.config.least_shared:
            context, conditional = None, self._branch(noise, context_index, True)
        conditional |= {"camera_path": path, "words": words}
        unconditional = None
        if guidance_scale != 1:
            kept = {name: value for name, value in conditional.items() if name.startswith("context")}
            unconditional = self._branch(noise, context_index, True) if guide_context else kept
            unconditional["words"] = None if words is None else torch.full_like(words, PADDING)
        if path is None and self.transformer.localizer is not None:
            conditional["camera_path"] = self.plan(latents, target_index, conditional)
        # 5. Denoise the moving latents
        # Evenly spaced down to 1/n, not to the scheduler's near-zero last sigma: the model never trained down there.
        sigmas = np.linspace(1.0, 1 / num_inference_steps, num_inference_steps)
        self.scheduler.set_timesteps(sigmas=sigmas, device=device)
        for step, timestep in enumerate(self.progress_bar(self.scheduler.timesteps)):
            sigma = self.scheduler.sigmas[step].item()
            times = timestep.expand(len(latents))
            output = self.transformer(latents, times, target_index, **conditional)
            if unconditional is not None:
                free = self.transformer(latents, times, target_index, **unconditional)
                output = free + guidance_scale * (output - free)
            velocity = to_velocity(output, latents, sigma, self.transformer.config.prediction_type)
            if callback is not None:
                clean = torch.cat([start, (latents - sigma * velocity)[:, :, 1:]], dim=2)
                callback(step, self.codec.decode(clean).cpu())
            moved = self.scheduler.step(velocity[:, :, 1:], timestep, latents[:, :, 1:], return_dict=False)[0]
            latents = torch.cat([start, moved], dim=2)
        # 6. Decode
        return Video4SpatialOutput(self.codec.decode(latents).cpu(), index, context is not None)

    def plan(self, noise: Tensor, time_index: Tensor, condition: dict) -> Tensor:
        """The path (M, T, 4, 4, 4), relative to the start frame, that the model would take for what it is told.

        ``noise`` (M, C, T, h, w) are the latents before the first step, ``condition`` the transformer's arguments.
        """
        highest = torch.full((len(noise),), 1000.0, device=noise.device)
        findings = self.transformer(noise, highest, time_index, **condition, only_findings=True)
        planned = findings.target_poses
        path = inverse(planned[:, :1, -1:]) @ planned
        path[:, 0] = torch.eye(4, device=path.device)
        return path

    def _words(self, instruction: str | list[str] | None, count: int, device: torch.device | str) -> Tensor | None:
        """Indices (M, L) of the words of ``count`` instructions, or None for a model that does not read."""
        if self.transformer.word_embedding is None:
            return None
        sentences = [instruction or NAVIGATION] * count if not isinstance(instruction, list) else instruction
        return tokenize(sentences, self.transformer.config.vocabulary).to(device)

    def _branch(self, context: Tensor, index: Tensor, is_noise: bool) -> dict:
        """Arguments of the transformer for one branch; a one-way context is encoded here, once for all steps."""
        if len(index[0]) == 0:
            return {}
        timestep = torch.full((1,), 1000.0 if is_noise else 0.0, device=context.device)
        if self.transformer.config.context_attention == "one_way":
            return {"context_cache": self.transformer.encode_context(context, index, timestep)}
        return {"context_latents": context, "context_time_index": index, "context_timestep": timestep}
