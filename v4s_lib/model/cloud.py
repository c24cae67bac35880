"""What frames show, as coloured points in the room, and what those look like from elsewhere. Not in the paper.

Every pixel of a frame that sight has placed becomes a point; from another camera, points that fall on one pixel are
averaged, near ones and sure ones before all others. Nothing here is learnt.
Sources: softmax splatting (Niklaus and Liu, arXiv 2003.05534); a cache of points that guides a video diffusion model
(GEN3C, arXiv 2503.03751).
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from v4s_lib.model.alignment import DEPTHS, DOUBTS
from v4s_lib.model.codec import last_frames
from v4s_lib.model.sight import Seen, Sight
from v4s_lib.worlds.cameras import Camera, inverse, to_room

NEARER = 20.0  # a point twice as far away counts 2**-20 as much: what stands behind does not shine through; our choice
CLOSEST = 0.05  # metres; nothing closer to the camera is shown
CHANNELS = 6  # of a view: three colours, how much they differ, how far it is what words name, how many points
NAMED = 4  # the channel that tells how far a pixel is what words name
COUNT = 5  # the channel that tells where there are any


@dataclass
class Cloud:
    """N points in each of R rooms."""

    place: Tensor  # (R, N, 3) metres
    color: Tensor  # (R, N, 3) in -1..1
    weight: Tensor  # (R, N) how sure the point's place is
    named: Tensor  # (R, N) how far it shows what an instruction names, 0..1

    def join(self, other: "Cloud") -> "Cloud":
        """The points of both; this one's rooms are repeated to as many as the other's."""
        repeats = len(other.place) // len(self.place)
        pairs = ((getattr(self, name), getattr(other, name)) for name in self.__dataclass_fields__)
        return Cloud(*(torch.cat([one.repeat_interleave(repeats, dim=0), two], dim=1) for one, two in pairs))

    def name(self, logits: Tensor, sight: Sight) -> "Cloud":
        """The same, a room for each of B texts, with how far points show what it names.

        ``logits`` (B, 1 + P * N) are a finder's, of the cells that ``sight`` has seen.
        """
        cells = logits[:, 1:]
        share = (cells - cells.amax(dim=1, keepdim=True)).exp() * (1 - logits.softmax(dim=1)[:, :1])
        named = fine(share.unflatten(1, (-1, sight.size[0] * sight.size[1])), sight).flatten(1)
        repeats = len(named) // len(self.place)
        own = (value.repeat_interleave(repeats, dim=0) for value in (self.place, self.color, self.weight))
        return Cloud(*own, named)


def make_cloud(sight: Sight, latents: Tensor, seen: Seen, c2w: Tensor, blind: Tensor | None = None) -> Cloud:
    """The points that the last frames of latents show.

    Args:
        sight: what saw them.
        latents: (R, C, P, h, w).
        seen: (R, P, ...).
        c2w: (R, P, 4, 4) of those frames.
        blind: (R,) rooms whose latents are noise: their points weigh nothing.
    """
    frames = last_frames(latents, sight.patch).float()
    camera = Camera(*frames.shape[2:4], sight.horizontal_fov)
    depth = fine(seen.log_depth, sight).exp().clamp(*DEPTHS)
    weight = fine(seen.log_doubt, sight).exp().clamp(*DOUBTS) ** -2
    with torch.autocast(depth.device.type, enabled=False):  # metres need more than the 8 bits of bf16
        points = to_room(depth[..., None] * camera.rays(device=depth.device).flatten(0, 2), c2w)
    if blind is not None:
        weight = weight * ~blind[:, None, None]
    weight = weight.flatten(1)
    return Cloud(points.flatten(1, 2), frames.flatten(1, 3), weight, torch.zeros_like(weight))


def fine(values: Tensor, sight: Sight) -> Tensor:
    """Values of cells (R, P, N) at the pixels (R, P, H * W)."""
    cells = values.float().flatten(0, 1).unflatten(1, sight.size)[:, None]
    pixels = interpolate(cells, scale_factor=sight.cell, mode="bilinear")
    return pixels.flatten(1).unflatten(0, values.shape[:2])


def view(cloud: Cloud, c2w: Tensor, camera: Camera) -> Tensor:
    """What a cloud looks like from F cameras (R, F, 4, 4) in each room: (R, F, H, W, CHANNELS), zero where no point is.

    The channels are the mean colour, the standard deviation of its brightness, the mean of ``named``, and the
    logarithm of one and the number of points, over 4.
    """
    return torch.stack([_view_one(cloud, room, poses, camera) for room, poses in enumerate(c2w)])


def _view_one(cloud: Cloud, room: int, c2w: Tensor, camera: Camera) -> Tensor:
    height, width = camera.height, camera.width
    with torch.autocast(c2w.device.type, enabled=False):
        into = inverse(c2w)
        local = into[:, :3, :3] @ cloud.place[room].T + into[:, :3, 3:]  # F 3 N: each coordinate in a row
    x, y, far = local.unbind(1)
    scale = camera.focal / far.clamp(min=1e-6)
    column, row = (x * scale + width / 2).floor(), (y * scale + height / 2).floor()
    shown = (far > CLOSEST) & (column >= 0) & (column < width) & (row >= 0) & (row < height) & (cloud.weight[room] > 0)
    frame, point = shown.nonzero(as_tuple=True)
    index = (frame * height + row[shown].long()) * width + column[shown].long()
    color = cloud.color[room].T
    brightness = color.mean(dim=0)
    known = torch.stack([*color, brightness, brightness.square(), cloud.named[room], torch.ones_like(brightness)])
    weight = cloud.weight[room, point] * far[shown] ** -NEARER
    facts = torch.cat([known[:, point] * weight, torch.ones_like(weight)[None]])
    sums = facts.new_zeros(len(facts), len(c2w) * height * width)
    sums.scatter_add_(1, index.expand(len(facts), -1), facts)
    *means, square, named, total, count = sums
    means, square, named = (value / total.clamp(min=1e-37) for value in (torch.stack(means), square, named))
    spread = (square - means[3].square()).clamp(min=0).sqrt()
    seen = torch.stack([*means[:3], spread, named, count.log1p() / 4], dim=-1)
    return seen.unflatten(0, (len(c2w), height, width))
