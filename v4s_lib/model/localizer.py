"""An optional part that makes a one-way model work out where its context stands. Not in the paper.

After some blocks a small head predicts, from a latent's tokens alone, the pose of each of its four frames relative to
the last context latent's last frame. The prediction, turned into rays, is added to the tokens of the later blocks. The
head is taught with true poses in training; at sampling the model still gets nothing but video.
Source: our choice, after prototypes in which localising was the bottleneck.
"""

import torch
from torch import Tensor, nn

from v4s_lib.model.blocks import zero_linear
from v4s_lib.model.pose import POSE_FEATURES

FRAMES = 4  # a latent
TIME_PERIODS = (4, 8, 16, 32, 64, 128, 256)  # latents, of the waves that tell how long ago a context latent was taken
TIME_WAVES = 2 * len(TIME_PERIODS)


class Localizer(nn.Module):
    """Poses from tokens, and one zero-initialised adapter of the poses' rays for each later block."""

    def __init__(self, dim: int, tokens: int, later_blocks: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.hidden = nn.Linear(tokens * dim, 2 * dim)
        self.pose = nn.Linear(2 * dim, FRAMES * 9)
        self.told = nn.Identity()  # the poses on their way to the later blocks; training may swap in true ones here
        self.carry = zero_linear(dim, dim)
        self.adapter = nn.ModuleList(zero_linear(POSE_FEATURES["ray_map"], dim) for _ in range(later_blocks))

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


def place_path(path: Tensor | None, mask: Tensor | None, start_pose: Tensor | None, time_index: Tensor) -> Tensor:
    """The camera path (B, T, 4, 4, 4) in the context's axes or, without a context, in the start frame's.

    Args:
        path: relative to the start frame; None if it is not known, and then it stays at the start frame.
        mask: (B,) False where the path is to be ignored; None ignores none.
        start_pose: (B, 1, 4, 3, 3) as predicted, or None without a context.
        time_index: (B, T) of the path's latents.
    """
    shape = (*time_index.shape, FRAMES, 4, 4)
    if start_pose is None:
        start = torch.eye(4, device=time_index.device).expand(shape)
    else:
        start = pose_matrix(start_pose.detach())[:, :, -1:].expand(shape)
    if path is None:
        return start
    with torch.autocast(path.device.type, enabled=False):  # as in ray_map: bf16 would turn it
        moved = start @ path
    return moved if mask is None else torch.where(mask[:, None, None, None, None], moved, start)


def time_waves(time_index: Tensor) -> Tensor:
    """Sinusoids (B, T, TIME_WAVES) of how long before the last context latent each one was taken."""
    before = (time_index[:, -1:] - time_index).float()[..., None]
    angle = before * (2 * torch.pi / before.new_tensor(TIME_PERIODS))
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def check_localizer(
    after: int | None, context_attention: str, position_size: tuple[int, int] | None, ray_rotary: bool
) -> None:
    """Raise ``ValueError`` for options of the transformer that do not go together."""
    if after is not None and (context_attention != "one_way" or position_size is None):
        raise ValueError(
            "expected one_way context_attention and a position_size for a localizer, "
            f"got {context_attention} and {position_size}: give both or leave localize_after None"
        )
    if ray_rotary and after is None:
        raise ValueError("expected a localizer for ray_rotary, got localize_after None: set it")
