"""Things made of parts, put into the slots of a scene: what parks and rooms with unseen objects are furnished with.

A scene has a fixed number of primitives of each kind, ``SLOTS``. Slots are the arrays of one scene, a row a primitive,
named as the fields of ``Scenes``. A free row has the instance -1 and lies where no ray meets it.
"""

import numpy as np

from v4s_lib.worlds.objects import Part
from v4s_lib.worlds.scenes import SLOTS

FREE = {"center": (0.0, 0.0, -100.0), "half": (1e-3,) * 3, "taper": 1.0, "color": (0.0,) * 3, "instance": -1}
FIRST = {name: sum(list(SLOTS.values())[:place]) for place, name in enumerate(SLOTS)}  # row of each kind

Slots = dict[str, np.ndarray]


def free_slots() -> Slots:
    """The slots of a scene in which nothing stands yet."""
    count = sum(SLOTS.values())
    types = {name: np.int64 if name == "instance" else np.float32 for name in FREE}
    return {name: np.array([value] * count, types[name]) for name, value in FREE.items()}


def clear(slots: Slots, instance: int) -> None:
    """Take the thing with that instance id away, in place."""
    rows = slots["instance"] == instance
    for name, value in FREE.items():
        slots[name][rows] = value


def fits(slots: Slots, parts: tuple[Part, ...]) -> bool:
    """Whether there is a free slot for every part of a thing."""
    needed = [part[0] for part in parts]
    return all(len(_free_rows(slots, name)) >= needed.count(name) for name in SLOTS)


def put(
    slots: Slots,
    parts: tuple[Part, ...],
    foot: tuple[float, float, float],
    height: float,
    color: tuple[float, float, float],
    instance: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Stand a thing on ``foot`` (metres), in place; ``parts`` are in units of its ``height``, as in ``KINDS``.

    Returns:
        least and greatest corner (3,) of its axis-aligned box, metres.
    """
    if not fits(slots, parts):
        raise ValueError(f"expected a free slot for each of {len(parts)} parts, got a full scene: put fewer things in")
    corners = []
    for primitive, x, y, z, *size, taper, tint in parts:
        half = np.array(size) * height / 2
        center = np.array(foot) + np.array([x, y, z]) * height + [0, 0, half[2]]
        row = _free_rows(slots, primitive)[0]
        filled = {"center": center, "half": half, "taper": taper, "color": tint or color, "instance": instance}
        for name, value in filled.items():
            slots[name][row] = value
        widest = half * [max(1, taper), max(1, taper), 1]
        corners += [center - widest, center + widest]
    return np.min(corners, axis=0), np.max(corners, axis=0)


def _free_rows(slots: Slots, primitive: str) -> np.ndarray:
    """Numbers of the free rows of one kind of primitive."""
    first = FIRST[primitive]
    return first + np.flatnonzero(slots["instance"][first : first + SLOTS[primitive]] == -1)
