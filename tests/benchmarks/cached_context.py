"""Sampling with a cached context against encoding it at every step.

The same weights give the same video either way; that is checked before anything is timed. Two-way attention is another
model of the same size, for it cannot have a cache. Every clip has words and a camera path of its own. ``ideal`` is what
both ways' operations promise, counted by torch. Where a model is so wide that attention itself hardly counts, S steps
over C context and N target latents cost S (C + N) or C + S N: what that promises is in the row's name. On a CPU the
model is narrow, and attention counts most; on a GPU it has the width of Wan2.2-5B, not its depth, and is timed in bf16.
"""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from v4s_lib.evaluation.ratios import Comparison, throughput, time_pairs
from v4s_lib.model.transformer import ContextVideoTransformer
from v4s_lib.training.memory import held_bytes
from v4s_lib.training.utilisation import operations, wait
from v4s_lib.worlds.paths import FRAMES_PER_LATENT

PAPER = (84, 46)  # context and target latents
TOKENS = (8, 13)  # rows and columns of a latent: the paper's 104
STEPS = 10
CHANNELS, WORDS = 16, 8
SIZES = {  # the second is as wide as Wan2.2-5B
    "cpu": {
        "num_layers": 2,
        "num_attention_heads": 2,
        "attention_head_dim": 32,
        "text_dim": 64,
        "freq_dim": 64,
        "ffn_dim": 256,
    },
    "cuda": {
        "num_layers": 8,
        "num_attention_heads": 24,
        "attention_head_dim": 128,
        "text_dim": 4096,
        "freq_dim": 256,
        "ffn_dim": 14336,
    },
}


def make_model(context_attention: str, device: torch.device) -> ContextVideoTransformer:
    """Random weights, as wide as the device can well do."""
    torch.manual_seed(0)
    model = ContextVideoTransformer(
        patch_size=(1, 1, 1),
        in_channels=CHANNELS,
        pose_encoding="ray_map",
        context_attention=context_attention,
        **SIZES[device.type],
    )
    return model.eval().to(device)


def indices(context: Tensor) -> Tensor:
    return torch.arange(context.shape[2], device=context.device)[None]


@torch.no_grad()
def encode(model: ContextVideoTransformer, context: Tensor, cached: bool) -> dict:
    """What the model is told of a context: its cache or, to be encoded at every step, its latents."""
    if cached:
        return {"context_cache": model.encode_context(context, indices(context))}
    return {"context_latents": context, "context_time_index": indices(context)}


def told(model: ContextVideoTransformer, clips: int, latents: int) -> dict[str, Tensor]:
    """Words and a camera path for each clip, random: other sentences, and other ways."""
    generator = torch.Generator().manual_seed(clips)
    words = torch.randn(clips, WORDS, model.config.text_dim, generator=generator)
    path = torch.eye(4).repeat(clips, latents, FRAMES_PER_LATENT, 1, 1)
    path[..., :3, 3] = torch.randn(clips, latents, FRAMES_PER_LATENT, 3, generator=generator)
    return {"encoder_hidden_states": words.to(model.device, model.dtype), "camera_path": path.to(model.device)}


@torch.no_grad()
def denoise(model: ContextVideoTransformer, noise: Tensor, first: int, given: dict) -> Tensor:
    """The mean of what ``STEPS`` forward passes predict, so that none can be left out."""
    index = first + torch.arange(noise.shape[2], device=noise.device).expand(len(noise), -1)
    total = torch.zeros_like(noise)
    for step in range(STEPS):
        timestep = torch.full((len(noise),), 1000.0 * (1 - step / STEPS), device=noise.device)
        total += model(noise, timestep, index, **given)
    return total / STEPS


def sample(model: ContextVideoTransformer, context: Tensor, noise: Tensor, cached: bool) -> Tensor:
    """Clips of one context, together."""
    given = encode(model, context, cached) | told(model, len(noise), noise.shape[2])
    outputs = denoise(model, noise, context.shape[2] + 4, given)
    wait(noise.device)
    return outputs


def sample_in_turn(model: ContextVideoTransformer, context: Tensor, noise: Tensor, keep: bool) -> None:
    """The same clips one after the other, from one cache or each from its own."""
    given, asked = encode(model, context, cached=True), told(model, len(noise), noise.shape[2])
    for number in range(len(noise)):
        if number and not keep:
            given = encode(model, context, cached=True)
        one = slice(number, number + 1)
        own = {name: value[one] for name, value in asked.items()}
        denoise(model, noise[one], context.shape[2] + 4, given | own)
    wait(noise.device)


