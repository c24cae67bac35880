"""``park``: outdoors, for navigation out of the training domain (DESIGN §6): grass, sky, trees, benches, a pond.

A park is a very large room for the ray caster: its walls are painted with a skyline, its ceiling with the sky. The sky
is thus at a finite distance, at least 10 m: a camera that walks 1 m sees it shift by 6 degrees at most. All sizes are
our choice, in metres.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from v4s_lib.worlds.objects import COLORS, DARK, WOOD, Part
from v4s_lib.worlds.scenes import TEXELS, SceneObject, Scenes
from v4s_lib.worlds.things import Slots, free_slots, put

FREE_HALF = 1.5  # half width of the empty middle
NEAREST = 2.2  # from the centre to the nearest thing: just outside the corners of the empty middle
DEPTH = 2.0  # range of the things' distances
FIRST_INSTANCE = 20
STREAM = 7919  # with a seed, the start of the park's own random numbers: no room has the same


@dataclass(frozen=True)
class Kind:
    """One kind of thing: its parts in units of its height, how tall and how many, and its colours."""

    parts: tuple[Part, ...]
    height: tuple[float, float]
    count: tuple[int, int]
    colors: tuple[str, ...]


EVERY = tuple(COLORS)
PARK_KINDS = {
    "tree": Kind(
        (
            ("frustum", 0, 0, 0, 0.1, 0.1, 0.45, 0.7, WOOD),
            ("ellipsoid", 0, 0, 0.35, 0.6, 0.6, 0.65, 1, None),
        ),
        (3.5, 6.0), (2, 3), ("green", "orange", "yellow"),
    ),
    "pine": Kind(
        (
            ("frustum", 0, 0, 0, 0.07, 0.07, 0.2, 1, WOOD),
            ("frustum", 0, 0, 0.15, 0.5, 0.5, 0.85, 0.05, None),
        ),
        (4.0, 6.5), (1, 2), ("green",),
    ),
    "bench": Kind(
        (
            ("box", 0, 0, 0.5, 2.0, 0.55, 0.1, 1, None),
            ("box", 0, 0.24, 0.6, 2.0, 0.08, 0.4, 1, None),
            ("box", 0, 0, 0, 1.6, 0.35, 0.5, 1, DARK),
        ),
        (0.8, 0.95), (1, 2), EVERY,
    ),
    "hedge": Kind((("box", 0, 0, 0, 2.4, 0.6, 1, 1, None),), (1.0, 1.4), (1, 3), ("green",)),
    "lamp": Kind(
        (
            ("frustum", 0, 0, 0, 0.06, 0.06, 0.85, 1, DARK),
            ("ellipsoid", 0, 0, 0.82, 0.18, 0.18, 0.18, 1, None),
        ),
        (2.6, 3.4), (1, 1), ("white", "yellow"),
    ),
    "pond": Kind((("frustum", 0, 0, 0, 30, 30, 1, 1, None),), (0.07, 0.09), (1, 1), ("blue", "cyan")),
    "bicycle": Kind(
        (
            ("ellipsoid", -0.52, 0, 0, 0.66, 0.08, 0.66, 1, DARK),
            ("ellipsoid", 0.52, 0, 0, 0.66, 0.08, 0.66, 1, DARK),
            ("box", 0, 0, 0.4, 0.9, 0.08, 0.14, 1, None),
            ("box", -0.25, 0, 0.5, 0.08, 0.08, 0.4, 1, None),
            ("box", 0.42, 0, 0.5, 0.08, 0.3, 0.5, 1, None),
        ),
        (0.95, 1.05), (1, 1), EVERY,
    ),
}  # fmt: skip


def make_parks(seeds: list[int]) -> Scenes:
    """Build one park a seed; the same seed always gives the same park."""
    parks = [_make_park(np.random.default_rng([STREAM, seed])) for seed in seeds]
    names = [name for name in parks[0] if name != "objects"]
    stacked = {name: torch.from_numpy(np.stack([park[name] for park in parks])) for name in names}
    return Scenes(**stacked, objects=[park["objects"] for park in parks])


def _make_park(rng: np.random.Generator) -> dict:
    size = np.array([rng.uniform(23, 29), rng.uniform(23, 29), rng.uniform(8, 10)])
    slots = free_slots()
    objects = _place(slots, rng, size[:2] / 2)
    angle = rng.uniform(0, 2 * math.pi)
    light = np.array([math.cos(angle), math.sin(angle), 1.5])
    return {
        "room": size.astype(np.float32),
        "textures": _paint(rng),
        "light": (light / np.linalg.norm(light)).astype(np.float32),
        **slots,
        "free_min": (size[:2] / 2 - FREE_HALF).astype(np.float32),
        "free_max": (size[:2] / 2 + FREE_HALF).astype(np.float32),
        "objects": objects,
    }


def _place(slots: Slots, rng: np.random.Generator, middle: np.ndarray) -> list[SceneObject]:
    """Stand the things around the middle, each in a wedge of its own, so that none stands in another."""
    names = [name for name, kind in PARK_KINDS.items() for _ in range(rng.integers(*kind.count, endpoint=True))]
    wedge, first = 2 * math.pi / len(names), rng.uniform(0, 2 * math.pi)
    objects = []
    for place, name in enumerate(rng.permutation(names)):
        kind, color = PARK_KINDS[name], str(rng.choice(PARK_KINDS[name].colors))
        height = rng.uniform(*kind.height)
        parts = kind.parts if rng.random() < 0.5 else _turned(kind.parts)
        radius = height * max(map(_radius, parts))
        distance = max(radius / math.sin(wedge / 2), NEAREST + radius) + rng.uniform(0, DEPTH)
        angle = first + place * wedge
        foot = (*(middle + distance * np.array([math.cos(angle), math.sin(angle)])), 0.0)
        low, high = put(slots, parts, foot, height, COLORS[color], FIRST_INSTANCE + place)
        box = (tuple(low.tolist()), tuple(high.tolist()))
        objects.append(SceneObject(str(name), color, FIRST_INSTANCE + place, *box))
    return objects


def _radius(part: Part) -> float:
    """Of the upright cylinder around the thing's middle that holds a part, in units of the thing's height."""
    name, x, y, _, width, depth, *_ = part
    corner = (abs(x) + width / 2, abs(y) + depth / 2)
    return math.hypot(*corner) if name == "box" else max(corner)


def _turned(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """The parts turned by a quarter: x and y change places."""
    return tuple((name, y, x, z, sy, sx, sz, taper, tint) for name, x, y, z, sx, sy, sz, taper, tint in parts)


def _paint(rng: np.random.Generator) -> np.ndarray:
    """Textures (6, TEXELS, TEXELS, 3): four skylines, the ground and the sky; rows go up, columns along."""
    blue = np.array([rng.uniform(0.35, 0.55), rng.uniform(0.6, 0.75), 0.95])
    green = np.array([rng.uniform(0.2, 0.35), rng.uniform(0.4, 0.55), rng.uniform(0.1, 0.2)])
    textures = [_skyline(rng, blue) for _ in range(4)] + [_ground(rng, green), _sky(rng, blue)]
    return np.stack(textures).clip(0, 1).astype(np.float32)


def _sky(rng: np.random.Generator, blue: np.ndarray) -> np.ndarray:
    """Blue with white clouds."""
    cloud = gaussian_filter(rng.standard_normal((TEXELS, TEXELS)), 2, mode="wrap")
    cover = np.clip(cloud / cloud.std() - 0.3, 0, 1)[..., None]
    return blue * (1 - cover) + cover


def _skyline(rng: np.random.Generator, blue: np.ndarray) -> np.ndarray:
    """Sky over distant bushes and houses, from 1.5 m to a third of the wall high."""
    wall = _sky(rng, blue)
    column = 0
    while column < TEXELS:
        width, top = rng.integers(2, 6), rng.integers(5, TEXELS // 3)
        house = rng.random() < 0.3
        tone = rng.uniform(0.35, 0.8, 3) if house else rng.uniform([0.1, 0.25, 0.08], [0.25, 0.45, 0.2])
        wall[:top, column : column + width] = tone
        column += width
    return wall


def _ground(rng: np.random.Generator, green: np.ndarray) -> np.ndarray:
    """Mown grass in stripes, spotted, with a gravel path across the middle."""
    row, column = np.mgrid[0:TEXELS, 0:TEXELS]
    along, across = (row, column) if rng.random() < 0.5 else (column, row)
    stripes = 0.06 * (along // 3 % 2)
    spots = 0.05 * rng.standard_normal((TEXELS, TEXELS))
    grass = green + (stripes + spots)[..., None]
    start = TEXELS // 2 + rng.integers(-4, 3)
    on_path = (across >= start) & (across < start + 2)
    gravel = np.array([0.72, 0.65, 0.5]) + 0.04 * rng.standard_normal((TEXELS, TEXELS, 1))
    return np.where(on_path[..., None], gravel, grass)
