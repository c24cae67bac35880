"""The context by itself: looked at once, for all steps, targets and paths. And options that limit it.

Axis letters: B batch, C channels, T latent frames, S tokens a latent, H, W latent pixels, D width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from v4s_lib.model.blocks import ContextVideoBlock, KeyValue
from v4s_lib.model.outputs import ContextCache, Findings, Stream
from v4s_lib.model.sight import Seen
from v4s_lib.model.tokens import CONTEXT, clean_or


@dataclass
class Located:
    """What the blocks before the localizer make of T latents."""

    embedded: Tensor  # (B, N, D) tokens as they came in
    states: Tensor  # (B, N, D) and went out
    time_index: Tensor  # (B, T)

    def parts(self) -> tuple[Tensor, ...]:
        return self.embedded, self.states, self.time_index

    @classmethod
    def join(cls, located: list["Located"]) -> "Located":
        """Of all their latents."""
        return cls(*(torch.cat(parts, dim=1) for parts in zip(*(one.parts() for one in located), strict=True)))


def stretches(time_index: Tensor, longest: int) -> list[slice]:
    """Stretches of a context that each span ``longest`` latents of its scan at most, the newest first.

    The blocks before the localizer have met no longer span in training, and go wrong in one.
    ``time_index`` (B, T) is of the context.
    """
    found, end = [], time_index.shape[1]
    while end:
        near = (time_index[:, end - 1 : end] - time_index[:, :end] < longest).all(dim=0)
        first = int(near.int().argmax())
        found.append(slice(first, end))
        end = first
    return found


class ContextPool(nn.Module):
    """An option (claim C1): keys and values of neighbouring tokens and latents become one of each.

    A window's tokens are weighed by how well their keys fit a learnt query; it starts at zero, which is their mean.

    Args:
        window: latents, rows and columns that become one.
        heads, head_dim: of the attention.
    """

    def __init__(self, window: tuple[int, int, int], heads: int, head_dim: int) -> None:
        super().__init__()
        self.window = window
        self.query = nn.Parameter(torch.zeros(heads, 1, 1, head_dim))

    def forward(self, cached: KeyValue, grid: tuple[int, int, int]) -> KeyValue:
        """Keys and values (B, heads, N, head_dim) of tokens laid out as ``grid`` (T, H, W), fewer of them."""
        key, value = (self._windows(part, grid) for part in cached)
        present = self._windows(torch.ones_like(cached[0][:1, :1, :, :1]), grid) > 0  # not what fills the last windows
        score = (key.float() * self.query).sum(dim=-1, keepdim=True)
        weight = score.masked_fill(~present, -torch.inf).softmax(dim=3)
        return tuple((weight * part.float()).sum(dim=3).type_as(part) for part in (key, value))

    def _windows(self, tokens: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """Tokens (B, heads, N, D) by window (B, heads, K, n, D); windows at the ends are filled up with zeros."""
        short = [-size % step for size, step in zip(grid, self.window, strict=True)]
        x = pad(tokens.unflatten(2, grid), [0, 0, 0, short[2], 0, short[1], 0, short[0]])
        for axis, step in zip((2, 4, 6), self.window, strict=True):
            x = x.unflatten(axis, (-1, step))  # B heads T t H h W w D
        return x.permute(0, 1, 2, 4, 6, 3, 5, 7, 8).flatten(5, 7).flatten(2, 4)


class ContextMixin:
    """The part of the transformer that looks at a context which attends to itself alone."""

    @property
    def keeps_context(self) -> bool:
        """Whether a context can be looked at once for all steps: all of it, or what locates it."""
        return self.config.context_attention == "one_way" or self.localizer is not None

    def encode_context(
        self, context_latents: Tensor, time_index: Tensor, timestep: Tensor | None = None, longest: int | None = None
    ) -> ContextCache:
        """All that targets need of a context that attends to itself alone: compute it once.

        That is all blocks' of a ``one_way`` model and, of a ``two_way`` one, those before the localizer.

        Args:
            context_latents: (B, C, T, H, W).
            time_index: (B, T) index of each latent in its scan.
            timestep: (B,) in 0..1000; None is 0, a clean context.
            longest: latents of the longest scan met in training. Of a longer one, the blocks before the localizer look
                at ``stretches``, and targets see in them the newest alone. For models with sight, which says where all
                frames stand; None is one stretch.

        Returns:
            keys and values of those blocks, each (B, heads, N, head_dim), None of the others, and what sight and finder
            look up.
        """
        if not self.keeps_context:
            raise ValueError(
                "expected a one_way model, or one with a localizer, got neither: its context changes with the target; "
                "pass latents"
            )
        return self._encode_context(context_latents, time_index, timestep, Findings(), longest=longest)

    def _encode_context(
        self,
        latents: Tensor,
        time_index: Tensor,
        timestep: Tensor | None,
        findings: Findings,
        longest: int | None = None,
    ) -> ContextCache:
        cache, timestep, seen = ContextCache([]), clean_or(timestep, latents), None
        if self.sight is not None:
            with torch.no_grad():
                seen = self.sight(latents)
        if self.localizer is None:
            self._locate(latents, time_index, timestep, cache)
            return cache
        whole = longest is None or self.sight is None
        newest, *older = [slice(0, latents.shape[2])] if whole else stretches(time_index, longest)
        located = self._locate(latents[:, :, newest], time_index[:, newest], timestep, cache)
        for stretch in older:
            # To the blocks after the localizer, which know where each stands, all are as old as the newest are.
            one = self._locate(latents[:, :, stretch], time_index[:, stretch], timestep, ContextCache([]), newest=False)
            one.time_index = one.time_index + (time_index[:, -1:] - one.time_index[:, -1:])
            located = Located.join([one, located])
        if self.sight is None:
            findings.context_numbers = self.localizer(located.states, latents.shape[2])
        return self._draw_on(latents, time_index, located, timestep, cache, seen, findings)

    def _locate(
        self, latents: Tensor, time_index: Tensor, timestep: Tensor, cache: ContextCache, newest: bool = True
    ) -> "Located | None":
        """The blocks before the localizer, or all where there is none; their keys and values go into the cache."""
        states, grid = self._embed(latents, CONTEXT, time_index=time_index, newest=newest)
        _, modulation = self._time(timestep.expand(-1, grid[0]), states)
        rotary, embedded = self.rope(time_index, *grid[1:]), states
        for i, block in enumerate(self.blocks[: self.config.localize_after]):
            states, own = self._look(block, states, modulation, rotary, False)
            cache.blocks.append(self._kept(i, own, grid))
        if self.localizer is None:
            return None
        return Located(embedded, states, time_index)

    def _draw_on(
        self,
        latents: Tensor,
        time_index: Tensor,
        located: "Located",
        timestep: Tensor,
        cache: ContextCache,
        seen: Seen | None,
        findings: Findings,
    ) -> ContextCache:
        """The blocks after the localizer, which are told where frames stand."""
        placed = self._place_context(latents, seen, time_index, timestep[:, 0] > 0, cache, findings)
        findings.context_poses = placed
        self._show_finder(latents, placed, cache)
        states = self.localizer.draw_from(located.embedded, located.states)
        grid = (latents.shape[2], *self.config.position_size)
        _, modulation = self._time(timestep.expand(-1, grid[0]), states)
        rays = self._rays(placed, grid)
        if self.config.ray_rotary:
            rotary = self._ray_rotary(placed, located.time_index, grid)
        else:
            rotary = self.rope(located.time_index, *grid[1:])
        if self.config.context_attention == "two_way":
            cache.stream = Stream(states, modulation, rotary, rays)
            cache.blocks += [None] * (len(self.blocks) - self.config.localize_after)
            return cache
        for i, block in enumerate(self.blocks[self.config.localize_after :], start=self.config.localize_after):
            states = states + self.localizer.adapter[i - self.config.localize_after](rays).type_as(states)
            states, own = self._look(block, states, modulation, rotary, self._by_ray(i))
            cache.blocks.append(self._kept(i, own, grid))
        return cache

    def _show_finder(self, latents: Tensor, placed: Tensor, cache: ContextCache) -> None:
        """What a finder looks up goes into the cache."""
        if self.finder is not None:
            looks = self.finder.rays(placed, *latents.shape[-2:], self.config.horizontal_fov)
            cache.cells = (self.finder.keys(latents), looks)

    def _look(
        self, block: ContextVideoBlock, states: Tensor, modulation: Tensor, rotary: tuple[Tensor, Tensor], by_ray: bool
    ) -> tuple[Tensor, KeyValue]:
        """A block's outputs for the context; an option (claim C4) keeps every latent to itself."""
        if not self.config.spatial_only_context:
            return self._run(block, states, modulation, rotary, None, None, by_ray)
        shape = modulation.shape[:2]  # B T
        rotary = tuple(part.unflatten(2, (shape[1], -1)).transpose(1, 2).flatten(0, 1) for part in rotary)
        alone = states.unflatten(1, (shape[1], -1)).flatten(0, 1)  # B*T S D
        alone, own = self._run(block, alone, modulation.flatten(0, 1)[:, None], rotary, None, None, by_ray)
        own = tuple(part.unflatten(0, shape).transpose(1, 2).flatten(2, 3) for part in own)
        return alone.unflatten(0, shape).flatten(1, 2), own

    def _kept(self, block: int, own: KeyValue, grid: tuple[int, int, int]) -> KeyValue | None:
        """What targets are shown of a block's keys and values: all, fewer, or, by an option (claim C5), nothing."""
        if self.config.context_blocks is not None and block not in self.config.context_blocks:
            return None
        return own if self.context_pool is None else self.context_pool[block](own, grid)
