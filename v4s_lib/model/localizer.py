"""An optional part that makes a one-way model work out where its context stands. Not in the paper.

After some blocks a small head predicts, from a latent's tokens alone, the pose of each of its four frames relative to
the last context latent's last frame. The prediction, turned into rays, is added to the tokens of the later blocks. The
head is taught with true poses in training; at sampling the model still gets nothing but video.
Source: our choice, after prototypes in which localising was the bottleneck.
"""

import torch
from torch import Tensor, nn

from v4s_lib.model.pose import POSE_FEATURES

FRAMES = 4  # a latent


class Localizer(nn.Module):
    """Poses from tokens, and one zero-initialised adapter of the poses' rays for each later block."""

    def __init__(self, dim: int, tokens: int, later_blocks: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.hidden = nn.Linear(tokens * dim, 2 * dim)
        self.pose = nn.Linear(2 * dim, FRAMES * 9)
        self.carry = nn.Linear(dim, dim)
        nn.init.zeros_(self.carry.weight)
        nn.init.zeros_(self.carry.bias)
        self.adapter = nn.ModuleList(nn.Linear(POSE_FEATURES["ray_map"], dim) for _ in range(later_blocks))
        for layer in self.adapter:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, states: Tensor, latents: int) -> Tensor:
        """Tokens (B, T*S, D) of T latents to (B, T, 4, 3, 3): right axis, down axis and position of every frame."""
        tokens = self.norm(states.unflatten(1, (latents, -1))).flatten(2)
        numbers = self.pose(nn.functional.gelu(self.hidden(tokens)))
        return numbers.float().unflatten(-1, (FRAMES, 3, 3))


    def draw_from(self, embedded: Tensor, states: Tensor) -> Tensor:
        """Tokens for the later blocks: the pixels afresh, and what the blocks before found out about them.

        Blocks that learn to localise drown the pixels they began with, and drawing needs those.
        """
        return embedded + self.carry(self.norm(states)).type_as(embedded)


def pose_numbers(c2w: Tensor) -> Tensor:
    """What the head is to predict for poses (..., 4, 4): right axis, down axis and position, (..., 3, 3)."""
    return torch.stack([c2w[..., :3, 0], c2w[..., :3, 1], c2w[..., :3, 3]], dim=-2)


def pose_matrix(numbers: Tensor) -> Tensor:
    """Rigid c2w (..., 4, 4) from predicted numbers (..., 3, 3), by Gram-Schmidt."""
    right = nn.functional.normalize(numbers[..., 0, :], dim=-1, eps=1e-4)
    down = numbers[..., 1, :] - (right * numbers[..., 1, :]).sum(-1, keepdim=True) * right
    down = nn.functional.normalize(down, dim=-1, eps=1e-4)
    forward = torch.linalg.cross(right, down, dim=-1)
    top = torch.stack([right, down, forward, numbers[..., 2, :]], dim=-1)
    bottom = top.new_tensor([0.0, 0, 0, 1]).expand(*top.shape[:-2], 1, 4)
    return torch.cat([top, bottom], dim=-2)
