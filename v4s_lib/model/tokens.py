"""Latents to tokens and back: patches, and what is added so that a token knows what it is.

Axis letters: B batch, C channels, T latent frames, S tokens a latent, H, W latent pixels, D width.
"""

import torch
from torch import Tensor

from v4s_lib.model.localizer import time_waves

CONTEXT, START, MOVING, LAST_CONTEXT = 0, 1, 2, 3  # rows of the role embedding


class TokenMixin:
    """The part of the transformer that embeds latents and timesteps, and turns tokens back into latents."""

    def _embed(
        self,
        latents: Tensor,
        role: int,
        clean_latents: int = 0,
        time_index: Tensor | None = None,
        newest: bool = True,
    ) -> tuple[Tensor, tuple[int, int, int]]:
        states = self.patch_embedding(latents)
        grid = tuple(states.shape[2:])
        states = states.flatten(3).permute(0, 2, 3, 1)  # B T S D
        roles = [START] * clean_latents + [role] * (grid[0] - clean_latents)
        if role == CONTEXT and newest and self.localizer is not None:
            roles[-1] = LAST_CONTEXT
        roles = self.role_embedding[roles]
        states = states + roles[:, None].type_as(states)
        if self.position_embedding is not None:
            states = states + self.position_embedding.type_as(states)
        if self.time_adapter is not None and time_index is not None:
            states = states + self.time_adapter(time_waves(time_index))[:, :, None].type_as(states)
        return states.flatten(1, 2), grid

    def _time(self, timestep: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        """Embedding (B, T, D) of the latents' timesteps (B, T) and their modulation (B, T, 6, D)."""
        embedder = self.condition_embedder
        waves = embedder.timesteps_proj(timestep.flatten()).unflatten(0, timestep.shape)
        embedded = embedder.time_embedder(waves.to(embedder.time_embedder.linear_1.weight.dtype)).type_as(states)
        return embedded, embedder.time_proj(embedder.act_fn(embedded)).unflatten(-1, (6, -1))

    def _unpatchify(self, states: Tensor, embedded: Tensor, grid: tuple[int, int, int]) -> Tensor:
        shift, scale = (self.scale_shift_table[:, None] + embedded[:, :, None])[:, :, :, None].unbind(2)
        states = self.norm_out(states.float()).unflatten(1, (grid[0], -1)) * (1 + scale) + shift
        states = self.proj_out(states.flatten(1, 2).type_as(embedded))
        states = states.unflatten(2, (*self.config.patch_size, -1)).unflatten(1, grid)  # B T H W t h w C
        return states.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)


def clean_or(timestep: Tensor | None, states: Tensor) -> Tensor:
    """The timestep (B,) as a column (B, 1); 0, which is clean, for None."""
    return torch.zeros(len(states), 1, device=states.device) if timestep is None else timestep[:, None]
