"""Stock Wan weights in our transformer give stock Wan's output."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from v4s_lib.model.pose import relative_to_start
from v4s_lib.model.stock import load_stock
from v4s_lib.model.transformer import NEW_KEYS
from v4s_lib.model.weights import WEIGHTS

CLOSE = {"atol": 1e-5, "rtol": 0}
TIMES = torch.tensor([417.0, 903.0])


@pytest.fixture(scope="module")
def stock() -> WanTransformer3DModel:
    torch.manual_seed(0)
    model = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=24,
        in_channels=4,
        out_channels=4,
        text_dim=16,
        freq_dim=32,
        ffn_dim=64,
        num_layers=2,
        cross_attn_norm=True,
    )
    with torch.no_grad():  # norms start at one and biases at zero: there a swap would not show
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(scope="module")
def folder(stock, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("stock")
    stock.save_pretrained(path)
    return path


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


LATENTS, TEXT = randn(2, 4, 6, 4, 6, seed=0), randn(2, 7, 16, seed=1)


@pytest.mark.parametrize("pose_encoding", [None, "ray_map", "c2w_12"])
@torch.no_grad()
def test_scalar_timestep_without_context(stock, folder, make_path, pose_encoding):
    model = load_stock(folder, pose_encoding=pose_encoding)
    path = None if pose_encoding is None else relative_to_start(make_path(2, 21))
    output = model(
        LATENTS,
        TIMES,
        torch.arange(6).expand(2, -1),
        encoder_hidden_states=TEXT,
        camera_path=path,
        clean_latents=0,
    )
    expected = stock(LATENTS, TIMES, TEXT).sample
    torch.testing.assert_close(output, expected, **CLOSE)
    assert (stock(LATENTS, TIMES, TEXT * 0.5).sample - expected).abs().max() > 1e-3  # the text is heard


@pytest.mark.parametrize("pose_encoding", [None, "ray_map"])
@torch.no_grad()
def test_clean_context_and_start_latents_are_wans_timesteps_of_zero(stock, folder, make_path, pose_encoding):
    """Three context latents, the start latent and two noisy ones; six tokens a latent."""
    model = load_stock(folder, pose_encoding=pose_encoding)
    times = torch.zeros(2, 6)
    times[:, 4:] = TIMES[:, None]
    expected = stock(LATENTS, times.repeat_interleave(6, dim=1), TEXT).sample
    output = model(
        LATENTS[:, :, 3:],
        TIMES,
        torch.arange(3, 6).expand(2, -1),
        context_latents=LATENTS[:, :, :3],
        context_time_index=torch.arange(3).expand(2, -1),
        encoder_hidden_states=TEXT,
        camera_path=None if pose_encoding is None else relative_to_start(make_path(2, 9)),
    )
    torch.testing.assert_close(output, expected[:, :, 3:], **CLOSE)
    noisy = stock(LATENTS, TIMES, TEXT).sample
    assert (noisy - expected)[:, :, 3:].abs().max() > 1e-3  # zero timesteps matter


def test_new_parts_are_zero_and_all_else_is_wans(stock, folder):
    model = load_stock(folder, context_attention="one_way", pose_encoding="c2w_12", horizontal_fov=70.0)
    state, theirs = model.state_dict(), stock.state_dict()
    new = {key for key in state if key.startswith(NEW_KEYS)}
    assert new == {"role_embedding"} | {f"pose_adapter.{i}.{part}" for i in range(2) for part in ("weight", "bias")}
    assert all((state[key] == 0).all() for key in new)
    assert state.keys() - new == theirs.keys()
    assert all(torch.equal(state[key], value) for key, value in theirs.items())
    assert (model.config.context_attention, model.config.horizontal_fov) == ("one_way", 70.0)


def test_shards_are_loaded_too(stock, folder, tmp_path):
    stock.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    whole, shards = load_stock(folder).state_dict(), load_stock(tmp_path).state_dict()
    assert all(torch.equal(shards[key], value) for key, value in whole.items())


@pytest.fixture
def copy(folder, tmp_path) -> Path:
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    (tmp_path / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes())
    return tmp_path


def test_missing_and_unexpected_keys_are_listed(copy):
    weights = load_file(copy / WEIGHTS)
    weights["blocks.0.attn1.to_q.wait"] = weights.pop("blocks.0.attn1.to_q.weight")
    save_file(weights, copy / WEIGHTS)
    name = "blocks.0.attn1.to_q"
    with pytest.raises(ValueError, match=rf"missing \['{name}.weight'\] and unexpected \['{name}.wait'\]"):
        load_stock(copy)


def test_a_new_key_in_a_checkpoint_does_not_stand_in_for_a_missing_one(copy):
    weights = load_file(copy / WEIGHTS)
    weights["role_embedding"] = torch.zeros(4, 48)
    del weights["proj_out.bias"]
    save_file(weights, copy / WEIGHTS)
    with pytest.raises(ValueError, match=r"missing \['proj_out.bias'\] and unexpected \[\]"):
        load_stock(copy)


def test_pickled_weights_and_image_models_are_refused(copy):
    torch.save(load_file(copy / WEIGHTS), copy / "diffusion_pytorch_model.bin")
    (copy / WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError, match=rf"^expected {WEIGHTS} in .*, got no such file: download"):
        load_stock(copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"image_dim": 8}))
    with pytest.raises(ValueError, match=r"^expected a text-to-video Wan model in .*, got one with \['image_dim'\]"):
        load_stock(copy)
