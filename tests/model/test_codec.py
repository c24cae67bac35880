"""Which frames a latent holds, and that nothing is lost between pixels and latents."""

import pytest
import torch
from torch import Tensor

from v4s_lib.model.codec import PatchCodec, older_frames

CODEC = PatchCodec(4)


def told(frames: int) -> Tensor:
    """Frame i is a flat picture of value i / 100."""
    return (torch.arange(frames) / 100).view(1, frames, 1, 1, 1).expand(2, -1, 8, 12, 3)


def test_latent_k_holds_frames_4k_minus_3_to_4k_and_frame_0_is_alone():
    latents = CODEC.encode(told(13))
    assert latents.shape == (2, CODEC.channels, 4, 2, 3) == (2, 192, 4, 2, 3)
    values = (latents / 2 + 0.5)[0].unflatten(0, (4, 4, 4, 3))  # 4 frames, patch rows, patch columns, RGB, T, h, w
    assert torch.equal(values, values[:, :1, :1, :1, :, :1, :1].expand_as(values))
    expected = [[0, 0, 0, 0], [1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]
    assert (values[:, 0, 0, 0, :, 0, 0].T * 100).round().int().tolist() == expected


def test_a_patch_holds_its_own_pixels():
    frames = torch.zeros(1, 1, 8, 12, 3)
    frames[0, 0, 4:, 8:] = 1  # second row, third column of patches
    latents = CODEC.encode(frames)
    lit = latents[0, :, 0] > 0
    assert lit.any(dim=0).tolist() == [[False, False, False], [False, False, True]]
    assert lit[:, 1, 2].all()


def test_every_8_bit_value_comes_back():
    levels = (torch.arange(5 * 8 * 12 * 3) % 256).view(1, 5, 8, 12, 3)
    frames = levels / 255
    decoded = CODEC.decode(CODEC.encode(frames))
    assert torch.equal((decoded * 255).round().long(), levels)
    torch.testing.assert_close(decoded, frames, atol=1e-7, rtol=0)


def test_groups_come_back_and_values_outside_are_clipped():
    groups = torch.rand(2, 3, 4, 8, 12, 3, generator=torch.Generator().manual_seed(0))
    latents = CODEC.encode_groups(groups)
    torch.testing.assert_close(CODEC.decode_groups(latents), groups, atol=1e-7, rtol=0)
    assert CODEC.decode_groups(latents + 9).min() == 1 and CODEC.decode_groups(latents - 9).max() == 0


def test_frames_before_the_last_each_fill_a_latent():
    latents = older_frames(CODEC.encode(told(9)), CODEC.config.patch_size)
    assert latents.shape == (2, CODEC.channels, 9, 2, 3)
    values = CODEC.decode_groups(latents)[0]  # T 4 H W 3
    assert torch.equal(values, values[:, :1, :1, :1, :1].expand_as(values))
    assert (values[:, 0, 0, 0, 0] * 100).round().int().tolist() == [0, 0, 0, 1, 2, 3, 5, 6, 7]


def test_latents_span_minus_one_to_one_at_scale_2_and_more_at_a_larger_one():
    frames = torch.tensor([0.0, 0.5, 1.0]).view(1, 1, 1, 1, 3).expand(1, 1, 4, 4, 3)
    assert CODEC.encode(frames).unique().tolist() == [-1, 0, 1]
    loud = PatchCodec(4, scale=6)
    assert loud.encode(frames).unique().tolist() == [-3, 0, 3]
    assert torch.equal(loud.decode(loud.encode(frames)), frames)


def test_wrong_lengths_and_sizes_are_refused():
    with pytest.raises(ValueError, match=r"^expected 4k\+1 frames, got 12: drop frames at the end$"):
        CODEC.encode(told(12))
    with pytest.raises(ValueError, match="^expected height and width to be multiples of 4, got 8x10: resize$"):
        CODEC.encode(told(5)[:, :, :, :10])
