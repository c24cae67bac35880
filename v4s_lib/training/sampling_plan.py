"""What sampling a video at full scale needs of a GPU's memory, computed before there is a GPU.

``python -m v4s_lib.training.sampling_plan --gpu rtx4090`` prints it. No weights are needed: the models are built and
run at their real sizes, as the pipeline runs them, on a device without memory (see ``memory``).

**Moments.** Context and start frame are encoded; the words are read; a step is denoised (before the first one a one_way
context is turned into keys and values, with guidance once more as noise); the latents are decoded. Offloading has on
the GPU only the model that computes, tiling has the autoencoder work on parts of a frame: diffusers' own switches.

**Not counted**: the working memory of operations (convolutions may ask for some), fragments, and the latents and
embeddings that wait between the moments, under 0.1 GB. Transformer and text encoder are bf16, the autoencoder is
float32. One video is made at a time.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn
from transformers import UMT5Config, UMT5EncoderModel

from v4s_lib.command import command
from v4s_lib.model.encoding import decode_latents, encode_frames
from v4s_lib.model.transformer import ContextVideoTransformer
from v4s_lib.training import costs
from v4s_lib.training.full import FULL, WAN_AUTOENCODER, FullScale
from v4s_lib.training.memory import peak_bytes
from v4s_lib.training.plan import GB, GPUS, RESERVE, get_gpu
from v4s_lib.worlds.paths import latent_frames

# WAN: text_encoder/config.json of Wan-AI/Wan2.2-TI2V-5B-Diffusers, which are the sizes of google/umt5-xxl.
UMT5_XXL = {
    "vocab_size": 256384,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}
SCAN = 1705  # frames; of the one scan that the authors published in full, 1,704 of them (PAPER.md §3), rounded to 4k+1
WAYS = ("two_way", "one_way")
# Which model computes at a moment.
MOMENTS = {"encode": "autoencoder", "read": "text encoder", "denoise": "transformer", "decode": "autoencoder"}


@dataclass(frozen=True)
class Needs:
    """Bytes that one video needs."""

    parameters: dict[str, int]  # how many each model has
    weights: dict[str, int]
    caches: int  # keys and values of the contexts of all branches, a part of ``denoise``; 0 for two_way
    moments: dict[str, float]  # beside weights
    tiled: dict[str, float]  # the same, with tiling

    def most(self, offloading: bool, tiling: bool) -> tuple[float, str]:
        """Bytes at the moment that needs most, and its name."""
        there = {name: self.weights[model] if offloading else self.total for name, model in MOMENTS.items()}
        return max((size + there[name], name) for name, size in (self.tiled if tiling else self.moments).items())

    @property
    def total(self) -> int:
        """Weights of all models."""
        return sum(self.weights.values())


def make_needs(
    scale: FullScale, context_frames: int, autoencoder: dict[str, Any], text_encoder: dict[str, Any]
) -> dict[str, Needs]:
    """What sampling at ``scale`` needs, for each kind of context attention.

    Args:
        scale: the setting.
        context_frames: 4k+1, of the scan out of which the context is drawn.
        autoencoder: arguments of AutoencoderKLWan, without means and deviations, which take no room.
        text_encoder: arguments of UMT5Config.
    """
    if context_frames % 4 != 1 or context_frames < 4 * scale.context_latents - 3:
        raise ValueError(
            f"expected 4k+1 context frames, {4 * scale.context_latents - 3} or more, got {context_frames}: "
            "give a scan of that length"
        )
    with torch.device("meta"):
        norm = [1.0] * autoencoder["z_dim"]
        codec = AutoencoderKLWan(**autoencoder, latents_mean=norm, latents_std=norm)
        reader = in_bf16(UMT5EncoderModel(UMT5Config(**text_encoder)))
    reading = {"read": peak_bytes(reader, lambda: read(reader, scale.text_tokens))}
    whole = reading | _codec_bytes(codec, scale, context_frames)
    codec.enable_tiling()
    tiled = reading | _codec_bytes(codec, scale, context_frames)
    needs = {}
    for way in WAYS:
        with torch.device("meta"):
            model = in_bf16(ContextVideoTransformer(**scale.model, context_attention=way))
        models = {"text encoder": reader, "transformer": model, "autoencoder": codec}
        values = {name: list(part.parameters()) for name, part in models.items()}
        counts = {name: sum(value.numel() for value in part) for name, part in values.items()}
        weights = {name: sum(value.nbytes for value in part) for name, part in values.items()}
        cache = cache_bytes(costs.job_of(scale, way)) if way == "one_way" else 0
        branches = 1 if scale.guidance_scale == 1 else 2
        step = {"denoise": (branches - 1) * cache + peak_bytes(model, partial(denoise, model, scale))}
        needs[way] = Needs(counts, weights, branches * cache, whole | step, tiled | step)
    return needs


def in_bf16(model: nn.Module) -> nn.Module:
    """The model with its weights in bf16; its buffers, which hold angles, stay in float32."""
    for value in model.parameters():
        value.data = value.data.bfloat16()
    return model


def cache_bytes(job: costs.Job, size: int = 2) -> int:
    """Bytes of the keys and values of one context, for all blocks; ``size`` of a value, 2 is bf16."""
    return 2 * job.model["num_layers"] * job.context_tokens * job.width * size


def _codec_bytes(codec: AutoencoderKLWan, scale: FullScale, context_frames: int) -> dict[str, float]:
    """Wan's autoencoder works on four frames at a time: what grows with a video is the video, evenly.

    At the end of decoding all of it is there three times: joined, out of its patches, and clipped.
    """

    def grown(run: Callable[[AutoencoderKLWan, FullScale, int], Tensor], count: int, first: int, second: int) -> float:
        low, high = (peak_bytes(codec, partial(run, codec, scale, length)) for length in (first, second))
        return low + (high - low) * (count - first) / (second - first)

    video = latent_frames(scale.target_latents) * scale.height * scale.width * 3 * costs.FP32
    decoding = max(grown(decode, scale.target_latents, 3, 4), 3 * video)
    return {"encode": grown(encode, context_frames, 9, 17), "decode": decoding}


def encode(codec: AutoencoderKLWan, scale: FullScale, frames: int) -> Tensor:
    """Encode a scan of so many frames, which wait on the CPU."""
    return encode_frames(codec, torch.zeros(1, frames, scale.height, scale.width, 3), codec.device)


def decode(codec: AutoencoderKLWan, scale: FullScale, latents: int) -> Tensor:
    """Decode a video of so many latents."""
    shape = (1, codec.config.z_dim, latents, *scale.latent_size)
    return decode_latents(codec, torch.zeros(shape, device=codec.device))


def read(encoder: UMT5EncoderModel, tokens: int) -> Tensor:
    """Embed a sentence of so many tokens."""
    return encoder(torch.ones(1, tokens, dtype=torch.long, device=encoder.device)).last_hidden_state


def denoise(model: ContextVideoTransformer, scale: FullScale) -> Tensor:
    """One branch of a step; a one_way context is encoded before it."""
    place = {"device": model.device, "dtype": model.dtype}
    channels, count = model.config.in_channels, scale.target_latents
    context = {
        "context_latents": torch.zeros(1, channels, scale.context_latents, *scale.latent_size, **place),
        "context_time_index": torch.arange(scale.context_latents)[None],
        "context_timestep": torch.zeros(1, device=model.device),
    }
    if model.keeps_context:
        context = {"context_cache": model.encode_context(*context.values())}
    return model(
        torch.zeros(1, channels, count, *scale.latent_size, **place),
        torch.zeros(1, device=model.device),
        torch.arange(count)[None],
        **context,
        encoder_hidden_states=torch.zeros(1, scale.text_tokens, model.config.text_dim, **place),
        camera_path=None if model.pose_adapter is None else torch.zeros(1, count, 4, 4, 4, **place),
    )


def rows_of(needs: Needs, memory: float) -> dict[str, str]:
    """The table's rows: quantity to value; ``memory`` of the GPU, bytes."""
    rows = {
        f"{name}: {needs.parameters[name]:,} parameters": f"{size / GB:,.2f} GB" for name, size in needs.weights.items()
    }
    rows["keys and values of the context"] = f"{needs.caches / GB:,.2f} GB"
    for name in MOMENTS:
        size = needs.moments[name]
        rows[f"{name}, beside weights"] = f"{size / GB:,.2f} GB"
        if needs.tiled[name] != size:
            rows[f"{name}, with tiling"] = f"{needs.tiled[name] / GB:,.2f} GB"
    for offloading in (False, True):
        for tiling in (False, True):
            size, moment = needs.most(offloading, tiling)
            verdict = "fits" if size <= (1 - RESERVE) * memory else "does not fit"
            told = [name for name, on in (("offloading", offloading), ("tiling", tiling)) if on]
            rows[f"in all{', with ' if told else ''}{' and '.join(told)}"] = (
                f"{size / GB:,.1f} GB, {moment} ({verdict})"
            )
    return rows


@command("run the same command again")
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m v4s_lib.training.sampling_plan", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--gpu", default="rtx4090", help=f"one of {', '.join(GPUS)} (default: rtx4090)")
    parser.add_argument("--context-frames", type=int, default=SCAN, help=f"of the scan, 4k+1 (default: {SCAN})")
    args = parser.parse_args(arguments)
    gpu = get_gpu(args.gpu)
    needs = make_needs(FULL, args.context_frames, WAN_AUTOENCODER, UMT5_XXL)
    columns = [rows_of(needs[way], gpu.memory) for way in WAYS]
    print(
        f"{FULL.width}x{FULL.height} pixels, {FULL.context_latents} context latents out of {args.context_frames:,} "
        f"frames, {FULL.target_latents} target latents, guidance {FULL.guidance_scale:g}; {gpu.name}, "
        f"{gpu.memory / GB:,.0f} GB, of which a tenth is left free\n"
    )
    print(f"| quantity | {' | '.join(WAYS)} |\n|---|---|---|")
    for name in columns[0]:
        print(f"| {name} | {' | '.join(column[name] for column in columns)} |")


if __name__ == "__main__":
    sys.exit(main())
