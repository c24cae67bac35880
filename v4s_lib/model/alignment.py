"""Where frames stand, solved from the places that they share: a bundle adjustment in one function.

Every pair of cells that show one place says that two points, each seen from its own frame, are one point of the room.
So of any two frames it is known where one stands from the other, and a chain of the best of these steps makes a first
guess. Then all poses are moved at once by a few Gauss-Newton steps. A point is known well across its ray and badly
along it, so each pair counts by the precision of both; wrong pairs are let go by a robust weight, and the first guess
counts as a weak measurement. Sources: Kabsch (1976); Dijkstra (1959); generalized ICP (Segal et al., 2009);
Geman and McClure's weight; the numbers are our choice.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from v4s_lib.model.sight import Seen, Sight
from v4s_lib.worlds.cameras import cross_matrix, inverse, turning

ACROSS = 0.02  # radians by which a cell's ray is off
DOUBT = 2.0  # standard deviations in a mean absolute error of the depth, and some for errors that neighbours share
DEPTHS, DOUBTS = (0.05, 50.0), (0.01, 1.0)  # metres, and relative errors, that are believed
LOOSE = 3.0  # standard deviations at which a pair of points begins to be let go
GUESS = (0.4, 0.6)  # standard deviations of the first guess: radians, metres
NEAR = 0.2  # of the points' distance, by which two frames that share them may well stand apart
ROUNDS = 3  # in which two frames' wrong pairs are let go
CAUTION = 2.0  # power of the weight that makes a step of a chain shorter: the more, the more weak steps are shunned
NEIGHBOURS = 2  # frames in which a cell is looked for: those that most likely show its place
STEPS = 8  # Gauss-Newton steps
AT_ONCE = 8  # frames whose cells are looked for at a time: of all pairs of cells of a long video no memory holds enough


@dataclass
class Points:
    """What the cells of frames show, (..., 3) in metres and each frame's own axes, and its precision."""

    place: Tensor
    doubt: Tensor  # (...) relative error of the distance


@dataclass
class Pairs:
    """E pairs of points that are one point of the room, in each of R rooms."""

    one: Points  # (R, E) in frame ``of_one``
    other: Points  # (R, E) in frame ``of_other``
    of_one: Tensor  # (R, E) frame numbers
    of_other: Tensor  # (R, E)
    weight: Tensor  # (R, E) 0..1


def points(sight: Sight, seen: Seen) -> Points:
    """The points (..., N) that cells show; even a sight that has learnt nothing puts them in reach."""
    depth = seen.log_depth.exp().clamp(*DEPTHS)
    return Points(depth[..., None] * sight.rays(depth.device), DOUBT * seen.log_doubt.exp().clamp(*DOUBTS))


def pair_up(sight: Sight, looking: Seen, shown: Seen, allowed: Tensor) -> tuple[Pairs, Tensor]:
    """Look for the cells of A frames among those of P others, in each of R rooms.

    Args:
        sight: what compares keys.
        looking: (R, A, ...).
        shown: (R, P, ...).
        allowed: (A, P) whether a frame is to be looked at.

    Returns:
        A * N * NEIGHBOURS pairs; ``one`` is of frames 0..A-1, ``other`` of 0..P-1. A pair's other point is the mean of
        all the cells of that frame, by how likely each shows the place. And (R, A * N) how likely each cell's place is
        shown at all.
    """
    told = points(sight, shown)
    parts = []
    for first in range(0, len(allowed), AT_ONCE):
        some = slice(first, first + AT_ONCE)
        pairs, likely = _pair_some(sight, looking.each(lambda value, s=some: value[:, s]), shown, told, allowed[some])
        pairs.of_one = pairs.of_one + first
        parts.append((pairs, likely))
    return _join([pairs for pairs, _ in parts]), torch.cat([likely for _, likely in parts], dim=1)


def _join(parts: list) -> Pairs | Points:
    """All that some pairs, or points, are together."""
    columns = ([getattr(part, field.name) for part in parts] for field in fields(parts[0]))
    return type(parts[0])(
        *(torch.cat(column, dim=1) if isinstance(column[0], Tensor) else _join(column) for column in columns)
    )


def _pair_some(sight: Sight, looking: Seen, shown: Seen, other: Points, allowed: Tensor) -> tuple[Pairs, Tensor]:
    """``pair_up`` at once; ``other`` are the points of ``shown``."""
    rooms, frames, cells = looking.keys.shape[:3]
    others = shown.keys.shape[1]
    own = points(sight, looking)
    logits = sight.logits(looking.keys.flatten(1, 2), shown.keys.flatten(1, 2), allowed)
    likely = logits.softmax(dim=-1)[..., 1:].unflatten(-1, (others, -1))  # R, A*N, P, N
    weight, frame = likely.sum(dim=-1).topk(min(NEIGHBOURS, others), dim=-1)  # R, A*N, K
    told = torch.cat([other.place, other.doubt[..., None]], dim=-1)  # R, P, N, 4
    mean = (likely.transpose(1, 2) @ told).transpose(1, 2)  # R, A*N, P, 4
    mean = mean.gather(2, frame[..., None].expand(-1, -1, -1, 4)) / weight[..., None].clamp(min=1e-6)
    times = frame.shape[-1]
    one = Points(
        own.place.flatten(1, 2).repeat_interleave(times, dim=1), own.doubt.flatten(1, 2).repeat_interleave(times, dim=1)
    )
    of_one = torch.arange(frames, device=frame.device).repeat_interleave(cells * times).expand(rooms, -1)
    mean = mean.flatten(1, 2)
    met = Points(mean[..., :3], mean[..., 3])
    return Pairs(one, met, of_one, frame.flatten(1, 2), weight.flatten(1, 2)), likely.sum(dim=(-1, -2))


