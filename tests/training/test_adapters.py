"""Adapters: nothing changes at first, what is trained is what should be, and merged weights give the same output."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.model.drawn import randn
from tests.training.tiny_cache import MODEL, SCALE
from v4s_lib.model.transformer import ContextVideoTransformer
from v4s_lib.training.adapters import (
    BASE,
    FILE,
    adapter_config,
    add_adapters,
    base_of,
    load_adapters,
    main,
    save_adapters,
)
from v4s_lib.training.full import SCALES
from v4s_lib.training.sharding import trained

INPUTS = {
    "target_latents": randn(1, 768, 3, 4, 6),
    "timestep": torch.tensor([700.0]),
    "target_time_index": torch.arange(60, 63)[None],
    "context_latents": randn(1, 768, 4, 4, 6, seed=1),
    "context_time_index": torch.tensor([[0, 3, 7, 9]]),
    "encoder_hidden_states": randn(1, 5, 8, seed=2),
    "camera_path": torch.eye(4).expand(1, 3, 4, 4, 4),
}


def base(seed: int = 0, way: str = "one_way") -> ContextVideoTransformer:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ContextVideoTransformer(**MODEL, context_attention=way).eval()


def output(model: ContextVideoTransformer) -> torch.Tensor:
    with torch.no_grad():
        return model(**INPUTS)


@pytest.fixture
def saved(tmp_path) -> Path:
    """Adapters and new parts of random values."""
    model = base()
    trained_on = base_of(model)
    add_adapters(model, adapter_config(2))
    tensors = {name: 0.2 * randn(*value.shape, seed=i) for i, (name, value) in enumerate(trained(model).items())}
    save_adapters(tmp_path, adapter_config(2), tensors, trained_on)
    return tmp_path


def test_adapters_change_nothing_at_first_and_train_with_the_new_parts_alone():
    model = base()
    expected = output(model)
    add_adapters(model, adapter_config(2))
    assert torch.equal(output(model), expected)
    names = set(trained(model))
    new = {"role_embedding", *(f"pose_adapter.{i}.{part}" for i in range(3) for part in ("weight", "bias"))}
    attention = [f"{name}.{layer}" for name in ("attn1", "attn2") for layer in ("to_q", "to_k", "to_v", "to_out.0")]
    layers = [f"blocks.{i}.{layer}" for i in range(3) for layer in (*attention, "ffn.net.0.proj", "ffn.net.2")]
    assert names == new | {f"{layer}.lora_{part}.default.weight" for layer in layers for part in "AB"}


def test_merged_weights_give_the_output_of_the_adapters(saved):
    adapted = load_adapters(saved, base())
    expected = output(adapted.model)
    assert (expected - output(base())).abs().max() > 0.1
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(output(merged), expected, atol=1e-4, rtol=1e-4)
    merged.save_pretrained(saved / "merged")  # a plain model again, which loads strictly
    assert torch.equal(output(ContextVideoTransformer.from_pretrained(saved / "merged")), output(merged))


def test_the_command_writes_a_plain_model(saved, monkeypatch, capsys):
    monkeypatch.setitem(SCALES, SCALE.name, SCALE)
    base().save_pretrained(saved / "base")
    asked = [str(saved), "--scale", SCALE.name, "--weights", str(saved / "base"), "--out", str(saved / "merged")]
    assert main(asked) == 0
    expected = output(load_adapters(saved, base()).merge_and_unload())
    assert torch.equal(output(ContextVideoTransformer.from_pretrained(saved / "merged").eval()), expected)
    assert main(asked) == 2
    assert "expected a free place for the weights, got the existing" in capsys.readouterr().err


def test_adapters_go_into_no_other_model_than_theirs(saved, monkeypatch, capsys):
    sentence = f"^expected the model that the adapters in {saved} were trained on, got one with another {{}}: load them"
    with pytest.raises(ValueError, match=sentence.format("context_attention")):
        load_adapters(saved, base(way="two_way"))
    with pytest.raises(ValueError, match=sentence.format("frozen_weights")):
        load_adapters(saved, base(seed=1))
    with torch.no_grad():
        other = base()
        other.blocks[2].norm2.bias[0] += 1e-6  # one value that no adapter touches
        with pytest.raises(ValueError, match=sentence.format("frozen_weights")):
            load_adapters(saved, other)
        same = base()
        same.role_embedding += 1.0  # a new part, which was trained: it comes with the adapters
        load_adapters(saved, same)
    monkeypatch.setitem(SCALES, SCALE.name, SCALE)
    base(seed=1).save_pretrained(saved / "other")
    asked = [str(saved), "--scale", SCALE.name, "--weights", str(saved / "other"), "--out", str(saved / "merged")]
    assert main(asked) == 2
    error = capsys.readouterr().err
    assert "got one with another frozen_weights: load them into that model" in error and error.count("\n") == 1
    assert not (saved / "merged").exists()


def test_adapters_load_strictly(saved):
    tensors = load_file(saved / FILE)
    tensors["another"] = tensors.pop("role_embedding")
    save_file(tensors, saved / FILE)
    with pytest.raises(ValueError, match=r"missing \['role_embedding'\] and unexpected \['another'\]"):
        load_adapters(saved, base())
    for name in (BASE, FILE):
        (saved / name).unlink()
        with pytest.raises(FileNotFoundError, match=f"^expected {name} in .*, got no such file: train with --lora"):
            load_adapters(saved, base())