def draw(model: ContextVideoTransformer, latents: int, tokens: tuple[int, int], count: int = 1) -> Tensor:
    """Noise for the model, the same for the same number of latents."""
    generator = torch.Generator().manual_seed(latents)
    return torch.randn(count, CHANNELS, latents, *tokens, generator=generator).to(model.device, model.dtype)


def compare(pairs: int, quick: bool, device: torch.device) -> Iterator[Comparison]:
    """The rows; ``quick`` takes few and small latents."""
    one_way, two_way = make_model("one_way", device), make_model("two_way", device)
    tokens = (1, 2) if quick else TOKENS
    sizes = {"8 to 4 latents": (8, 4)} if quick else {"the paper's 84 to 46 latents": PAPER, "80 to 8 latents": (80, 8)}
    for count, moving in sizes.values():
        given = draw(one_way, count, tokens), draw(one_way, moving, tokens)
        torch.testing.assert_close(*(sample(one_way, *given, cached) for cached in (True, False)), atol=1e-5, rtol=0)
    if device.type == "cuda":
        one_way, two_way = one_way.bfloat16(), two_way.bfloat16()
    for size, (count, moving) in sizes.items():
        context, noise = draw(one_way, count, tokens), draw(one_way, moving, tokens)
        yield from against_uncached(one_way, two_way, size, context, noise, pairs)
    few = (1, 2) if quick else (4, 6) if device.type == "cpu" else TOKENS  # as many as preset base has
    yield from growth(one_way, [2, 4, 8] if quick else [10, 100, 1000], few, pairs)
    yield from shared(one_way, [2] if quick else [4, 16], (8, 2) if quick else (80, 8), tokens, pairs)


def against_uncached(
    one_way: ContextVideoTransformer,
    two_way: ContextVideoTransformer,
    size: str,
    context: Tensor,
    noise: Tensor,
    pairs: int,
) -> Iterator[Comparison]:
    """Time and memory, against the same weights without a cache and against two-way attention."""
    ours = partial(sample, one_way, context, noise, cached=True)
    count, moving, width = context.shape[2], noise.shape[2], one_way.norm_out.normalized_shape[0]
    wide = STEPS * (count + moving) / (count + STEPS * moving)
    what = f"{STEPS} steps, {size} of {noise[0, 0, 0].numel()} tokens, width {width}"
    for name, model in (("same weights, uncached", one_way), ("two-way", two_way)):
        other = partial(sample, model, context, noise, cached=False)
        ideal = operations(other) / operations(ours)
        measured = time_pairs(ours, other, pairs)
        yield Comparison(f"time of {what} (very wide: {wide:.2f})", "cached", name, "s", measured, ideal)
        peaks = tuple(held_bytes(call, noise.device) / 2**20 for call in (ours, other))  # the same at every call
        yield Comparison(f"peak memory, taken once, of {what}", "cached", name, "MiB", [peaks])


def growth(
    model: ContextVideoTransformer, counts: list[int], tokens: tuple[int, int], pairs: int
) -> Iterator[Comparison]:
    """How time grows with the context: what is compared is as many times the time with the shortest one."""
    noise = draw(model, 8, tokens)
    calls = [partial(sample, model, draw(model, count, tokens), noise, cached=True) for count in counts]
    for count, call in zip(counts[1:], calls[1:], strict=True):
        factor = count / counts[0]
        measured = [(long, short * factor) for long, short in time_pairs(call, calls[0], pairs)]
        what = f"time of {STEPS} steps as the context grows, {tokens[0] * tokens[1]} tokens a latent"
        names = (f"{count:,} latents", f"{factor:g} times {counts[0]} latents (linear growth)")
        yield Comparison(what, *names, "s", measured)


def shared(
    model: ContextVideoTransformer, counts: list[int], size: tuple[int, int], tokens: tuple[int, int], pairs: int
) -> Iterator[Comparison]:
    """How many clips a second, where several of them share the context and its cache."""
    context = draw(model, size[0], tokens)
    for count in counts:
        noise = draw(model, size[1], tokens, count)
        together = partial(sample, model, context, noise, cached=True)
        for name, keep in (("in turn, from one cache", True), ("in turn, the context encoded for each", False)):
            in_turn = partial(sample_in_turn, model, context, noise, keep)
            measured = throughput(time_pairs(together, in_turn, pairs), count, count)
            what = f"{count} clips of one context, {size[0]} to {size[1]} latents, {STEPS} steps"
            yield Comparison(what, "together, from one cache", name, "clips/s", measured)
