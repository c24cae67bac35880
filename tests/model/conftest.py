"""Tiny random models whose every part is switched on: nothing is left at zero, where a mistake could hide."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.model.drawn import randn
from v4s_lib.model.pose import relative_to_start
from v4s_lib.model.transformer import ContextVideoTransformer
from v4s_lib.worlds.cameras import pose


def _transformer(**changes: object) -> ContextVideoTransformer:
    config = {
        "patch_size": (1, 1, 1),
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "in_channels": 4 * 3 * 4**2,
        "text_dim": None,
        "freq_dim": 16,
        "ffn_dim": 32,
        "num_layers": 2,
        "rope_theta": 100.0,
        "context_attention": "one_way",
        "pose_encoding": "ray_map",
        "position_size": (2, 3),
        "prediction_type": "sample",
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ContextVideoTransformer(**config | changes)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def _path(count: int, frames: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    angle = torch.rand(2, count, frames, generator=generator) * 2 - 1
    return pose(torch.rand(count, frames, 3, generator=generator) * 2, angle[0] * 3, angle[1] / 2)


@pytest.fixture(scope="session")
def make_transformer() -> Callable[..., ContextVideoTransformer]:
    """Builds a random transformer for 8x12 pixels in patches of 4; keywords change its config."""
    return _transformer


@pytest.fixture(scope="session")
def make_path() -> Callable[..., Tensor]:
    """Builds random rigid c2w (count, frames, 4, 4)."""
    return _path


@pytest.fixture
def latents() -> dict[str, Tensor]:
    """What a transformer of ``make_transformer`` is given at least: two contexts with two targets each."""
    return {
        "target_latents": randn(4, 192, 3, 2, 3, seed=0),
        "timestep": torch.full((4,), 700.0),
        "target_time_index": torch.arange(60, 63).expand(4, -1),
        "context_latents": randn(2, 192, 5, 2, 3, seed=1),
        "context_time_index": torch.tensor([[3, 4, 17, 20, 50]] * 2),
    }


@pytest.fixture
def inputs(make_path) -> dict[str, Tensor]:
    """What a transformer with sight is given: two contexts of five latents with two targets each, 16x24 pixels."""
    return {
        "target_latents": randn(4, 192, 3, 4, 6, seed=1),
        "timestep": torch.tensor([900.0, 300, 500, 700]),
        "target_time_index": torch.arange(9, 12).expand(4, -1),
        "context_latents": randn(2, 192, 5, 4, 6, seed=2),
        "context_time_index": torch.arange(5).expand(2, -1),
        "camera_path": relative_to_start(make_path(4, 9)),
    }
