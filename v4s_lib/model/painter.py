"""An optional part that paints what sight has placed over what the transformer has drafted. Not in the paper.

A token stands for 16 x 16 pixels of four frames, too many to draw well from. A small U-Net sees each frame's draft, the
noisy frame, and the context's own pixels where sight has placed them, shown from the frame's camera (see ``cloud``);
it changes the draft. It looks at pixels, so it is for latents of the patch codec and a model that predicts clean ones.
Source: our choice, after a model that knew where it looked and drew less well than its own context, splatted.
"""

import torch
from torch import Tensor, nn

from v4s_lib.model.blocks import zero_linear
from v4s_lib.model.cloud import CHANNELS, COUNT
from v4s_lib.model.codec import FRAMES_PER_LATENT, to_latents, to_pixels

WIDTHS = (32, 48, 96)  # of the convolutions
TOGETHER = 8  # frames painted at a time where nothing is learnt: what a CPU's cache holds
INPUTS = CHANNELS + 3 + 3 + 2  # the view, the draft, the noisy frame, the noise level, how much of the start is known


def layers(*widths: int, stride: int = 1) -> nn.Sequential:
    """Convolutions from each width to the next, each with its GELU; the first one takes the stride."""
    layers = []
    for number, (first, second) in enumerate(zip(widths, widths[1:], strict=False)):
        layers += [nn.Conv2d(first, second, 3, stride=1 if number else stride, padding=1), nn.GELU()]
    return nn.Sequential(*layers)


class Painter(nn.Module):
    """Changes drafts of frames by what the context shows there; also tells tokens how much of the start it shows.

    Args:
        dim: width of the transformer's tokens.
        patch: pixels that a latent's patch is wide and high.
    """

    def __init__(self, dim: int, patch: int) -> None:
        super().__init__()
        self.tell_shared = zero_linear(1, dim)
        self.patch = patch
        fine, middle, coarse = WIDTHS
        self.fine = layers(INPUTS, fine, fine)
        self.middle = layers(fine, middle, middle, stride=2)
        self.coarse = layers(middle, coarse, coarse, coarse, stride=2)
        self.join_middle = layers(middle + coarse, middle)
        self.join_fine = layers(fine + middle, fine)
        # Three colours to add, and how far the view is kept. At first it is kept whole, for it is mostly right.
        self.change = nn.Conv2d(fine, 4, 1)
        nn.init.zeros_(self.change.weight)
        nn.init.zeros_(self.change.bias[:3])
        nn.init.ones_(self.change.bias[3:])

    def forward(
        self,
        draft: Tensor,
        noisy: Tensor,
        timestep: Tensor,
        seen: Tensor,
        shared: Tensor,
        frames: list[int],
    ) -> Tensor:
        """The latents (B, C, T, h, w), painted.

        Args:
            draft, noisy: (B, C, T, h, w) what the transformer predicts, and what it was given.
            timestep: (B, T) in 0..1000.
            seen: (B, F, H, W, CHANNELS) what is known of the room, from the cameras of the frames to be painted.
            shared: (B,) share of the start frame that the context shows, too.
            frames: which F of their 4T frames to paint.
        """
        drafts, given = (to_pixels(value, self.patch).flatten(1, 2) for value in (draft, noisy))
        shape = seen.shape[:-1]
        levels = (timestep / 1000).repeat_interleave(FRAMES_PER_LATENT, dim=1)[:, frames], shared[:, None]
        constant = [level.expand(shape[:2])[..., None, None, None].expand(*shape, 1) for level in levels]
        pictures = [value[:, frames] for value in (drafts, given)]
        x = torch.cat([seen, *pictures, *constant], dim=-1).flatten(0, 1).permute(0, 3, 1, 2)
        few = len(x) if torch.is_grad_enabled() or x.is_cuda else TOGETHER
        told = torch.cat([self.paint(part) for part in x.split(few)])
        told = told.permute(0, 2, 3, 1).unflatten(0, (len(draft), -1)).type_as(drafts)
        change, kept = told[..., :3], told[..., 3:] * (seen[..., COUNT, None] > 0)
        painted = drafts.clone()
        painted[:, frames] = pictures[0] + change + kept * (seen[..., :3].type_as(drafts) - pictures[0])
        return to_latents(painted.unflatten(1, (-1, FRAMES_PER_LATENT)), self.patch)

    def paint(self, x: Tensor) -> Tensor:
        """Colours to add and how far the view is kept, (N, 4, H, W), of frames (N, INPUTS, H, W)."""
        fine = self.fine(x)
        middle = self.middle(fine)
        up = nn.functional.interpolate(self.coarse(middle), size=middle.shape[-2:], mode="nearest")
        middle = self.join_middle(torch.cat([middle, up], dim=1))
        up = nn.functional.interpolate(middle, size=fine.shape[-2:], mode="nearest")
        return self.change(self.join_fine(torch.cat([fine, up], dim=1)))
