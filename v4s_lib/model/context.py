"""The context's stream of a one-way model: looked at once, for all steps, targets and paths. And options that limit it.

Axis letters: B batch, C channels, T latent frames, S tokens a latent, H, W latent pixels, D width.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from v4s_lib.model.blocks import ContextVideoBlock, KeyValue
from v4s_lib.model.localizer import pose_matrix
from v4s_lib.model.outputs import ContextCache, Findings
from v4s_lib.model.tokens import CONTEXT, clean_or


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

    def encode_context(
        self, context_latents: Tensor, time_index: Tensor, timestep: Tensor | None = None
    ) -> ContextCache:
        """All that targets need of a context that attends to itself alone (``one_way``): compute it once.

        Args:
            context_latents: (B, C, T, H, W).
            time_index: (B, T) index of each latent in its scan.
            timestep: (B,) in 0..1000; None is 0, a clean context.

        Returns:
            keys and values of every block, each (B, heads, N, head_dim), and what sight and finder look up.
        """
        if self.config.context_attention != "one_way":
            raise ValueError("expected a one_way model, got two_way: its context changes with the target; pass latents")
        return self._encode_context(context_latents, time_index, timestep, Findings())

    def _encode_context(
        self, latents: Tensor, time_index: Tensor, timestep: Tensor | None, findings: Findings, only_poses: bool = False
    ) -> ContextCache:
        states, grid = self._embed(latents, CONTEXT, time_index=time_index)
        timestep = clean_or(timestep, states)
        _, modulation = self._time(timestep.expand(-1, grid[0]), states)
        rotary = self.rope(time_index, *grid[1:])
        embedded, cache, rays = states, ContextCache([]), None
        for i, block in enumerate(self.blocks):
            if i == self.config.localize_after:
                findings.context_numbers = self.localizer(states, grid[0])
                placed = pose_matrix(findings.context_numbers.detach())
                if not only_poses:
                    placed = self._place_context(latents, placed, timestep[:, 0] > 0, cache)
                    findings.context_poses = placed
                if self.finder is not None:
                    looks = self.finder.rays(placed, *latents.shape[-2:], self.config.horizontal_fov)
                    cache.cells = (self.finder.keys(latents), looks)
                if only_poses:
                    return cache
                states = self.localizer.draw_from(embedded, states)
                rays = self._rays(placed, grid)
                if self.config.ray_rotary:
                    rotary = self._ray_rotary(placed, time_index, grid)
            if rays is not None:
                states = states + self.localizer.adapter[i - self.config.localize_after](rays).type_as(states)
            states, own = self._look(block, states, modulation, rotary, self._by_ray(i))
            cache.blocks.append(self._kept(i, own, grid))
        return cache

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
