"""What painted frames lack in structure. Squared error alone paints a blur: the mean of all that may be there."""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

WINDOW = 9  # pixels in which structure is compared; our choice


def structural_similarity(one: Tensor, other: Tensor) -> Tensor:
    """SSIM of frames (..., H, W, C) in 0..1, in windows of ``WINDOW`` pixels: the map, without its border.

    Source: Wang et al. 2004, with a uniform window. scikit-image's has no gradient.
    """
    one, other = (value.flatten(0, -4).movedim(-1, 1) for value in (one, other))
    values = torch.cat([one, other, one * one, other * other, one * other])
    # A window's mean is the mean of its rows' means: two narrow windows cost a fifth of a square one.
    means = avg_pool2d(avg_pool2d(values, (WINDOW, 1), stride=1), (1, WINDOW), stride=1).chunk(5)
    first, second, *squares, product = means
    variances = squares[0] - first.square() + squares[1] - second.square()
    small, less = 0.01**2, 0.03**2  # of the range, which is 1
    alike = (2 * first * second + small) * (2 * (product - first * second) + less)
    return alike / ((first.square() + second.square() + small) * (variances + less))