def between(pairs: Pairs, looking: int, shown: int) -> tuple[Tensor, Tensor]:
    """Where each of A frames stands in the axes of each of P others, by the pairs of those two alone.

    Args:
        pairs: of them, in R rooms.
        looking, shown: A and P: ``one`` is of the frames looking, ``other`` of those shown.

    Returns:
        rigid poses (R, A, P, 4, 4), and how much speaks for each (R, A, P): the weight of the pairs that agree.
    """
    rooms, count = pairs.weight.shape
    two = pairs.of_one * shown + pairs.of_other  # a number for each two frames

    def total(values: Tensor) -> Tensor:
        index = two.view(rooms, count, *[1] * (values.ndim - 2)).expand_as(values)
        return values.new_zeros(rooms, looking * shown, *values.shape[2:]).scatter_add_(1, index, values)

    def of_pairs(values: Tensor) -> Tensor:
        return values.gather(1, two.view(rooms, count, *[1] * (values.ndim - 2)).expand(-1, -1, *values.shape[2:]))

    sides = (pairs.one, pairs.other)
    distance = [side.place.norm(dim=-1) for side in sides]
    variance = sum((ACROSS**2 + side.doubt**2) * far**2 for side, far in zip(sides, distance, strict=True))
    trust, variance = torch.ones_like(variance), variance.clamp(min=1e-9)
    for _ in range(ROUNDS):
        weight = (pairs.weight * trust / variance)[..., None]
        told = total(weight).clamp(min=1e-9)
        # A strip of points leaves open how far one turns about it. Frames that share a place stand near each other: so
        # their centres count as a pair, too, which is as far apart as a share of how far away the points are.
        near = (NEAR * total(weight * sum(distance)[..., None] / 2) / told).clamp(min=1e-3) ** -2
        whole = told + near
        middles = [total(weight * side.place) / whole for side in sides]
        one, other = (side.place - of_pairs(middle) for side, middle in zip(sides, middles, strict=True))
        spread = total(weight[..., None] * other[..., None] * one[..., None, :])
        spread = (spread + near[..., None] * middles[1][..., None] * middles[0][..., None, :]) / whole[..., None]
        left, _, right = torch.linalg.svd(spread.nan_to_num())  # it raises at what is not finite
        left = torch.cat([left[..., :2], left[..., 2:] * torch.linalg.det(left @ right)[..., None, None]], dim=-1)
        turn = left @ right
        shift = middles[1] - (turn @ middles[0][..., None])[..., 0]
        apart = (of_pairs(turn) @ pairs.one.place[..., None])[..., 0] + of_pairs(shift) - pairs.other.place
        trust = 1 / (1 + apart.square().sum(dim=-1) / (variance * LOOSE**2)) ** 2
    top = torch.cat([turn, shift[..., None]], dim=-1)
    c2w = torch.cat([top, top.new_tensor([0.0, 0, 0, 1]).expand(*top.shape[:-2], 1, 4)], dim=-2)
    return tuple(value.unflatten(1, (looking, shown)) for value in (c2w, total(pairs.weight * trust)))


def chain(pairs: Pairs, count: int) -> Tensor:
    """Poses (R, n, 4, 4) of n frames in the axes of the last one, each along the chain of frames that is surest.

    ``pairs`` are of the n frames. The less speaks for a step, the more error it adds; so chains are shortest paths, by
    Dijkstra. What comes out is a first guess for ``align``.
    """
    c2w, weight = between(pairs, count, count)
    back = weight.transpose(1, 2) > weight  # seen the other way round, more speaks for it
    c2w = torch.where(back[..., None, None], inverse(c2w).transpose(1, 2), c2w)
    length = torch.maximum(weight, weight.transpose(1, 2)).clamp(min=1e-6) ** -CAUTION
    rooms = torch.arange(len(length), device=length.device)
    poses = torch.eye(4, device=length.device).repeat(len(length), count, 1, 1)
    far, done = torch.full_like(length[:, 0], torch.inf), torch.zeros_like(length[:, 0], dtype=torch.bool)
    far[:, -1] = 0
    for _ in range(count):
        nearest = far.masked_fill(done, torch.inf).argmin(dim=1)
        done[rooms, nearest] = True
        longer = far[rooms, nearest][:, None] + length[rooms, :, nearest]
        nearer = (longer < far) & ~done
        along = poses[rooms, nearest][:, None] @ c2w[rooms, :, nearest]
        poses = torch.where(nearer[..., None, None], along, poses)
        far = torch.where(nearer, longer, far)
    return poses


