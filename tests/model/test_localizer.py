"""The optional localizer: exact conversions, and a context that is still a function of itself alone."""

import pytest
import torch

from v4s_lib.model.localizer import pose_matrix, pose_numbers
from v4s_lib.model.pose import relative_to_start
from v4s_lib.worlds.cameras import check_rigid

CLOSE = {"atol": 1e-5, "rtol": 0}


def randn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def inputs(make_path) -> dict[str, torch.Tensor]:
    return {
        "target_latents": randn(4, 192, 3, 2, 3, seed=0),
        "timestep": torch.full((4,), 700.0),
        "target_time_index": torch.arange(60, 63).expand(4, -1),
        "context_latents": randn(2, 192, 5, 2, 3, seed=1),
        "context_time_index": torch.tensor([[3, 4, 17, 20, 50]] * 2),
        "camera_path": relative_to_start(make_path(4, 9)),
    }


def test_a_pose_comes_back_from_its_numbers(make_path):
    c2w = make_path(3, 9)
    torch.testing.assert_close(pose_matrix(pose_numbers(c2w)), c2w, **CLOSE)


def test_any_numbers_give_a_rigid_pose():
    """Even zeros, from which an untrained head starts, give finite numbers."""
    c2w = pose_matrix(randn(50, 3, 3, seed=2))
    check_rigid(c2w, "predicted poses")
    assert torch.isfinite(pose_matrix(torch.zeros(3, 3))).all()


@torch.no_grad()
def test_a_cached_context_gives_what_an_uncached_one_gives(make_transformer, inputs):
    model = make_transformer(localize_after=1, relative_time=True)
    expected, context_poses, start_pose = model(**inputs, return_poses=True)
    assert context_poses.shape == (2, 5, 4, 3, 3) and start_pose.shape == (4, 3, 3)
    cache = model.encode_context(inputs.pop("context_latents"), inputs.pop("context_time_index"))
    torch.testing.assert_close(model(**inputs, context_cache=cache), expected, **CLOSE)


@torch.no_grad()
def test_true_poses_put_the_path_into_the_contexts_axes(make_transformer, make_path, inputs):
    """A head that always says where the start frame stands: later blocks see start pose times path."""
    model, plain = make_transformer(localize_after=0), make_transformer()
    start = make_path(1, 1, seed=5)[0, 0]
    model.localizer.pose.weight.zero_()
    model.localizer.pose.bias.copy_(pose_numbers(start).flatten().repeat(4))
    for layer in model.localizer.adapter:
        layer.weight.zero_()
        layer.bias.zero_()
    plain.load_state_dict(model.state_dict(), strict=False)
    model.role_embedding[3] = model.role_embedding[0]  # the last context latent has a role of its own
    expected = plain(**{**inputs, "camera_path": start @ inputs["camera_path"]})
    torch.testing.assert_close(model(**inputs), expected, **CLOSE)


def test_what_a_localizer_needs(make_transformer):
    for changes in ({"context_attention": "two_way"}, {"position_size": None}):
        with pytest.raises(ValueError, match="^expected one_way context_attention and a position_size for a localizer"):
            make_transformer(localize_after=1, **changes)
    with pytest.raises(ValueError, match=r"^expected localize_after to be one of \(None, 0, 1\), got 2"):
        make_transformer(localize_after=2)
