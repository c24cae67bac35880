"""Random numbers from a seed of their own, poses that are disturbed by them, and how far off those are."""

import math

import torch

from v4s_lib.worlds.cameras import rotation_angle, translation_distance


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def disturbed(c2w: torch.Tensor, turn: float, shift: float, seed: int) -> torch.Tensor:
    """Poses (..., 4, 4) turned about the three axes by normal angles of ``turn`` degrees and moved by ``shift`` m."""
    axis = randn(*c2w.shape[:-2], 3, seed=seed) * math.radians(turn)
    generator = torch.zeros(*c2w.shape[:-2], 4, 4)
    generator[..., 0, 1], generator[..., 0, 2], generator[..., 1, 2] = axis.unbind(-1)
    generator = generator - generator.transpose(-1, -2)
    generator[..., :3, 3] = 0
    moved = torch.linalg.matrix_exp(generator)
    moved[..., :3, 3] = shift * randn(*c2w.shape[:-2], 3, seed=seed + 1)
    return c2w @ moved


def errors(c2w: torch.Tensor, truth: torch.Tensor, which: str = "max") -> tuple[float, float]:
    """Degrees and metres between poses: the largest, or the mean, of all."""
    found = rotation_angle(c2w, truth), translation_distance(c2w, truth)
    return tuple(getattr(value, which)().item() for value in found)
