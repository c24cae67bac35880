"""``python tests/benchmarks/cached_context.py``: sampling with a cached context against encoding it at every step.

Each row is a ratio of two things that were measured in turns in one process, with its spread over the turns. The same
weights give the same video either way; that is checked before anything is timed. Two-way attention is another model of
the same size, for it cannot have a cache. ``ideal`` is what the attention's linear part alone would gain: S steps over
C context and N target latents cost S (C + N) or C + S N.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from v4s_lib.model.transformer import ContextVideoTransformer

PROPORTIONS = {"the paper's 84 to 46": (84, 46), "10 to 1": (80, 8)}
TOKENS = (8, 13)  # rows and columns of a latent: the paper's 104


def make_model(context_attention: str, dim: int, layers: int) -> ContextVideoTransformer:
    torch.manual_seed(0)
    return ContextVideoTransformer(
        patch_size=(1, 1, 1),
        num_attention_heads=max(1, dim // 32),
        attention_head_dim=32,
        in_channels=16,
        text_dim=None,
        freq_dim=64,
        ffn_dim=4 * dim,
        num_layers=layers,
        context_attention=context_attention,
    ).eval()


@torch.no_grad()
def sample(model: ContextVideoTransformer, context: Tensor, noise: Tensor, steps: int, cached: bool) -> Tensor:
    """What ``steps`` forward passes predict, summed, so that none can be left out."""
    index = torch.arange(context.shape[2])[None]
    target_index = index[:, -1:] + 5 + torch.arange(noise.shape[2])[None]
    given = {"context_latents": context, "context_time_index": index}
    if cached:
        given = {"context_cache": model.encode_context(context, index)}
    total = torch.zeros_like(noise)
    for step in range(steps):
        total += model(noise, torch.tensor([1000.0 * (1 - step / steps)]), target_index, **given)
    return total


def ratios(slow: Callable[[], Tensor], fast: Callable[[], Tensor], turns: int) -> list[float]:
    """Times of ``slow`` over times of ``fast``, measured in turns after one run of each."""
    slow(), fast()
    found = []
    for _ in range(turns):
        times = []
        for call in (slow, fast):
            begin = time.perf_counter()
            call()
            times.append(time.perf_counter() - begin)
        found.append(times[0] / times[1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--turns", type=int, default=5)
    args = parser.parse_args()
    print("| what | other | ratio: median [least, most] | ideal |\n|---|---|---|---|")
    one_way, two_way = (make_model(kind, args.dim, args.layers) for kind in ("one_way", "two_way"))
    for name, (count, moving) in PROPORTIONS.items():
        context, noise = torch.randn(1, 16, count, *TOKENS), torch.randn(1, 16, moving, *TOKENS)
        videos = [sample(one_way, context, noise, args.steps, cached) for cached in (False, True)]
        torch.testing.assert_close(*videos, atol=1e-5 * args.steps, rtol=0)
        ideal = args.steps * (count + moving) / (count + args.steps * moving)
        for other, model in (("the same weights, uncached", one_way), ("two-way attention", two_way)):
            slow = partial(sample, model, context, noise, args.steps, cached=False)
            found = ratios(slow, partial(sample, one_way, context, noise, args.steps, cached=True), args.turns)
            spread = f"{statistics.median(found):.2f} [{min(found):.2f}, {max(found):.2f}]"
            print(f"| cached context, {name}, {args.steps} steps | {other} | {spread} | {ideal:.2f} |", flush=True)


if __name__ == "__main__":
    main()
