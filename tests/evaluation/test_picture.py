import math

import pytest
import torch

from v4s_lib.evaluation.picture import PICTURE_UNITS, PSNR_CEILING, picture_measures, pooled_psnr, ssim
from v4s_lib.worlds.visibility import Partition

FRAMES, HEIGHT, WIDTH = 5, 32, 48


def masks(recalled_columns=16, never_columns=8):
    column = torch.arange(WIDTH).expand(FRAMES, HEIGHT, WIDTH)
    recalled = column < recalled_columns
    never = column >= WIDTH - never_columns
    return Partition(~(recalled | never), recalled, never)


def grey(value=0.5, frames=FRAMES):
    return torch.full((frames, HEIGHT, WIDTH, 3), value)


def test_known_decibels_by_region():
    """Errors of 0.1, 0.01 and 1 are 20, 40 and 0 dB; a region's measure hears of its own pixels only."""
    known, truth = masks(), torch.zeros(FRAMES, HEIGHT, WIDTH, 3)
    video = truth + (0.1 * known.recalled + 0.01 * known.start_seen + 1.0 * known.never_seen)[..., None]
    result = picture_measures(video, truth, known, perceptual=True)
    assert set(result) == set(PICTURE_UNITS)
    assert picture_measures(video, truth, known) == {name: result[name] for name in PICTURE_UNITS if name != "lpips"}
    assert result["psnr_recall"] == pytest.approx(20, abs=1e-4)
    assert result["psnr_start_seen"] == pytest.approx(40, abs=1e-4)
    assert result["psnr_unseen"] == pytest.approx(0, abs=1e-4)
    pooled = (16 * 0.01 + 24 * 0.0001 + 8 * 1) / 48
    assert result["psnr"] == pytest.approx(-10 * math.log10(pooled), abs=1e-4)
    assert picture_measures(video, truth, perceptual=True) == {
        name: result[name] for name in ("psnr", "psnr_per_frame", "ssim", "lpips")
    }


def test_error_is_pooled_before_it_becomes_decibels():
    """Frames at 40 dB and 20 dB: the mean of decibels is 30, the decibels of the mean error 22.97."""
    truth = grey(0.0)
    video = truth + torch.tensor([0.0, 0.01, 0.1, 0.01, 0.1])[:, None, None, None]
    result = picture_measures(video, truth, masks())
    assert result["psnr_per_frame"] == pytest.approx(30, abs=1e-4)
    assert result["psnr"] == pytest.approx(-10 * math.log10((0.0001 + 0.01) / 2), abs=1e-4)


def test_the_given_start_frame_counts_nowhere():
    truth = torch.rand(FRAMES, HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(0))
    video = (truth + 0.1).clone()
    before = picture_measures(video, truth, masks())
    video[0] = truth[0]
    assert picture_measures(video, truth, masks()) == before


def test_clip_length_does_not_change_the_measure():
    """A seen defect: errors summed over frames grow with the clip."""
    short = picture_measures(grey(0.6), grey(0.5), masks())
    column = torch.arange(WIDTH).expand(21, HEIGHT, WIDTH)
    long = picture_measures(grey(0.6, 21), grey(0.5, 21), Partition(column >= 16, column < 16, column < 0))
    for name in ("psnr", "psnr_recall", "psnr_start_seen", "psnr_per_frame", "ssim"):
        assert long[name] == pytest.approx(short[name], abs=1e-4)


def test_an_empty_mask_is_nan_and_a_perfect_picture_finite():
    result = picture_measures(grey(), grey(), masks(never_columns=0))
    assert math.isnan(result["psnr_unseen"])
    assert result["psnr"] == result["psnr_recall"] == PSNR_CEILING
    assert result["ssim"] == pytest.approx(1)


def test_ssim_of_a_shifted_grey_by_its_formula():
    """Flat frames have no variance: SSIM is the luminance term (2ab + c) / (a² + b² + c), c = 0.01²."""
    expected = (2 * 0.5 * 0.6 + 1e-4) / (0.25 + 0.36 + 1e-4)
    assert ssim(grey(0.6), grey(0.5)) == pytest.approx(expected, abs=1e-4)


def test_ssim_sees_structure_that_psnr_does_not():
    """Same squared error: a shift in brightness keeps the structure, noise does not."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(2, HEIGHT, WIDTH, 3, generator=generator) * 0.8
    noise = 0.1 * torch.randint(0, 2, truth.shape, generator=generator) * 2 - 0.1
    assert pooled_psnr(truth + 0.1, truth) == pytest.approx(pooled_psnr(truth + noise, truth), abs=1e-3)
    assert ssim(truth + 0.1, truth) > ssim(truth + noise, truth) + 0.03


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="two videos"):
        picture_measures(grey(), grey(frames=4), masks())
    with pytest.raises(ValueError, match="divide 8-bit"):
        picture_measures(grey().mul(255).byte(), grey(), masks())
    broken = grey()
    broken[2, 3, 4] = math.nan
    with pytest.raises(ValueError, match="count the episode as failed"):
        picture_measures(broken, grey(), masks())
