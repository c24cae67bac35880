"""What teaches sight: which cells of two frames show one place, and how far away each is, by rendered depth."""

import torch
from torch import Tensor

from v4s_lib.model.places import LOOKING, Compared
from v4s_lib.model.sight import LEAST_CELL, Seen
from v4s_lib.worlds.cameras import Camera, inverse, to_room

SAME = 0.05  # of the distance, and metres on top: two depths that differ by less are one surface; our choice
DEPTH_WEIGHT = 0.3  # of the depth's loss beside that of the matches; our choice


def places_loss(compared: Compared, context: tuple[Tensor, Tensor], start: tuple[Tensor, Tensor], fov: float) -> Tensor:
    """How wrong sight is about S contexts of P frames and their S*M start frames.

    Args:
        compared: what it said.
        context: true depth (S, P, H, W), metres, and c2w (S, P, 4, 4).
        start: likewise (S*M, 1, H, W) and (S*M, 1, 4, 4), in the axes of their contexts.
        fov: horizontal field of view of the camera, degrees.
    """
    camera, cell = Camera(*context[0].shape[-2:], fov), compared.cell
    repeated = tuple(part.repeat_interleave(len(start[0]) // len(part), dim=0) for part in context)
    with torch.autocast(context[0].device.type, enabled=False):  # a bf16 step at 3 m is a third of a pixel
        looking = (part[:, ::LOOKING] for part in context)
        among = shared_places(*looking, *context, camera, cell) & ~own_frame(context[0], cell, LOOKING)
        from_start = shared_places(*start, *repeated, camera, cell)
    matches = [matching_loss(compared.context_logits, among), matching_loss(compared.start_logits, from_start)]
    depths = [depth_loss(compared.context, context[0], cell), depth_loss(compared.start, start[0], cell)]
    return torch.cat(matches).mean() + DEPTH_WEIGHT * torch.cat(depths).mean()


def matching_loss(logits: Tensor, shared: Tensor) -> Tensor:
    """Divergence (R * Q,) of what Q cells are taken for (R, Q, 1 + K) from the cells that do show their place.

    ``shared`` (R, Q, K) is bool; a cell's place is to be found in all that show it alike, or in "nothing".
    """
    count = shared.sum(dim=-1)
    hit = (logits[..., 1:] * shared).sum(dim=-1) / count.clamp(min=1)
    hit = torch.where(count > 0, hit, logits[..., 0])
    return (logits.logsumexp(dim=-1) - hit - count.clamp(min=1).log()).flatten()


def depth_loss(seen: Seen, depth: Tensor, cell: int = LEAST_CELL) -> Tensor:
    """Negative log likelihood of the true log depth, but for a constant, under a Laplace distribution, each cell's."""
    error = (seen.log_depth - cell_log_depth(depth, cell)).abs()
    return (error / seen.log_doubt.exp() + seen.log_doubt).flatten()


def cell_log_depth(depth: Tensor, cell: int = LEAST_CELL) -> Tensor:
    """Log depth (..., N) of the cells of depth maps (..., H, W): the mean of the four pixels in the middle of each."""
    cells = depth.clamp(min=0.05).log().unflatten(-1, (-1, cell)).unflatten(-3, (-1, cell))
    middle = slice(cell // 2 - 1, cell // 2 + 1)
    return cells[..., middle, :, middle].mean(dim=(-3, -1)).flatten(-2)


def own_frame(depth: Tensor, cell: int = LEAST_CELL, every: int = 1) -> Tensor:
    """Which pairs of cells (A * N, P * N) of ``every`` so many and of all P frames (R, P, H, W) are of one frame."""
    cells = depth.shape[-2] // cell * (depth.shape[-1] // cell)
    eye = torch.eye(depth.shape[1], dtype=torch.bool, device=depth.device)[::every]
    return eye.repeat_interleave(cells, dim=0).repeat_interleave(cells, dim=1)


def shared_places(
    depth: Tensor, c2w: Tensor, other_depth: Tensor, other_c2w: Tensor, camera: Camera, cell: int = LEAST_CELL
) -> Tensor:
    """Which cells show one place: for each cell of A frames, the cells of P others, (R, A * N, P * N) of bool.

    Args:
        depth, c2w: (R, A, H, W) metres and (R, A, 4, 4) of the frames that look.
        other_depth, other_c2w: (R, P, H, W) and (R, P, 4, 4) of those looked at.
        camera: of all frames.
        cell: pixels that a cell is wide and high.
    """
    rows, columns = camera.height // cell, camera.width // cell
    rays = Camera(rows, columns, camera.horizontal_fov).rays(device=depth.device).flatten(0, 2)
    points = cell_log_depth(depth, cell).exp()[..., None] * rays  # R A N 3
    points = to_room(points, c2w)
    points = to_room(points.flatten(1, 2)[:, None], inverse(other_c2w))  # R P A*N 3
    pixel, distance = camera.project(points)
    x, y = pixel.unbind(-1)
    inside = (distance > 0.05) & (x >= 0) & (x < camera.width) & (y >= 0) & (y < camera.height)
    x, y = x.clamp(0, camera.width - 1).long(), y.clamp(0, camera.height - 1).long()
    met = other_depth.flatten(2).gather(2, y * camera.width + x)
    same = inside & ((met - distance).abs() < SAME * (distance + 1))
    place = (y // cell) * columns + x // cell
    shared = torch.zeros(*place.shape, rows * columns, dtype=torch.bool, device=depth.device)
    shared.scatter_(-1, place[..., None], same[..., None])
    return shared.transpose(1, 2).flatten(2)
