"""Which frames a latent holds, and which latents may be context."""

import pytest
import torch

from v4s_lib.data.windows import latent_frame_range, sample_context
from v4s_lib.worlds.paths import latent_frames


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_latents_hold_every_frame_once():
    assert list(latent_frame_range(0)) == [0]
    assert list(latent_frame_range(1)) == [1, 2, 3, 4]
    assert list(latent_frame_range(7)) == [25, 26, 27, 28]
    held = [frame for latent in range(24) for frame in latent_frame_range(latent)]
    assert held == list(range(latent_frames(24))) == list(range(93))
    with pytest.raises(ValueError, match="expected a latent index of 0 or more, got -1"):
        latent_frame_range(-1)


def test_context_is_sorted_without_repeats_and_outside_the_gap():
    for seed in range(50):
        context = sample_context(100, 40, generator(seed), target_start=30, target_latents=8, gap=4)
        assert context.dtype == torch.long and context.shape == (40,)
        assert (context.diff() > 0).all()
        assert not ((context >= 26) & (context < 42)).any()


def test_everything_outside_the_gap_is_allowed():
    context = sample_context(20, 11, generator(), target_start=8, target_latents=3, gap=3)
    assert context.tolist() == [0, 1, 2, 3, 4, 14, 15, 16, 17, 18, 19]
    assert sample_context(5, 5, generator()).tolist() == [0, 1, 2, 3, 4]


def test_context_is_uniform():
    """Each of 12 free latents is drawn with probability 1/2; 2000 draws leave it within 5 standard deviations."""
    counts = torch.zeros(20)
    for seed in range(2000):
        counts[sample_context(20, 6, generator(seed), target_start=8, target_latents=4, gap=2)] += 1
    assert counts[6:14].sum() == 0
    free = torch.cat([counts[:6], counts[14:]])
    assert ((free - 1000).abs() < 5 * (2000 * 0.25) ** 0.5).all()


def test_a_seed_gives_the_same_context():
    assert torch.equal(sample_context(100, 20, generator(3)), sample_context(100, 20, generator(3)))
    assert not torch.equal(sample_context(100, 20, generator(3)), sample_context(100, 20, generator(4)))


def test_too_few_latents_and_windows_outside_are_refused():
    with pytest.raises(ValueError, match=r"^expected 1 to 11 context latents .*, got 12: ask for fewer"):
        sample_context(20, 12, generator(), target_start=8, target_latents=3, gap=3)
    with pytest.raises(ValueError, match=r"expected 1 to 0 context latents .*, got 1"):
        sample_context(20, 1, generator(), target_start=8, target_latents=3, gap=50)
    for start, latents in ((-1, 3), (18, 3), (4, 0)):
        with pytest.raises(ValueError, match="expected a target window inside the scan's 20 latents"):
            sample_context(20, 4, generator(), target_start=start, target_latents=latents)
