"""An optional part that looks up in the context what an instruction names. Not in the paper.

A small convolutional network gives every cell of the context's frames a key, by what is seen there; the words of an
instruction become a query. Where they agree the cell shows what is named, and sight knows where it stands: so it is
known where the thing stands before a path is planned. Taught in training by the cells that do show it; at sampling
there is video alone. It looks at pixels, so it is for latents of the patch codec.
Source: our choice, after a training in which words stayed unread: an object is a few pixels of the loss.
"""

import torch
from torch import Tensor, nn

from v4s_lib.model.blocks import zero_linear
from v4s_lib.model.codec import last_frames
from v4s_lib.model.pose import POSE_FEATURES, ray_map
from v4s_lib.model.sight import LEAST_CELL, halvings

TOGETHER = 0.3  # metres; points about so near to the likeliest one are of the same thing; our choice
WIDTHS = (16, 32, 64)  # of the convolutions
KEY = 64  # numbers in a key
PLACE_FEATURES = 4 * 3 * 7  # two offsets, a place and a direction, as they are and with sines of three octaves
LOOKS = 4  # words that a query is put together from: a colour, a kind, a relation, one to spare


class Finder(nn.Module):
    """Keys of context cells, queries of instructions, and what their meeting tells a target's tokens.

    Args:
        dim: width of the transformer's tokens.
        text_dim: width of a word's embedding.
        patch: pixels that a latent's patch is wide and high.
        places: whether it is also known how far away the cells' things are, and where the start frame stands.
        cell: pixels that a cell is wide and high, as sight's.
    """

    def __init__(self, dim: int, text_dim: int, patch: int, places: bool = False, cell: int = LEAST_CELL) -> None:
        super().__init__()
        self.patch, self.cell = patch, cell
        first, second, third = WIDTHS
        self.see = nn.Sequential(
            nn.Conv2d(3, first, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(first, second, 3, stride=2, padding=1),
            nn.GELU(),
            *halvings(second, cell),
            nn.Conv2d(second, third, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(third, third, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(third, KEY, 1),
        )
        self.nothing = nn.Parameter(torch.zeros(KEY))  # the key of what no cell shows
        self.attend = nn.Linear(text_dim, LOOKS)
        self.query = nn.Sequential(nn.Linear(LOOKS * text_dim, 4 * KEY), nn.GELU(), nn.Linear(4 * KEY, KEY))
        self.tell = zero_linear(POSE_FEATURES["ray_map"], dim)
        self.tell_place = zero_linear(PLACE_FEATURES, dim) if places else None

    def keys(self, latents: Tensor) -> Tensor:
        """Keys (B, N, KEY) of the cells in the last frame of each context latent; latents are (B, C, T, h, w)."""
        frames = last_frames(latents, self.patch)
        seen = self.see(frames.flatten(0, 1).permute(0, 3, 1, 2))
        return seen.flatten(2).transpose(1, 2).unflatten(0, frames.shape[:2]).flatten(1, 2)

    def rays(self, poses: Tensor, rows: int, columns: int, horizontal_fov: float) -> Tensor:
        """Where the cells look (B, N, F), for poses (B, T, 4, 4, 4) of latents with ``rows`` and ``columns``."""
        cells = self.patch // self.cell
        return ray_map(poses, rows * cells, columns * cells, horizontal_fov).flatten(1, 2)

    def forward(self, words: Tensor, keys: Tensor) -> Tensor:
        """Logits (B, 1 + N) of each of B texts (B, L, text_dim) for nothing and for the cells with ``keys``."""
        looked_at = self.attend(words).softmax(dim=1).transpose(1, 2) @ words
        query = self.query(looked_at.flatten(1)) * (2 / KEY**0.5)
        keys = torch.cat([self.nothing.expand(len(keys), 1, -1).type_as(keys), keys], dim=1)
        return (keys @ query.type_as(keys)[..., None])[..., 0].float()

    def place(self, logits: Tensor, points: Tensor, start: Tensor) -> Tensor:
        """What is told besides (B, 1, D): where the thing is, for points (B, N, 3), seen from starts (B, 4, 4).

        In the start frame's axes and in the room's: the way to turn, and the way to look in the end.
        """
        here = start[:, None, :3, 3]
        with torch.autocast(start.device.type, enabled=False):  # metres need more than the 8 bits of bf16
            away = named_place(logits, points)[:, None] - here
            seen = away @ start[:, :3, :3]  # from the start frame
        value = torch.cat([away, seen, here, start[:, None, :3, 2]], dim=-1)
        waves = [value * (torch.pi * octave) for octave in (0.25, 0.5, 1)]
        return self.tell_place(torch.cat([value, *(w.sin() for w in waves), *(w.cos() for w in waves)], dim=-1))

    def change(self, logits: Tensor, rays: Tensor) -> Tensor:
        """What the targets' tokens are told (B, 1, D): the rays (B, N, F) of the cells that show what is named."""
        share = logits.softmax(dim=1)[:, None, 1:]
        return self.tell(share @ rays)


def named_place(logits: Tensor, points: Tensor) -> Tensor:
    """Where the thing stands (B, 3): the mean of the points (B, N, 3) around the likeliest, by how likely each is.

    ``logits`` (B, 1 + N) are a finder's. A mean over all points would lie between two things that look alike.
    """
    share = logits[:, 1:].softmax(dim=1)
    likeliest = points.gather(1, share.argmax(dim=1)[:, None, None].expand(-1, 1, 3))
    share = share * torch.exp(-(points - likeliest).square().sum(dim=-1) / (2 * TOGETHER**2))
    return (share[..., None] * points).sum(dim=1) / share.sum(dim=1, keepdim=True)


def draw_thing(logits: Tensor, points: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """A finder's logits (B, 1 + N) as if it were sure of one thing, drawn by the softmax of ``logits / temperature``.

    What lies around the drawn one of the points (B, N, 3) keeps its share, the others lose theirs; how likely it is
    that there is nothing stays as it was. ``generator`` is of the CPU.
    """
    cells = logits[:, 1:]
    drawn = torch.multinomial((cells / temperature).softmax(dim=1).cpu(), 1, generator=generator).to(points.device)
    off = (points - points.gather(1, drawn[..., None].expand(-1, 1, 3))).square().sum(dim=-1)
    near = cells - off / (2 * TOGETHER**2)
    near = near + cells.logsumexp(dim=1, keepdim=True) - near.logsumexp(dim=1, keepdim=True)
    return torch.cat([logits[:, :1], near], dim=1)
