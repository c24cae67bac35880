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
from v4s_lib.model.transformer import NEW_KEYS, ContextVideoTransformer
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


def with_context(
    model: ContextVideoTransformer, context_index: Tensor, target_index: Tensor, path: Tensor | None = None
) -> Tensor:
    """Three context latents, the start latent and two noisy ones, at these time indices (3,) each."""
    return model(
        LATENTS[:, :, 3:],
        TIMES,
        target_index.expand(2, -1),
        context_latents=LATENTS[:, :, :3],
        context_time_index=context_index.expand(2, -1),
        encoder_hidden_states=TEXT,
        camera_path=path,
    )


@pytest.mark.parametrize(("pose_encoding", "first"), [(None, 0), ("ray_map", 0), (None, 700)])
@torch.no_grad()
def test_clean_context_and_start_latents_are_wans_timesteps_of_zero(stock, folder, make_path, pose_encoding, first):
    """Six tokens a latent. Where the count of the latents begins is all one."""
    model = load_stock(folder, pose_encoding=pose_encoding)
    times = torch.zeros(2, 6)
    times[:, 4:] = TIMES[:, None]
    expected = stock(LATENTS, times.repeat_interleave(6, dim=1), TEXT).sample
    path = None if pose_encoding is None else relative_to_start(make_path(2, 9))
    output = with_context(model, first + torch.arange(3), first + torch.arange(3, 6), path)
    torch.testing.assert_close(output, expected[:, :, 3:], **CLOSE)
    noisy = stock(LATENTS, TIMES, TEXT).sample
    assert (noisy - expected)[:, :, 3:].abs().max() > 1e-3  # zero timesteps matter


@pytest.mark.parametrize("way", ["two_way", "one_way"])
@torch.no_grad()
def test_where_in_the_scan_a_latent_lies_matters_and_where_the_count_begins_does_not(folder, way):
    """Wan's rotary embedding compares places: a gap in them is seen, a shift of all of them is not."""
    model, context, target = load_stock(folder, way), torch.tensor([3, 10, 40]), torch.tensor([91, 92, 93])
    output = with_context(model, context, target)
    torch.testing.assert_close(with_context(model, context + 500, target + 500), output, **CLOSE)
    others = {"a context latent": (torch.tensor([3, 20, 40]), target), "all of them": (context + 25, target)}
    others |= {"the targets": (context, target + 25), "their order": (context.flip(0), target)}
    for name, index in others.items():
        assert (with_context(model, *index) - output).abs().max() > 1e-3, name


def test_new_parts_are_zero_and_all_else_is_wans(stock, folder):
    model = load_stock(folder, context_attention="one_way", pose_encoding="c2w_12", horizontal_fov=70.0)
    state, theirs = model.state_dict(), stock.state_dict()
    new = {key for key in state if key.startswith(NEW_KEYS)}
    assert new == {"role_embedding"} | {f"pose_adapter.{i}.{part}" for i in range(2) for part in ("weight", "bias")}
    assert all((state[key] == 0).all() for key in new)
    assert state.keys() - new == theirs.keys()
    assert all(torch.equal(state[key], value) for key, value in theirs.items())
    assert (model.config.context_attention, model.config.horizontal_fov) == ("one_way", 70.0)


@pytest.mark.parametrize("shard", ["5GB", "100KB"])
@torch.no_grad()
def test_a_stock_pipelines_subfolder_is_read_as_our_own_weights_are(stock, tmp_path, shard):
    stock.save_pretrained(tmp_path / "transformer", max_shard_size=shard)
    assert (len(list(tmp_path.glob("transformer/*.safetensors"))) > 1) == (shard == "100KB")
    model = ContextVideoTransformer.from_pretrained(tmp_path, subfolder="transformer")
    output = model(LATENTS, TIMES, torch.arange(6).expand(2, -1), encoder_hidden_states=TEXT, clean_latents=0)
    torch.testing.assert_close(output, stock(LATENTS, TIMES, TEXT).sample, **CLOSE)
    assert torch.equal(model.role_embedding, torch.zeros(4, 48)) and model.role_embedding.requires_grad
    half = {"torch_dtype": torch.bfloat16, "pose_encoding": "ray_map"}
    model = ContextVideoTransformer.from_pretrained(tmp_path, subfolder="transformer", **half)
    assert {value.dtype for value in model.parameters()} == {torch.bfloat16} and model.pose_adapter is not None


def test_saved_again_it_is_a_model_of_ours_and_lacks_no_key(folder, tmp_path):
    load_stock(folder).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["_class_name"] == "ContextVideoTransformer"
    weights = load_file(tmp_path / WEIGHTS)
    ContextVideoTransformer.from_pretrained(tmp_path)
    del weights["role_embedding"]
    save_file(weights, tmp_path / WEIGHTS)
    with pytest.raises(ValueError, match=r"missing \['role_embedding'\] and unexpected \[\]"):
        ContextVideoTransformer.from_pretrained(tmp_path)


def test_parts_that_do_not_start_at_zero_are_missing(folder):
    options = {"context_attention": "one_way", "context_compression": (1, 2, 2)}
    with pytest.raises(ValueError, match=r"missing \['context_pool.0[^\]]*'\] and unexpected \[\]"):
        ContextVideoTransformer.from_pretrained(folder, **options)


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
    text = (copy / "config.json").read_text()
    for name in ("image_dim", "a_switch_of_later"):
        (copy / "config.json").write_text(json.dumps(json.loads(text) | {name: 8}))
        with pytest.raises(ValueError, match=rf"^expected a text-to-video Wan model in .*, got one with \['{name}'\]"):
            load_stock(copy)
    (copy / "config.json").write_text(text)
    torch.save(load_file(copy / WEIGHTS), copy / "diffusion_pytorch_model.bin")
    (copy / WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError, match=rf"^expected {WEIGHTS} in .*, got no such file: download"):
        load_stock(copy)
