"""An optional part that looks up in the context what an instruction names. Not in the paper.

Every context token gets a key from its own pixels, every instruction a query from its words. Where they agree the token
shows what is named, and the localizer knows where that token looks: so the model learns where the thing stands before
it plans a path to it. Taught in training by which tokens show the named object; at sampling there is video alone.
Source: our choice, after a training in which words stayed unread: an object is a few pixels of the loss.
"""

import torch
from torch import Tensor, nn

from v4s_lib.model.blocks import zero_linear
from v4s_lib.model.pose import POSE_FEATURES

LOOKS = 4  # words that a query is put together from: an article, a colour, a kind, a relation


class Finder(nn.Module):
    """Keys of context tokens, queries of instructions, and what their meeting tells a target's tokens."""

    def __init__(self, dim: int, channels: int, patch_size: tuple[int, int, int]) -> None:
        super().__init__()
        self.pixels = nn.Conv3d(channels, 2 * dim, kernel_size=patch_size, stride=patch_size)
        self.key = nn.Sequential(nn.GELU(), nn.Linear(2 * dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.nothing = nn.Parameter(torch.zeros(dim))  # the key of what no token shows
        self.attend = nn.Linear(dim, LOOKS)
        self.query = nn.Sequential(nn.Linear(LOOKS * dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.tell = zero_linear(POSE_FEATURES["ray_map"], dim)

    def keys(self, latents: Tensor) -> Tensor:
        """Context latents (B, C, T, H, W) to keys (B, N, D)."""
        return self.key(self.pixels(latents).flatten(2).transpose(1, 2))

    def forward(self, text: Tensor, keys: Tensor) -> Tensor:
        """Logits (B, 1 + N) of each of B texts (B, L, D) for nothing and for the tokens with ``keys`` (B, N, D)."""
        words = self.attend(text).softmax(dim=1).transpose(1, 2) @ text
        query = self.query(words.flatten(1)) / keys.shape[-1] ** 0.5
        keys = torch.cat([self.nothing.expand(len(keys), 1, -1).type_as(keys), keys], dim=1)
        return (keys @ query.type_as(keys)[..., None])[..., 0].float()

    def change(self, logits: Tensor, rays: Tensor) -> Tensor:
        """What the targets' tokens are told (B, 1, D): the rays (B, N, F) of the tokens that show what is named."""
        share = logits.softmax(dim=1)[:, 1:, None]
        return self.tell((share * rays).sum(dim=1, keepdim=True))
