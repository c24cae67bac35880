"""Procedural furnished rooms, batched: every room is a box with painted walls, furniture along them, and objects.

Walls, floor and ceiling carry small textures; furniture and objects are boxes, ellipsoids and upright frusta. The
middle of the room, ``free_min`` to ``free_max``, is kept empty. It is convex, so a camera path that stays inside it
cannot collide. All lengths are metres, z points up.
"""

import colorsys
import math
from collections.abc import Collection
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from v4s_lib.worlds.objects import COLORS, KINDS, WOOD

TEXELS = 32
SLOTS = {"box": 12, "ellipsoid": 6, "frustum": 10}
FREE_MARGIN = 1.1  # metres between the walls and the space the camera may use; furniture and objects stay outside it
SPLITS = {"train": 0, "validation": 1, "test": 2, "demo": 3}


@dataclass(frozen=True)
class SceneObject:
    """A named thing in a room: its label ("red kettle"), instance id and axis-aligned 3-D box in metres."""

    kind: str
    color: str
    instance: int
    box_min: tuple[float, float, float]
    box_max: tuple[float, float, float]

    @property
    def label(self) -> str:
        return f"{self.color} {self.kind}"


@dataclass
class Scenes:
    """A batch of S rooms as tensors; ``objects`` holds one list of named objects a room.

    Instance ids: 0..5 are the surfaces (-x, +x, -y, +y, floor, ceiling), then furniture, then objects.
    """

    room: Tensor  # (S, 3) size; the room spans 0..size
    textures: Tensor  # (S, 6, TEXELS, TEXELS, 3)
    light: Tensor  # (S, 3) unit vector towards the light
    center: Tensor  # (S, P, 3) of every primitive: boxes, then ellipsoids, then frusta
    half: Tensor  # (S, P, 3) half sizes; for a frustum: foot radius twice, half height
    taper: Tensor  # (S, P) top radius over foot radius of a frustum, else 1
    color: Tensor  # (S, P, 3)
    instance: Tensor  # (S, P)
    free_min: Tensor  # (S, 2) of the empty middle, x and y
    free_max: Tensor  # (S, 2)
    objects: list[list[SceneObject]]
    kinds: tuple[int, ...] = tuple(SLOTS.values())  # how many of the P primitives are boxes, ellipsoids and frusta

    def to(self, device: torch.device | str) -> "Scenes":
        return replace(self, **{name: getattr(self, name).to(device) for name in TENSORS})

    def without_empty_slots(self) -> "Scenes":
        """The same rooms with the slots left out that none of them uses: quicker to render, equal to the bit."""
        used = (self.instance != -1).any(dim=0)
        parts = {name: getattr(self, name)[:, used] for name in ("center", "half", "taper", "color", "instance")}
        return replace(self, **parts, kinds=tuple(int(part.sum()) for part in used.split(self.kinds)))

    def __len__(self) -> int:
        return self.room.shape[0]


TENSORS = [field.name for field in fields(Scenes) if field.name not in ("objects", "kinds")]


def scene_seed(split: str, index: int) -> int:
    """Seed of scene ``index`` of a split; splits never share one."""
    if split not in SPLITS:
        raise ValueError(f"expected a split out of {', '.join(SPLITS)}, got {split!r}: choose one of them")
    return index * len(SPLITS) + SPLITS[split]


def make_scenes(seeds: list[int], without: Collection[str] = ()) -> Scenes:
    """Build one room a seed; the same seed always gives the same room. No object has a label out of ``without``."""
    rooms = [_make_room(np.random.default_rng(seed), without) for seed in seeds]
    stacked = {name: torch.from_numpy(np.stack([room[name] for room in rooms])) for name in TENSORS}
    return Scenes(**stacked, objects=[room["objects"] for room in rooms])


def _make_room(rng: np.random.Generator, without: Collection[str]) -> dict:
    size = np.array([rng.uniform(4.5, 6.5), rng.uniform(4.5, 6.5), rng.uniform(2.5, 3.0)])
    builder = _Builder()
    tops = _place_furniture(builder, rng, size)
    objects = _place_objects(builder, rng, size, tops, without)
    angle = rng.uniform(0, 2 * math.pi)
    light = np.array([math.cos(angle), math.sin(angle), 1.5])
    return {
        "room": size.astype(np.float32),
        "textures": _paint(rng),
        "light": (light / np.linalg.norm(light)).astype(np.float32),
        **builder.arrays(),
        "free_min": np.full(2, FREE_MARGIN, np.float32),
        "free_max": (size[:2] - FREE_MARGIN).astype(np.float32),
        "objects": objects,
    }


class _Builder:
    """Collects primitives into a fixed number of slots a kind; unused slots are empty and can not be hit."""

    def __init__(self) -> None:
        self.parts: dict[str, list] = {name: [] for name in SLOTS}

    def room_for(self, kind: str) -> bool:
        needed = [part[0] for part in KINDS[kind]]
        return all(len(self.parts[name]) + needed.count(name) <= SLOTS[name] for name in SLOTS)

    def add(self, primitive: str, foot, size, taper: float, color, instance: int) -> None:
        center = (foot[0], foot[1], foot[2] + size[2] / 2)
        self.parts[primitive].append((center, np.asarray(size) / 2, taper, color, instance))

    def arrays(self) -> dict[str, np.ndarray]:
        empty = ((0.0, 0.0, -100.0), (1e-3, 1e-3, 1e-3), 1.0, (0.0, 0.0, 0.0), -1)
        rows = [
            row for name, count in SLOTS.items() for row in self.parts[name] + [empty] * (count - len(self.parts[name]))
        ]
        columns = list(zip(*rows, strict=True))
        arrays = {
            name: np.asarray(columns[i], np.float32) for i, name in enumerate(("center", "half", "taper", "color"))
        }
        return {**arrays, "instance": np.asarray(columns[4], np.int64)}


