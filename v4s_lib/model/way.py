"""Where a target starts and where it is to go: what localizer, sight and finder make of it, half-way through."""

import torch
from torch import Tensor

from v4s_lib.model.blocks import repeat_cached
from v4s_lib.model.localizer import pose_matrix
from v4s_lib.model.outputs import ContextCache, Findings
from v4s_lib.model.places import place_start


class WayMixin:
    """The part of the transformer that predicts poses of targets."""

    def _find_way(
        self, states: Tensor, latents: Tensor, text: Tensor | None, cache: ContextCache | None, findings: Findings
    ) -> Tensor:
        """Fill ``findings`` in; returns the tokens (B*M, N, D), told where the thing is that the text names.

        Args:
            states: (B*M, N, D) tokens of the targets.
            latents: (B*M, C, T, h, w), the start's first.
            text: (B*M, L, text_dim) or None.
            cache: of the context, or None.
        """
        count = latents.shape[2]
        first = states.shape[1] // count  # tokens of the start latent
        if cache is not None and cache.cells is not None and text is not None:
            keys, looks = repeat_cached(cache.cells, len(states))
            findings.found = self.finder(text, keys)
            states = states + self.finder.change(findings.found, looks).type_as(states)
        start = None
        if cache is not None and cache.frames is not None:
            with torch.no_grad():
                guess = pose_matrix(self.localizer(states[:, :first], 1))
            start = place_start(self.sight, latents, cache.frames, guess)
            if findings.found is not None:
                points = cache.frames.points(self.sight, len(states))
                told = self.finder.place(findings.found, points, start[:, 0, -1]).type_as(states)
                states = torch.cat([states[:, :first], states[:, first:] + told], dim=1)
        findings.target_numbers = self.localizer(states, count)
        placed = pose_matrix(findings.target_numbers.detach())
        if start is not None:
            placed = torch.cat([start, placed[:, 1:]], dim=1)
        findings.target_poses = self.localizer.told_target(placed)
        return states
