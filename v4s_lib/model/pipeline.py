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
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor
from transformers import PreTrainedTokenizerBase, UMT5EncoderModel

from v4s_lib.data.instructions import NAVIGATION
from v4s_lib.data.windows import sample_context
from v4s_lib.model.box_drawer import BoxDrawer, load_box_drawer
from v4s_lib.model.encoding import Codec, decode_latents, encode_frames, load_codec
from v4s_lib.model.inputs import FRAMES, InputMixin
from v4s_lib.model.outputs import Findings
from v4s_lib.model.pose import relative_to_start
from v4s_lib.model.text import PADDING, tokenize
from v4s_lib.model.text_encoder import embed, load_text_encoder, pad_text
from v4s_lib.model.transformer import ContextVideoTransformer
from v4s_lib.model.way import named_box
from v4s_lib.worlds.cameras import inverse
from v4s_lib.worlds.paths import FRAMES_PER_LATENT

MIN_SIGMA = 1e-3  # floor of sigma where a clean prediction is turned into a velocity
encode_context = apply_forward_hook(ContextVideoTransformer.encode_context)  # offloaded weights come for it, too


@dataclass
class Video4SpatialOutput(BaseOutput):
    frames: Tensor  # (M, F, H, W, 3) in 0..1, the start frame first
    context_index: Tensor  # (P,) which latents of the context video were drawn
    context_used: bool = True  # False: none was given, or it shows none of the start frames and was put aside
    camera_path: Tensor | None = None  # (M, T, 4, 4, 4) c2w relative to the start frame: as asked for, or as planned
    boxes: list[Tensor | None] | None = None  # of M planned paths, where the last frame shows what was named, or None


def to_velocity(output: Tensor, noisy: Tensor, sigma: float, prediction_type: str) -> Tensor:
    """The model's output as d x_t / d sigma = noise - clean, whatever it predicts."""
    if prediction_type == "velocity":
        return output
    return (noisy - output) / max(sigma, MIN_SIGMA)


