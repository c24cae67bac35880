"""Sampling with a cached context against encoding it at every step.

The same weights give the same video either way; that is checked before anything is timed. Two-way attention is another
model of the same size, for it cannot have a cache. ``ideal`` is what the attention's linear part alone would gain: S
steps over C context and N target latents cost S (C + N) or C + S N.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import accumulate

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from v4s_lib.evaluation.ratios import Comparison, throughput, time_pairs
from v4s_lib.model.transformer import ContextVideoTransformer

PAPER = (84, 46)  # context and target latents
TOKENS = (8, 13)  # rows and columns of a latent: the paper's 104
STEPS = 10
CHANNELS = 16


def make_model(context_attention: str) -> ContextVideoTransformer:
    """Two blocks of width 64, with random weights."""
    torch.manual_seed(0)
    return ContextVideoTransformer(
        patch_size=(1, 1, 1),
        num_attention_heads=2,
        attention_head_dim=32,
        in_channels=CHANNELS,
        text_dim=None,
        freq_dim=64,
        ffn_dim=256,
        num_layers=2,
        context_attention=context_attention,
    ).eval()


@torch.no_grad()
def sample(model: ContextVideoTransformer, context: Tensor, noise: Tensor, cached: bool) -> Tensor:
    """The mean of what ``STEPS`` forward passes predict, so that none can be left out."""
    index = torch.arange(context.shape[2])[None]
    target_index = (index[:, -1:] + 5 + torch.arange(noise.shape[2])).expand(len(noise), -1)
    given = {"context_latents": context, "context_time_index": index}
    if cached:
        given = {"context_cache": model.encode_context(context, index)}
    total = torch.zeros_like(noise)
    for step in range(STEPS):
        timestep = torch.full((len(noise),), 1000.0 * (1 - step / STEPS))
        total += model(noise, timestep, target_index, **given)
    return total / STEPS


def draw(latents: int, tokens: tuple[int, int], count: int = 1) -> Tensor:
    return torch.randn(count, CHANNELS, latents, *tokens, generator=torch.Generator().manual_seed(latents))


def peak_bytes(call: Callable[[], object]) -> int:
    """Most bytes that were held at one time during a call, beyond those before it, by torch's own allocator."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))


def compare(pairs: int, quick: bool) -> Iterator[Comparison]:
    """The rows; ``quick`` takes few and small latents."""
    one_way, two_way = make_model("one_way"), make_model("two_way")
    tokens, few = ((1, 2), (1, 2)) if quick else (TOKENS, (2, 2))
    sizes = {"8 to 4 latents": (8, 4)} if quick else {"the paper's 84 to 46 latents": PAPER, "80 to 8 latents": (80, 8)}
    for size, (count, moving) in sizes.items():
        yield from against_uncached(one_way, two_way, size, draw(count, tokens), draw(moving, tokens), pairs)
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
    uncached = partial(sample, one_way, context, noise, cached=False)
    torch.testing.assert_close(ours(), uncached(), atol=1e-5, rtol=0)
    count, moving = context.shape[2], noise.shape[2]
    ideal = STEPS * (count + moving) / (count + STEPS * moving)
    others = {"same weights, uncached": uncached, "two-way": partial(sample, two_way, context, noise, cached=False)}
    for name, other in others.items():
        what = f"{STEPS} steps, {size} of {noise[0, 0, 0].numel()} tokens"
        yield Comparison(f"time of {what}", "cached", name, "s", time_pairs(ours, other, pairs), ideal)
        memory = [(peak_bytes(ours) / 2**20, peak_bytes(other) / 2**20) for _ in range(pairs)]
        yield Comparison(f"peak memory of {what}", "cached", name, "MiB", memory)


def growth(
    model: ContextVideoTransformer, counts: list[int], tokens: tuple[int, int], pairs: int
) -> Iterator[Comparison]:
    """How time grows with the context: what is compared is as many times the time with the shortest one."""
    calls = [partial(sample, model, draw(count, tokens), draw(8, tokens), cached=True) for count in counts]
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
    context = draw(size[0], tokens)
    alone = partial(sample, model, context, draw(size[1], tokens), cached=True)
    for count in counts:
        together = partial(sample, model, context, draw(size[1], tokens, count), cached=True)
        measured = throughput(time_pairs(together, alone, pairs), count, 1)
        what = f"clips of one context, {size[0]} to {size[1]} latents, {STEPS} steps"
        yield Comparison(what, f"{count} that share its cache", "one at a time", "clips/s", measured)