def _place_furniture(builder: _Builder, rng: np.random.Generator, size: np.ndarray) -> list:
    """Put one or two boxes along each wall; return (foot x, foot y, top z, clear radius) of the low ones."""
    tops = []
    instance = 6
    for wall in range(4):
        along, across = (1, 0) if wall < 2 else (0, 1)
        for part in range(rng.integers(1, 3)):
            span = (size[along] - 2 * 0.9) / 2
            width, depth = rng.uniform(0.7, min(1.3, span)), rng.uniform(0.6, 0.8)
            height = rng.choice([rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.7), rng.uniform(1.2, 2.0)])
            foot = np.zeros(3)
            foot[along] = 0.9 + span * part + width / 2 + rng.uniform(0, span - width)
            foot[across] = depth / 2 if wall % 2 == 0 else size[across] - depth / 2
            box = np.zeros(3)
            box[along], box[across], box[2] = width, depth, height
            tint = WOOD if rng.random() < 0.4 else _random_color(rng, 0.2, 0.6)
            builder.add("box", foot, box, 1, tint, instance)
            if height < 1:
                tops.append((foot[0], foot[1], height, min(width, depth) / 2))
            instance += 1
    return tops


def _place_objects(
    builder: _Builder, rng: np.random.Generator, size: np.ndarray, tops: list, without: Collection[str]
) -> list[SceneObject]:
    """Put 4 to 6 objects, where as many fit, on the furniture and in the corners, every label at most once.

    A place whose label is one of ``without``, or taken, stays empty.
    """
    corners = [(x, y, 0.0, 0.4) for x in (0.5, size[0] - 0.5) for y in (0.5, size[1] - 0.5)]
    places = [list(place) for place in rng.permutation(np.array(tops + corners))]
    objects: list[SceneObject] = []
    wanted = rng.integers(4, 7)
    for x, y, z, radius in places:
        kind, color = rng.choice(list(KINDS)), rng.choice(list(COLORS))
        taken = f"{color} {kind}" in {*without, *(other.label for other in objects)}
        if len(objects) == wanted or taken or not builder.room_for(kind):
            continue
        height = min(rng.uniform(0.65, 0.8), 2 * radius)
        instance = 20 + len(objects)
        low, high = np.full(3, np.inf), np.full(3, -np.inf)
        for primitive, px, py, pz, sx, sy, sz, taper, tint in KINDS[kind]:
            foot = np.array([x + px * height, y + py * height, z + pz * height])
            part = np.array([sx, sy, sz]) * height
            builder.add(primitive, foot, part, taper, tint or COLORS[color], instance)
            extent = part / 2 * np.array([max(1, taper), max(1, taper), 1])
            middle = foot + [0, 0, part[2] / 2]
            low, high = np.minimum(low, middle - extent), np.maximum(high, middle + extent)
        objects.append(SceneObject(str(kind), str(color), instance, tuple(low.tolist()), tuple(high.tolist())))
    return objects


def _random_color(
    rng: np.random.Generator, low: float, high: float, saturation: float = 0.7
) -> tuple[float, float, float]:
    return colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.1, saturation), rng.uniform(low, high))


def _paint(rng: np.random.Generator) -> np.ndarray:
    """Textures (6, TEXELS, TEXELS, 3) of the four walls, the floor and the ceiling; rows go up, columns along."""
    textures = [_wall(rng) for _ in range(4)]
    textures.append(_pattern(rng, _random_color(rng, 0.25, 0.6), 0.25))
    textures.append(_pattern(rng, _random_color(rng, 0.8, 0.95, 0.2), 0.06))
    return np.stack(textures).astype(np.float32)


def _wall(rng: np.random.Generator) -> np.ndarray:
    """A patterned wall with up to three pictures, doors or windows on it."""
    wall = _pattern(rng, _random_color(rng, 0.35, 0.9), 0.15)
    for _ in range(rng.integers(1, 4)):
        width, height = rng.integers(4, 9), rng.integers(6, 16)
        left, bottom = rng.integers(1, TEXELS - width), rng.choice([0, rng.integers(8, TEXELS - height)])
        wall[bottom : bottom + height, left : left + width] = _random_color(rng, 0.1, 1.0, 0.9)
        wall[bottom + 1 : bottom + height - 1, left + 1 : left + width - 1] = _random_color(rng, 0.1, 1.0, 0.9)
    return wall


def _pattern(rng: np.random.Generator, base: tuple[float, float, float], contrast: float) -> np.ndarray:
    """Stripes, checks, dots or a gradient of two tones of ``base``."""
    row, column = np.mgrid[0:TEXELS, 0:TEXELS]
    period = rng.choice([8, 16])
    masks = {
        "plain": np.zeros_like(row),
        "columns": column // (period // 2) % 2,
        "rows": row // (period // 2) % 2,
        "checks": (column // (period // 2) + row // (period // 2)) % 2,
        "dots": ((column % period - period / 2 + 0.5) ** 2 + (row % period - period / 2 + 0.5) ** 2)
        < (period / 3) ** 2,
        "gradient": column / TEXELS,
        "dado": row < TEXELS // 3,
    }
    mask = masks[rng.choice(list(masks))][..., None]
    other = np.clip(np.array(base) + rng.choice([-1, 1]) * contrast + rng.uniform(-0.1, 0.1, 3), 0, 1)
    return np.array(base) * (1 - mask) + other * mask
