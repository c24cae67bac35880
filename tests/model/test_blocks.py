"""Rotary tables and the block, against diffusers' own and against what attention must do."""

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed, WanTransformerBlock

from tests.model.drawn import randn
from v4s_lib.model.blocks import ContextVideoBlock, TimeIndexRotaryEmbed, rotate


@pytest.fixture(scope="module")
def block() -> ContextVideoBlock:
    torch.manual_seed(0)
    block = ContextVideoBlock(48, 64, 2, cross_attn_norm=True, eps=1e-6, text=True)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return block.eval()


@pytest.fixture(scope="module")
def rope() -> TimeIndexRotaryEmbed:
    return TimeIndexRotaryEmbed(24, (1, 1, 1), 1024)


def test_contiguous_indices_give_wans_tables(rope):
    stock = WanRotaryPosEmbed(24, (1, 1, 1), 1024)(torch.zeros(1, 4, 5, 2, 3))
    ours = rope(torch.arange(5)[None], 2, 3)
    for table, theirs, part in zip(ours, stock, (slice(0, None, 2), slice(1, None, 2)), strict=True):
        assert table.shape == (1, 1, 30, 12)
        assert torch.equal(table[0, 0], theirs[0, :, 0, part])


def test_a_latents_table_depends_on_its_own_index_alone(rope):
    cos, _ = rope(torch.tensor([[0, 7, 1023], [1023, 2, 7]]), 2, 3)
    cos = cos[:, 0].unflatten(1, (3, 6))
    assert torch.equal(cos[0, 1], cos[1, 2])
    assert torch.equal(cos[0, 2], cos[1, 0])
    assert not torch.equal(cos[0, 0], cos[0, 1])


@pytest.mark.parametrize(("index", "got"), [([0, 1024], r"0\.\.1024"), ([-1, 3], r"-1\.\.3")])
def test_an_index_out_of_range_is_refused(rope, index, got):
    with pytest.raises(ValueError, match=rf"^expected time indices in 0\.\.1023, got {got}: shorten the scan"):
        rope(torch.tensor([index]), 2, 3)


def test_rotate_turns_pairs_by_the_angle():
    angle = torch.tensor([0.0, torch.pi / 2, torch.pi])
    x = torch.tensor([1.0, 0, 1, 0, 1, 0])
    turned = rotate(x[None, None, None], (angle.cos(), angle.sin()))[0, 0, 0]
    torch.testing.assert_close(turned, torch.tensor([1.0, 0, 0, 1, -1, 0]), atol=1e-6, rtol=0)


def test_the_block_is_wans_with_one_modulation_a_latent(block, rope):
    stock = WanTransformerBlock(48, 64, 2, cross_attn_norm=True).eval()
    stock.load_state_dict(block.state_dict())
    states, text, modulation = randn(2, 18, 48), randn(2, 5, 48, seed=1), randn(2, 3, 6, 48, seed=2)
    tables = WanRotaryPosEmbed(24, (1, 1, 1), 1024)(torch.zeros(1, 4, 3, 2, 3))
    expected = stock(states, text, modulation.repeat_interleave(6, dim=1), tables)
    out, _ = block(states, modulation, rope(torch.arange(3).expand(2, -1), 2, 3), text)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)


def test_keys_of_a_context_are_as_good_as_its_tokens(block, rope):
    """In one block, tokens that attend to [context, self] come out as they do in the joint sequence."""
    states, modulation = randn(1, 30, 48), randn(1, 5, 6, 48, seed=1)
    index = torch.tensor([[3, 9, 20, 40, 41]])
    joint, (keys, values) = block(states, modulation, rope(index, 2, 3))
    _, cache = block(states[:, :18], modulation[:, :3], rope(index[:, :3], 2, 3))
    out, own = block(states[:, 18:], modulation[:, 3:], rope(index[:, 3:], 2, 3), context=cache)
    torch.testing.assert_close(out, joint[:, 18:], atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.cat([cache[0], own[0]], dim=2), keys, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.cat([cache[1], own[1]], dim=2), values, atol=1e-5, rtol=0)
