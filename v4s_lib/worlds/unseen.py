"""``rooms_unseen``: rooms whose objects are of kinds that no training room has (DESIGN §6).

Walls, furniture, colours and places stay as they are; only what stands there has another shape. So a room and its
unseen twin can be compared in pairs. Colours are not held out: training shows each of them.
"""

from dataclasses import replace

import numpy as np

from v4s_lib.worlds.objects import COLORS, DARK, WOOD, Part
from v4s_lib.worlds.scenes import SceneObject, Scenes
from v4s_lib.worlds.things import FREE, Slots, clear, fits, put

# Two parts each: six objects of a room need 12 slots, and eight boxes of furniture leave 20, so that one always fits.
UNSEEN_KINDS: dict[str, tuple[Part, ...]] = {
    "monitor": (
        ("frustum", 0, 0, 0, 0.5, 0.5, 0.4, 0.2, DARK),
        ("box", 0, 0, 0.35, 0.2, 1.0, 0.65, 1, None),
    ),
    "suitcase": (
        ("box", 0, 0, 0, 0.4, 0.95, 0.8, 1, None),
        ("box", 0, 0, 0.8, 0.1, 0.4, 0.2, 1, DARK),
    ),
    "snowman": (
        ("ellipsoid", 0, 0, 0, 0.75, 0.75, 0.65, 1, None),
        ("ellipsoid", 0, 0, 0.58, 0.45, 0.45, 0.42, 1, None),
    ),
    "mushroom": (
        ("frustum", 0, 0, 0, 0.3, 0.3, 0.6, 0.8, WOOD),
        ("ellipsoid", 0, 0, 0.5, 1.0, 1.0, 0.5, 1, None),
    ),
    "hourglass": (
        ("frustum", 0, 0, 0, 0.8, 0.8, 0.5, 0.15, None),
        ("frustum", 0, 0, 0.5, 0.12, 0.12, 0.5, 6.5, None),
    ),
    "goblet": (
        ("frustum", 0, 0, 0, 0.7, 0.7, 0.45, 0.1, DARK),
        ("frustum", 0, 0, 0.45, 0.3, 0.3, 0.55, 2.8, None),
    ),
    "pawn": (
        ("frustum", 0, 0, 0, 0.9, 0.9, 0.65, 0.2, None),
        ("ellipsoid", 0, 0, 0.55, 0.45, 0.45, 0.45, 1, None),
    ),
}


def with_unseen_kinds(scenes: Scenes, seeds: list[int]) -> Scenes:
    """The rooms with every object replaced by one of ``UNSEEN_KINDS``; ``seeds`` draw the kinds, one a room."""
    changed = replace(scenes, **{name: getattr(scenes, name).clone() for name in FREE}, objects=[])
    for room, (seed, objects) in enumerate(zip(seeds, scenes.objects, strict=True)):
        slots = {name: getattr(changed, name)[room].numpy() for name in FREE}  # the tensor's own memory
        for item in objects:
            clear(slots, item.instance)
        rng = np.random.default_rng(seed)
        changed.objects.append([_replaced(slots, item, rng) for item in objects])
    return changed


def _replaced(slots: Slots, item: SceneObject, rng: np.random.Generator) -> SceneObject:
    """Another thing of the same colour and height on the same foot."""
    kind = rng.choice([kind for kind, parts in UNSEEN_KINDS.items() if fits(slots, parts)])
    low, high = np.array(item.box_min), np.array(item.box_max)
    foot = (*((low + high) / 2)[:2], low[2])
    low, high = put(slots, UNSEEN_KINDS[kind], foot, high[2] - low[2], COLORS[item.color], item.instance)
    return SceneObject(str(kind), item.color, item.instance, tuple(low.tolist()), tuple(high.tolist()))
