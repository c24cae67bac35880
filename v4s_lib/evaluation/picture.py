"""How close a generated video is to the truth, pixel by pixel, and by what could be known of a pixel (DESIGN §7).

Videos are (F, H, W, 3) in 0..1, floating point, straight from the model: never read back from a compressed file.
Frame 0, the given start frame, is left out of every measure: a method that is handed it earns nothing by returning it.
"""

import math

import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from v4s_lib.evaluation.lpips import LEAST, load_lpips
from v4s_lib.worlds.visibility import Partition

START_FRAMES = 1  # the start latent holds one frame
SSIM_WINDOW = 7  # pixels, uniform weights; at 32x48 this is a fifth of the height, so compare at equal size only
AT_ONCE = 16  # frames that LPIPS looks at together; large ones take memory
PSNR_CEILING = 100.0  # dB; a perfect picture counts this instead of infinity
PICTURE_UNITS = {
    "psnr": "dB",
    "psnr_recall": "dB",
    "psnr_start_seen": "dB",
    "psnr_unseen": "dB",
    "psnr_per_frame": "dB",
    "ssim": "1",
    "lpips": "1",
}


def picture_measures(
    video: Tensor, truth: Tensor, known: Partition | None = None, perceptual: bool = False
) -> dict[str, float]:
    """Every measure of ``PICTURE_UNITS`` for one episode, or those that are asked for.

    Args:
        video: generated frames (F, H, W, 3) in 0..1, start frame included.
        truth: ground truth of the same shape.
        known: what could be known of each pixel, masks (F, H, W); None where nobody knows the surfaces.
        perceptual: whether LPIPS is measured, too; it takes longer than all the others.

    Returns:
        One number a measure; NaN for a measure whose mask holds no pixel of this episode, and for LPIPS of frames that
        are too small for it.
    """
    video, truth = _moving(video, truth)
    masks = {}
    if known is not None:
        masks = {"recall": known.recalled, "start_seen": known.start_seen, "unseen": known.never_seen}
    return {
        "psnr": pooled_psnr(video, truth),
        **{f"psnr_{name}": pooled_psnr(video, truth, mask[START_FRAMES:]) for name, mask in masks.items()},
        "psnr_per_frame": _decibels((video - truth).square().mean(dim=(1, 2, 3))).mean().item(),
        "ssim": ssim(video, truth),
        **({"lpips": lpips(video, truth)} if perceptual else {}),
    }


def pooled_psnr(video: Tensor, truth: Tensor, mask: Tensor | None = None) -> float:
    """PSNR in dB of the squared error averaged over all pixels of all frames, or over those in ``mask`` (F, H, W).

    Averaging errors and not decibels keeps a few nearly perfect frames from hiding bad ones. NaN for an empty mask.
    """
    error = (video.double() - truth.double()).square()
    if mask is not None:
        error = error[mask]
    return _decibels(error.mean()).item()


def ssim(video: Tensor, truth: Tensor) -> float:
    """Mean structural similarity of the frames (F, H, W, 3), each colour channel by itself, window ``SSIM_WINDOW``."""
    scores = [
        structural_similarity(frame, true_frame, win_size=SSIM_WINDOW, channel_axis=-1, data_range=1.0)
        for frame, true_frame in zip(video.double().cpu().numpy(), truth.double().cpu().numpy(), strict=True)
    ]
    return sum(scores) / len(scores)


def lpips(video: Tensor, truth: Tensor) -> float:
    """Mean LPIPS of the frames (F, H, W, 3), see ``Lpips``, at their own size; NaN where they are too small for it."""
    if min(video.shape[1:3]) < LEAST:
        return math.nan
    model, pairs = load_lpips(), zip(video.split(AT_ONCE), truth.split(AT_ONCE), strict=True)
    return torch.cat([model(frames, true_frames) for frames, true_frames in pairs]).mean().item()


def _decibels(error: Tensor) -> Tensor:
    """Mean squared errors to PSNR for values in 0..1; ``clamp`` lets NaN pass."""
    return -10 * torch.log10(error.clamp(min=10 ** (-PSNR_CEILING / 10)))


def _moving(video: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """The frames after the start frame, as float64, after a check."""
    if video.shape != truth.shape or video.dim() != 4 or video.shape[-1] != 3 or len(video) <= START_FRAMES:
        raise ValueError(
            f"expected two videos (F, H, W, 3) with frames after the start frame, got {tuple(video.shape)} and "
            f"{tuple(truth.shape)}: pass one episode, start frame first"
        )
    if not video.is_floating_point() or not truth.is_floating_point():
        raise ValueError(f"expected values in 0..1, got {video.dtype} and {truth.dtype}: divide 8-bit pixels by 255")
    if not torch.isfinite(video).all():
        raise ValueError("expected finite pixels, got NaN or infinity: count the episode as failed, do not measure it")
    return video[START_FRAMES:].double(), truth[START_FRAMES:].double()
