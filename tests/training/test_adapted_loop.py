"""Adapters trained on a cache: they resume in shards, know their base, and merge into it."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file

from tests.training.many import run
from tests.training.test_full_loop import lines, losses
from tests.training.tiny_cache import SCALE
from v4s_lib.model.stock import load_stock
from v4s_lib.model.weights import WEIGHTS, state_digest
from v4s_lib.training.adapters import BASE, FILE, load_adapters
from v4s_lib.training.full_loop import Job, finetune

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes are forked as on Unix")


@pytest.fixture(scope="module")
def stock(tmp_path_factory) -> Path:
    """A WanTransformer3DModel of the scale's sizes, as diffusers saves it."""
    folder = tmp_path_factory.mktemp("stock")
    torch.manual_seed(0)
    sizes = {name: value for name, value in SCALE.model.items() if name != "pose_encoding"}
    WanTransformer3DModel(**sizes).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapted(cache, stock, tmp_path_factory) -> Path:
    """Stock weights with adapters of rank 2, four steps in one process."""
    out = tmp_path_factory.mktemp("adapted")
    fast = replace(SCALE, lora_learning_rate=1e-2)
    run(finetune, (Job(fast, cache, out, stock, lora=2, save_every=2),))
    return out


def test_adapters_resume_in_shards_and_merge(adapted, cache, stock, tmp_path):
    out = shutil.copytree(adapted, tmp_path / "out")
    shutil.rmtree(out / "checkpoints" / "checkpoint-0000004")
    shutil.rmtree(out / "adapters")
    job = Job(replace(SCALE, lora_learning_rate=1e-2), cache, out, stock, lora=2, save_every=2)
    run(finetune, (job,), processes=2, sharded=True)
    assert losses(out) == pytest.approx(losses(adapted), rel=1e-4)
    tensors, expected = (load_file(place / "adapters" / FILE) for place in (out, adapted))
    assert tensors.keys() == expected.keys()
    for name, value in tensors.items():
        torch.testing.assert_close(value, expected[name], atol=1e-5, rtol=1e-3)
    assert losses(out)[-2] < losses(out)[0]  # it learns
    base = load_stock(stock, pose_encoding="c2w_12")
    told = {"context_attention": "two_way", "frozen_weights": state_digest(load_file(stock / WEIGHTS))}
    assert json.loads((out / "adapters" / BASE).read_text()) == told  # the digest is of the whole weights
    assert any(value.any() for name, value in tensors.items() if "lora_B" in name)
    merged = load_adapters(out / "adapters", load_stock(stock, pose_encoding="c2w_12")).merge_and_unload()
    assert merged.state_dict().keys() == base.state_dict().keys()
    assert not torch.equal(merged.blocks[0].ffn.net[2].weight, base.blocks[0].ffn.net[2].weight)


def test_adapters_have_a_learning_rate_of_their_own(adapted, cache, stock):
    assert [line["rate"] for line in lines(adapted)] == [1e-2] * 4 and SCALE.learning_rate == 1e-5
    assert Job(SCALE, cache, adapted, stock, lora=2).learning_rate == 1e-4
    with pytest.raises(ValueError, match="with the same lora_learning_rate, got another"):
        finetune(Job(SCALE, cache, adapted, stock, lora=2))


def test_adapters_do_not_go_on_with_another_base(adapted, cache, stock, tmp_path):
    """A base with the same output layer, and one other bias in a layer that has no adapter."""
    other = WanTransformer3DModel.from_pretrained(stock)
    with torch.no_grad():
        other.blocks[0].norm2.bias[0] += 1.0
    other.save_pretrained(tmp_path)
    job = Job(replace(SCALE, lora_learning_rate=1e-2), cache, adapted, tmp_path, lora=2, save_every=2)
    with pytest.raises(ValueError, match="^expected to resume .* with the same weights, got another: use the old"):
        finetune(job)
