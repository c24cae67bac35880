"""The kinds of objects that stand in a room, each built from a few primitives.

A part is ``(primitive, x, y, z, size_x, size_y, size_z, taper, tint)`` in units of the object's height: the centre of
its foot on the ground plane, its full sizes, for a frustum the ratio of its top to its foot radius, and whether it
takes the object's colour (``None``) or a fixed one.
"""

COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.10, 0.10),
    "green": (0.10, 0.65, 0.15),
    "blue": (0.12, 0.25, 0.85),
    "yellow": (0.95, 0.85, 0.10),
    "purple": (0.55, 0.15, 0.70),
    "orange": (0.95, 0.50, 0.05),
    "cyan": (0.10, 0.80, 0.85),
    "white": (0.95, 0.95, 0.95),
}

WOOD, DARK, LEAF = (0.45, 0.30, 0.18), (0.12, 0.12, 0.14), (0.15, 0.42, 0.12)

Part = tuple[str, float, float, float, float, float, float, float, tuple[float, float, float] | None]

KINDS: dict[str, tuple[Part, ...]] = {
    "ball": (("ellipsoid", 0, 0, 0, 1.0, 1.0, 1.0, 1, None),),
    "crate": (("box", 0, 0, 0, 1.0, 1.0, 1.0, 1, None),),
    "lamp": (
        ("frustum", 0, 0, 0, 0.14, 0.14, 0.55, 1, DARK),
        ("frustum", 0, 0, 0.5, 0.75, 0.75, 0.5, 0.5, None),
    ),
    "kettle": (
        ("frustum", 0, 0, 0, 1.0, 1.0, 0.7, 0.6, None),
        ("ellipsoid", 0, 0, 0.55, 0.5, 0.5, 0.3, 1, None),
        ("box", 0.3, 0, 0.7, 0.12, 0.12, 0.3, 1, DARK),
    ),
    "vase": (
        ("frustum", 0, 0, 0, 0.3, 0.3, 0.6, 2.2, None),
        ("frustum", 0, 0, 0.6, 0.66, 0.66, 0.4, 0.5, None),
    ),
    "cone": (
        ("box", 0, 0, 0, 0.8, 0.8, 0.1, 1, DARK),
        ("frustum", 0, 0, 0.1, 0.66, 0.66, 0.9, 0.1, None),
    ),
    "bottle": (
        ("frustum", 0, 0, 0, 0.4, 0.4, 0.6, 1, None),
        ("frustum", 0, 0, 0.6, 0.4, 0.4, 0.4, 0.3, None),
    ),
    "chair": (
        ("box", 0, 0, 0.4, 0.6, 0.6, 0.1, 1, None),
        ("box", 0.25, 0, 0.5, 0.1, 0.6, 0.5, 1, None),
        ("box", 0, 0, 0, 0.15, 0.15, 0.4, 1, WOOD),
    ),
    "plant": (
        ("frustum", 0, 0, 0, 0.45, 0.45, 0.45, 1.3, None),
        ("ellipsoid", 0, 0, 0.4, 0.8, 0.8, 0.6, 1, LEAF),
    ),
    "stool": (
        ("frustum", 0, 0, 0, 0.2, 0.2, 0.8, 1, WOOD),
        ("frustum", 0, 0, 0.8, 0.9, 0.9, 0.2, 1, None),
    ),
}

# A fifth of all, each colour twice and each kind at least once: no training room holds one of them, so that a model can
# be asked for something new (claim D2).
NEW_LABELS = tuple(
    f"{color} {kind}" for i, color in enumerate(COLORS) for j, kind in enumerate(KINDS) if (i + j) % 5 == 0
)