def align(guess: Tensor, pairs: Pairs, free: slice) -> Tensor:
    """Poses (R, n, 4, 4) that bring the pairs together; all but the ``free`` ones stay as they are.

    Args:
        guess: (R, n, 4, 4) rigid c2w in axes common to the room, near enough that most pairs pull the right way.
        pairs: of the n frames.
        free: which frames may move, at least one.
    """
    poses = guess.clone()
    rooms, count = guess.shape[:2]
    room = torch.arange(rooms, device=guess.device)[:, None]
    one, other = (room * count + number for number in (pairs.of_one, pairs.of_other))  # frames of all rooms in a row
    moved = torch.zeros(rooms, count, 6, device=guess.device)
    for _ in range(STEPS):
        precision = _precision(poses, pairs, one, other)
        matrices = poses.flatten(0, 1)
        at_one, turned_one = _carry(matrices[one], pairs.one.place)
        at_other, turned_other = _carry(matrices[other], pairs.other.place)
        apart = (at_one - at_other)[..., None]
        far = (apart.transpose(-1, -2) @ precision @ apart)[..., 0, 0]
        trust = pairs.weight / (1 + far / LOOSE**2) ** 2
        weighted = trust[..., None, None] * precision
        normal = torch.zeros(rooms * count * count, 6, 6, device=guess.device)
        slope = torch.zeros(rooms * count, 6, device=guess.device)
        sides = ((_jacobian(turned_one), one), (-_jacobian(turned_other), other))
        for jacobian, row in sides:
            pull = jacobian.transpose(-1, -2) @ weighted
            slope.index_add_(0, row.flatten(), (pull @ apart)[..., 0].flatten(0, 1))
            for second, column in sides:
                place = row * count + column - room * count
                normal.index_add_(0, place.flatten(), (pull @ second).flatten(0, 1))
        change(poses, moved, normal, slope, GUESS, free)
    return poses


def change(
    poses: Tensor, moved: Tensor, normal: Tensor, slope: Tensor, guess: tuple[float, float], free: slice
) -> None:
    """One Gauss-Newton step of the ``free`` poses, in place.

    Args:
        poses: (R, n, 4, 4) rigid c2w.
        moved: (R, n, 6) by how much they have been turned, radians, and shifted, metres, since the first guess.
        normal: (R * n * n, 6, 6) the blocks of the normal equations.
        slope: (R * n, 6) their right side, but for its sign.
        guess: standard deviations of the first guess: radians, metres.
        free: which of the n poses move.
    """
    rooms, count = poses.shape[:2]
    prior = torch.tensor([guess[0]] * 3 + [guess[1]] * 3, device=poses.device) ** -2
    normal = normal.unflatten(0, (rooms, count, count))[:, free, free]
    slope = slope.unflatten(0, (rooms, count))[:, free] + prior * moved[:, free]
    size = normal.shape[1]
    system = normal.transpose(2, 3).reshape(rooms, 6 * size, 6 * size) + torch.diag(prior.repeat(size))
    step = -torch.linalg.solve(system, slope.flatten(1)).unflatten(1, (size, 6))
    moved[:, free] += step
    poses[:, free] = _move(poses[:, free], step)


def _carry(c2w: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """Points (R, E, 3) in the room's axes, and what they are from the camera, turned into them."""
    turned = (c2w[..., :3, :3] @ place[..., None])[..., 0]
    return turned + c2w[..., :3, 3], turned


def _jacobian(turned: Tensor) -> Tensor:
    """How points move (R, E, 3, 6) with a small turn of their camera about itself, and with its centre."""
    eye = torch.eye(3, device=turned.device).expand(*turned.shape[:-1], 3, 3)
    return torch.cat([-cross_matrix(turned), eye], dim=-1)


def _precision(poses: Tensor, pairs: Pairs, one: Tensor, other: Tensor) -> Tensor:
    """Inverse covariance (R, E, 3, 3) of how far apart the points of a pair are, in the room's axes."""
    covariance = torch.zeros(1, device=poses.device)
    for side, frame in ((pairs.one, one), (pairs.other, other)):
        rotation = poses.flatten(0, 1)[frame][..., :3, :3]
        way = (rotation @ side.place[..., None])[..., 0]
        along = way[..., :, None] * way[..., None, :]
        square = way.square().sum(-1)[..., None, None]
        eye = torch.eye(3, device=poses.device)
        covariance = covariance + ACROSS**2 * (square * eye - along) + side.doubt[..., None, None] ** 2 * along
    return torch.linalg.inv(covariance + 1e-6 * torch.eye(3, device=poses.device))


def _move(poses: Tensor, step: Tensor) -> Tensor:
    """Turn (..., :3), radians, and shift (..., 3:), metres, rigid poses (..., 4, 4)."""
    top = torch.cat([turning(step[..., :3]) @ poses[..., :3, :3], poses[..., :3, 3:] + step[..., 3:, None]], dim=-1)
    return torch.cat([top, poses[..., 3:, :]], dim=-2)
