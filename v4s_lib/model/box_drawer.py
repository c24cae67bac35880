"""An optional part of the pipeline that draws the box tail's box into a clip that has ended on what was named.

The transformer is taught the box tail with everything else and hardly draws it: a box is a hundredth of the pixels of
one frame in 32. This small U-Net looks at the clip's last moving frame, and at what the transformer found in the
context, seen from where the path ends (see ``cloud``); it says which pixels a box around the named object passes
through. Not in the paper, where the video model draws the box by itself.
"""

from pathlib import Path

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn.functional import interpolate

from v4s_lib.data.boxes import BOX_COLOR, fading
from v4s_lib.model.cloud import CHANNELS
from v4s_lib.model.painter import layers
from v4s_lib.model.weights import check_keys

RARE = -4.0  # logit before it is taught: two pixels in a hundred are of a box


class BoxDrawer(ModelMixin, ConfigMixin):
    """Frames and views of what is named to logits: of every pixel, that the box's line passes through it.

    Args:
        widths: of the convolutions, fine to coarse.
    """

    @register_to_config
    def __init__(self, widths: tuple[int, int, int] = (16, 32, 64)) -> None:
        super().__init__()
        fine, middle, coarse = widths
        self.fine = layers(CHANNELS + 3, fine, fine)
        self.middle = layers(fine, middle, middle, stride=2)
        self.coarse = layers(middle, coarse, coarse, coarse, stride=2)
        self.join_middle = layers(middle + coarse, middle)
        self.join_fine = layers(fine + middle, fine, fine)
        self.join_lines = layers(3 * fine, fine)
        self.line = nn.Conv2d(fine, 1, 1)
        nn.init.constant_(self.line.bias, RARE)

    def forward(self, frames: Tensor, named: Tensor) -> Tensor:
        """Logits (N, H, W) for frames (N, H, W, 3) in 0..1 and views (N, H, W, CHANNELS) of the same cameras."""
        fine = self.fine(torch.cat([named, 2 * frames - 1], dim=-1).permute(0, 3, 1, 2))
        middle = self.middle(fine)
        middle = self.join_middle(torch.cat([middle, _up(self.coarse(middle), middle)], dim=1))
        x = self.join_fine(torch.cat([fine, _up(middle, fine)], dim=1))
        # A box's side is as long as the object is wide: every pixel is told the most of its row and of its column.
        most = (x.amax(dim=axis, keepdim=True).expand_as(x) for axis in (2, 3))
        return self.line(self.join_lines(torch.cat([x, *most], dim=1)))[:, 0]

    @torch.no_grad()
    def tail(self, last: Tensor, named: Tensor, frames: int) -> Tensor:
        """Copies of the last moving frames (N, H, W, 3) on which the box fades in: (N, frames, H, W, 3).

        ``named`` (N, H, W, CHANNELS) are what their cameras see of what was found.
        """
        line = self(last.to(self.device), named.to(self.device)).sigmoid().to(last)
        line = line[:, None, :, :, None] * fading(frames, last.device)[:, None, None, None]
        return (1 - line) * last[:, None] + line * last.new_tensor(BOX_COLOR)


def _up(coarse: Tensor, fine: Tensor) -> Tensor:
    return interpolate(coarse, size=fine.shape[-2:], mode="nearest")


def load_box_drawer(folder: Path) -> BoxDrawer:
    """The drawer in a folder, from safetensors only and with every key of its weights."""
    drawer, info = BoxDrawer.from_pretrained(folder, use_safetensors=True, output_loading_info=True)
    check_keys(folder, info["missing_keys"], info["unexpected_keys"])
    return drawer.eval()