class Video4SpatialPipeline(InputMixin, DiffusionPipeline):
    """Samples videos of a scene that a context video shows.

    It computes in the transformer's type; noise is drawn, and steps are added up, in float32. The codec keeps its own.

    Args:
        transformer: the denoiser.
        codec: pixels to latents and back: exact patches, or Wan's autoencoder.
        scheduler: flow-matching Euler scheduler; its shift is part of the saved pipeline.
        gap: latents between the scan's last and the start frame's time index.
        least_shared: share of a start frame that a context must show, or it is put aside as one of another place.
        text_encoder, tokenizer: UMT5, for a model that reads sentences and has no vocabulary of its own.
        text_tokens: to which its embeddings are padded with zeros, as in training; 512 is Wan's.
        contiguous: number latents by their rank in the sample, not by their place in the scan; for a model that was
            trained so (claim A2).
        box_drawer: draws the box into the last ``tail_latents`` of a clip whose path was planned to something named.
        tail_latents: in which the camera stands still, at the end of such a clip.
        longest_scan: latents of the longest scan met in training; see ``encode_context``.
        inference_steps: of a call that does not say how many; 50 is Wan's.
    """

    # Each leaves the device when the next one comes.
    model_cpu_offload_seq = "text_encoder->transformer->codec->box_drawer"
    _optional_components = ["text_encoder", "tokenizer", "box_drawer"]

    def __init__(
        self,
        transformer: ContextVideoTransformer,
        codec: Codec,
        scheduler: FlowMatchEulerDiscreteScheduler,
        gap: int = 4,
        least_shared: float = 0.0,
        text_encoder: UMT5EncoderModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        text_tokens: int = 512,
        contiguous: bool = False,
        box_drawer: BoxDrawer | None = None,
        tail_latents: int = 0,
        longest_scan: int | None = None,
        inference_steps: int = 50,
    ) -> None:
        super().__init__()
        parts = {"transformer": transformer, "codec": codec, "scheduler": scheduler, "box_drawer": box_drawer}
        self.register_modules(**parts, text_encoder=text_encoder, tokenizer=tokenizer)
        config = {"gap": gap, "least_shared": least_shared, "text_tokens": text_tokens, "contiguous": contiguous}
        config |= {"tail_latents": tail_latents, "longest_scan": longest_scan, "inference_steps": inference_steps}
        self.register_to_config(**config)

    @classmethod
    def from_pretrained(cls, folder: str | Path, dtype: torch.dtype | None = None, **kwargs) -> "Video4SpatialPipeline":
        """As diffusers', but of a folder, from safetensors only, and strict: every key of all weights must fit.

        ``dtype`` is that of the transformer (None: float32) and of the text encoder (None: as stored).
        """
        folder = Path(folder)
        parts = {"codec": load_codec(folder / "codec")}
        parts["transformer"] = ContextVideoTransformer.from_pretrained(folder / "transformer", torch_dtype=dtype)
        if (folder / "box_drawer").is_dir():
            parts["box_drawer"] = load_box_drawer(folder / "box_drawer")
        if (folder / "text_encoder").is_dir():
            parts["text_encoder"], parts["tokenizer"] = load_text_encoder(folder, dtype)
        return super().from_pretrained(folder, **kwargs | parts)

    @torch.no_grad()
    def __call__(
        self,
        context_video: Tensor | None,
        start_frame: Tensor,
        camera_path: Tensor | None = None,
        instruction: str | list[str] | None = None,
        num_frames: int | None = None,
        num_context_latents: int = 16,
        num_inference_steps: int | None = None,
        guidance_scale: float = 1.0,
        guide_context: bool = True,
        find_temperature: float = 0.0,
        generator: torch.Generator | None = None,
        callback=None,
    ) -> Video4SpatialOutput:
        """Generate one video a start frame; all of them share the context.

        Args:
            context_video: (F, H, W, 3) in 0..1; frames past 4k+1 are left out. None runs without context: noise in its
                place, as in the unconditional branch.
            start_frame: (M, H, W, 3) in 0..1.
            camera_path: (M, 4k+1, 4, 4) c2w, any world axes: only poses relative to the first are used. With None a
                model with a localizer goes by a plan, made before the first step.
            instruction: a sentence for each start frame, or one for all. None is the navigation sentence, and needs a
                camera path.
            num_frames: 4k+1 frames to generate where there is no camera path; None is 33.
            num_context_latents: how many latents (4 frames each) of the video are used; 0 for a model that was trained
                without context tokens.
            num_inference_steps: Euler steps; None is as many as the pipeline's ``inference_steps``.
            guidance_scale: of the guidance; 1 is none.
            guide_context: joint guidance over context, path and instruction together; False leaves out the context.
            find_temperature: of what is found where no camera path is given. 0 takes the likeliest thing for what is
                named, in every sample; 1 draws one, as likely as the finder holds it, so that another sample may find
                what this one missed.
            generator: CPU generator; the same seed gives the same video.
            callback: called with (step, clean frames so far) after each step.
        """
        # 1. Check inputs
        generator = generator or torch.Generator().manual_seed(0)
        if num_inference_steps is None:
            num_inference_steps = self.config.inference_steps
        self.check_inputs(
            context_video,
            start_frame,
            camera_path,
            instruction,
            num_frames,
            num_context_latents,
            num_inference_steps,
            find_temperature,
        )
        model, float32 = self.transformer, torch.float32
        if model.dtype != float32 and (model.localizer is not None or model.time_adapter is not None):
            raise ValueError(f"expected float32 for a model that localizes, got {model.dtype}: load it without a dtype")
        # 2. Encode context, start frame and words
        device, dtype = self._execution_device, self.transformer.dtype
        start = encode_frames(self.codec, start_frame[:, None], device)
        latent_count, path, named = ((num_frames or FRAMES) - 1) // 4 + 1, None, None
        if camera_path is not None:
            path = relative_to_start(camera_path.cpu().double())  # exact far from the world's origin
            latent_count, path = path.shape[1], path.float().to(device)
        length = self._context_length(context_video, num_context_latents)
        if context_video is None or num_context_latents == 0:
            index, context = torch.arange(num_context_latents), None
        else:
            # From a copy of the generator: the noise below is the same with a context and without one.
            index = sample_context(length, num_context_latents, generator.clone_state())
            frames = context_video[: 4 * int(index[-1]) + 1]  # latents know nothing of later frames
            context = encode_frames(self.codec, frames[None], device)[:, :, index]
        self.maybe_free_model_hooks()  # where models are offloaded, the codec leaves, and comes again at the end
        said, unsaid = self._text(instruction, len(start), device)
        # 3. Draw noise: the context of the unconditional branch first, the same for any number of targets; and theirs
        noise = torch.randn((1, *start.shape[1:2], len(index), *start.shape[3:]), generator=generator).to(device, dtype)
        shape = (*start.shape[:2], latent_count, *start.shape[3:])
        latents = torch.randn(shape, generator=generator).to(device)
        latents[:, :, :1] = start
        # 4. Prepare both branches: time indices and contexts
        context_index, first = index[None].to(device), length + self.config.gap
        if self.config.contiguous:
            context_index, first = torch.arange(len(index), device=device)[None], len(index)
        target_index = (first + torch.arange(latent_count, device=device)).expand(len(start), -1)
        conditional = self._branch(noise if context is None else context.to(dtype), context_index, context is None)
        if context is not None and self.transformer.shows(start, conditional) < self.config.least_shared:
            context, conditional = None, self._branch(noise, context_index, True)
        # Where start frames stand, and what is seen from the path, is worked out once for all steps.
        conditional |= {"camera_path": path, "known": Findings(), **said}
        unconditional = None
        if guidance_scale != 1:
            kept = {name: value for name, value in conditional.items() if name.startswith("context")}
            unconditional = self._branch(noise, context_index, True) if guide_context else kept
            unconditional |= {"known": Findings(), **unsaid}
        if path is None and self.transformer.localizer is not None:
            draw = (find_temperature, generator) if find_temperature else None
            path, named = self.plan(latents.to(dtype), target_index, conditional, draw)
            conditional["camera_path"] = path
        # 5. Denoise the moving latents
        # Evenly spaced down to 1/n, not to the scheduler's near-zero last sigma: the model never trained down there.
        sigmas = np.linspace(1.0, 1 / num_inference_steps, num_inference_steps)
        self.scheduler.set_timesteps(sigmas=sigmas, device=device)
        for step, timestep in enumerate(self.progress_bar(self.scheduler.timesteps)):
            sigma = self.scheduler.sigmas[step].item()
            times, noisy = timestep.expand(len(latents)), latents.to(dtype)
            output = self.transformer(noisy, times, target_index, **conditional).float()
            if unconditional is not None:
                free = self.transformer(noisy, times, target_index, **unconditional).float()
                output = free + guidance_scale * (output - free)
            velocity = to_velocity(output, latents, sigma, self.transformer.config.prediction_type)
            if callback is not None:
                clean = torch.cat([start, (latents - sigma * velocity)[:, :, 1:]], dim=2)
                callback(step, decode_latents(self.codec, clean).cpu())
            moved = self.scheduler.step(velocity[:, :, 1:], timestep, latents[:, :, 1:], return_dict=False)[0]
            latents = torch.cat([start, moved], dim=2)
        # 6. Decode
        del conditional, unconditional  # at full scale the caches of a one-way context are gigabytes
        frames = decode_latents(self.codec, latents).cpu()
        boxes = None if path is None or camera_path is not None else self._draw_boxes(frames, named)
        self.maybe_free_model_hooks()
        path = None if path is None else path.float().cpu()
        return Video4SpatialOutput(frames, index, context is not None, path, boxes)

    def _draw_boxes(self, clips: Tensor, named: Tensor | None) -> list[Tensor | None]:
        """A box (4,) around what each view (M, H, W, ...) names, or None; drawn into the clips' tails, in place."""
        boxes = [None] * len(clips) if named is None else [named_box(seen) for seen in named]
        tail = FRAMES_PER_LATENT * self.config.tail_latents
        found = [number for number, box in enumerate(boxes) if box is not None]
        if self.box_drawer is not None and found and 0 < tail < clips.shape[1] - FRAMES_PER_LATENT:
            clips[found, -tail:] = self.box_drawer.tail(clips[found, -tail - 1], named[found], tail)
        return boxes

    def plan(
        self, noise: Tensor, time_index: Tensor, condition: dict, draw: tuple[float, torch.Generator] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The path (M, T, 4, 4, 4), relative to the start frame, to what the model finds for what it is told.

        And what it has found, seen from where the path ends: see the transformer's ``named_view``.

        ``noise`` (M, C, T, h, w) are the latents before the first step, ``condition`` the transformer's arguments. With
        ``draw``, a temperature and a generator, what is found is drawn, for the steps that follow, too.
        """
        highest = torch.full((len(noise),), 1000.0, device=noise.device)
        findings = self.transformer(noise, highest, time_index, **condition, only_findings=True)
        cache = condition.get("context_cache")
        if draw is not None:
            self.transformer.draw_found(findings, cache, *draw)
        planned = self.transformer.plan(findings, cache, self.config.tail_latents)
        path = inverse(planned[:, :1, -1:]) @ planned
        path[:, 0] = torch.eye(4, device=path.device)
        return path, self.transformer.named_view(findings, cache, planned[:, -1, -1])

    def _text(self, instruction: str | list[str] | None, count: int, device: torch.device | str) -> tuple[dict, dict]:
        """Arguments of the transformer for ``count`` instructions, and for the null text; none if it does not read."""
        if self.transformer.config.text_dim is None:
            return {}, {}
        sentences = [instruction or NAVIGATION] * count if not isinstance(instruction, list) else instruction
        if self.transformer.config.vocabulary is not None:
            words = tokenize(sentences, self.transformer.config.vocabulary).to(device)
            return {"words": words}, {"words": torch.full_like(words, PADDING)}
        limit, dtype = self.config.text_tokens, self.transformer.dtype
        known = {
            sentence: pad_text(embed(self.text_encoder, self.tokenizer, sentence, limit, device), limit).to(dtype)
            for sentence in {*sentences, ""}
        }
        said, unsaid = (torch.stack([known[sentence] for sentence in row]) for row in (sentences, [""] * count))
        return {"encoder_hidden_states": said}, {"encoder_hidden_states": unsaid}

    def _branch(self, context: Tensor, index: Tensor, is_noise: bool) -> dict:
        """Arguments of the transformer for one branch; what can be kept of a context is encoded here, for all steps."""
        if len(index[0]) == 0:
            return {}
        timestep = torch.full((1,), 1000.0 if is_noise else 0.0, device=context.device)
        if self.transformer.keeps_context:
            longest = self.config.longest_scan
            return {"context_cache": encode_context(self.transformer, context, index, timestep, longest)}
        return {"context_latents": context, "context_time_index": index, "context_timestep": timestep}
