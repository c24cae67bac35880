"""Structural similarity with a gradient is scikit-image's, and a blur pays more for it than for its squared error."""

import pytest
import torch
from skimage.filters import gaussian
from skimage.metrics import structural_similarity as by_skimage

from v4s_lib.data.manifests import MANIFESTS
from v4s_lib.data.video import read_frames
from v4s_lib.training.structure import WINDOW, structural_similarity


@pytest.fixture(scope="module")
def frame() -> torch.Tensor:
    """A frame (H, W, 3) of a demo scan, in 0..1."""
    return read_frames(MANIFESTS / "scans/demo_0000/scan.mp4", [0])[0].double() / 255


def test_it_is_scikit_images(frame):
    noisy = frame + 0.15 * torch.randn(frame.shape, generator=torch.Generator().manual_seed(0))
    asked = {"win_size": WINDOW, "channel_axis": -1, "data_range": 1.0, "use_sample_covariance": False, "full": True}
    border = WINDOW // 2
    expected = by_skimage(frame.numpy(), noisy.numpy(), **asked)[1][border:-border, border:-border]
    got = structural_similarity(frame[None], noisy[None])[0].movedim(0, -1)
    torch.testing.assert_close(got, torch.from_numpy(expected))


def test_a_blur_lacks_structure(frame):
    blurred = torch.from_numpy(gaussian(frame.numpy(), 1.5, channel_axis=-1))
    lighter = frame + (blurred - frame).square().mean().sqrt()  # as far away by squared error
    assert structural_similarity(frame[None], frame[None]).min() > 1 - 1e-9
    assert (
        structural_similarity(frame[None], blurred[None]).mean()
        < structural_similarity(frame[None], lighter[None]).mean() - 0.1
    )


def test_it_teaches(frame):
    guess = torch.zeros_like(frame).requires_grad_()
    (1 - structural_similarity(guess[None], frame[None])).mean().backward()
    assert guess.grad.isfinite().all() and guess.grad.abs().max() > 0
