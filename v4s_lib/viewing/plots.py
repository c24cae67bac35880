"""Plots that notebooks share: a room from above, training curves, attention patterns.

Every figure is drawn without pyplot's global state and returned as one compressed picture.
"""

import io
import json
from pathlib import Path

import IPython.display
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle
from matplotlib.transforms import BboxBase
from PIL import Image
from torch import Tensor

from v4s_lib.evaluation.ledger import Entry
from v4s_lib.viewing.sheets import BORDERS, picture
from v4s_lib.worlds.objects import COLORS
from v4s_lib.worlds.scenes import Scenes

ORANGE, BLUE, GREY = (tuple(value / 255 for value in BORDERS[role]) for role in ("context", "generated", "truth"))
ARROWS = 12  # viewing directions drawn along a path
EDGE = 2.0  # units of a bar, from the bar to the edge of the picture
SPARE, BEYOND = 0.7, 20.0  # metres: around the paths of a plan drawn near, and of a line of sight
NAME_BOX = {"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 1}


def show(figure: Figure) -> IPython.display.Image:
    """A figure as a compressed picture."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=80, bbox_inches="tight")
    return picture(Image.open(buffer).convert("RGB"))


def top_view(
    scenes: Scenes, paths: dict[str, Tensor], room: int = 0, looks: dict[str, Tensor] | None = None, near: bool = False
) -> IPython.display.Image:
    """A room from above: furniture, objects with their names, the free middle, and camera paths.

    Args:
        scenes: a batch of rooms.
        paths: label to c2w (F, 4, 4); a label that begins with "scan" is drawn orange, any other blue.
        room: which of the rooms.
        looks: more paths, of which only the last direction of view is drawn, as a long arrow and a line on from it.
        near: whether a second plan shows the surroundings of ``paths``, larger.
    """
    width, depth, _ = scenes.room[room].tolist()
    limits = [((-0.1, width + 0.1), (-0.1, depth + 0.1))]
    if near:
        spots = torch.cat([c2w[:, :2, 3] for c2w in paths.values()])
        middle, half = (spots.amin(0) + spots.amax(0)) / 2, (spots.amax(0) - spots.amin(0)).max() / 2 + SPARE
        limits.append(tuple(zip((middle - half).tolist(), (middle + half).tolist(), strict=True)))
    figure = Figure(figsize=(5.5 * len(limits), 5.5))
    for place, (xlim, ylim) in enumerate(limits, start=1):
        axes = figure.add_subplot(1, len(limits), place, aspect="equal", xlabel="x, metres", ylabel="y, metres")
        axes.set(xlim=xlim, ylim=ylim)
        axes.apply_aspect()  # names are measured before anything is drawn
        axes.add_patch(Rectangle((0, 0), width, depth, facecolor="#f4f1ea", edgecolor="black", linewidth=2))
        _draw_things(axes, scenes, room)
        low, high = scenes.free_min[room].tolist(), scenes.free_max[room].tolist()
        size = (high[0] - low[0], high[1] - low[1])
        axes.add_patch(Rectangle(low, *size, fill=False, edgecolor="black", linestyle=":", label="free middle"))
        for label, c2w in paths.items():
            _draw_path(axes, c2w, ORANGE if label.startswith("scan") else BLUE, label)
        for label, c2w in (looks or {}).items():
            _draw_look(axes, c2w, label)
    figure.axes[0].legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=3, frameon=False)
    return show(figure)


def _draw_things(axes: Axes, scenes: Scenes, room: int) -> None:
    """Footprints of the furniture's boxes, and a disc and a name for each object."""
    names: list[BboxBase] = []
    objects = {item.instance for item in scenes.objects[room]}
    for center, half, color, instance in zip(
        scenes.center[room], scenes.half[room], scenes.color[room], scenes.instance[room].tolist(), strict=True
    ):
        if instance >= 0 and instance not in objects:  # empty slots carry -1
            corner, size = (center - half)[:2].tolist(), (2 * half)[:2].tolist()
            axes.add_patch(Rectangle(corner, *size, facecolor=color.tolist(), edgecolor="black", linewidth=0.5))
    for item in scenes.objects[room]:
        place = [(low + high) / 2 for low, high in zip(item.box_min[:2], item.box_max[:2], strict=True)]
        radius = (item.box_max[0] - item.box_min[0]) / 2
        axes.add_patch(Circle(place, radius, facecolor=COLORS[item.color], edgecolor="black", linewidth=1))
        style = {"fontsize": 7, "ha": "center", "bbox": NAME_BOX, "clip_on": True}
        name = axes.text(place[0], place[1] + radius + 0.05, item.label, **style)
        if any(name.get_window_extent().overlaps(other) for other in names):  # then below the disc
            name.set(y=place[1] - radius - 0.05, va="top")
        names.append(name.get_window_extent())


def _draw_look(axes: Axes, c2w: Tensor, label: str) -> None:
    """The path, its start as a dot, where it looks in the end as a long arrow, and the line of sight beyond."""
    x, y = c2w[:, 0, 3].tolist(), c2w[:, 1, 3].tolist()
    axes.plot(x, y, color=BLUE, linewidth=2)
    axes.plot(x[:1], y[:1], "o", color=BLUE)
    way = c2w[-1, :2, 2] / c2w[-1, :2, 2].norm().clamp(min=1e-6)
    far = c2w[-1, :2, 3] + BEYOND * way
    axes.plot([x[-1], far[0].item()], [y[-1], far[1].item()], color=BLUE, linewidth=1, linestyle="--", label=label)
    axes.quiver(x[-1], y[-1], *way.tolist(), color=BLUE, angles="xy", scale_units="xy", scale=1, width=0.01)


def _draw_path(axes: Axes, c2w: Tensor, color: tuple[float, ...], label: str) -> None:
    """The path, its start as a dot, and the direction of view at a few places."""
    x, y = c2w[:, 0, 3].tolist(), c2w[:, 1, 3].tolist()
    axes.plot(x, y, color=color, linewidth=2, label=label)
    axes.plot(x[:1], y[:1], "o", color=color)
    some = c2w[torch.linspace(0, len(c2w) - 1, ARROWS).round().long()]
    axes.quiver(
        some[:, 0, 3], some[:, 1, 3], some[:, 0, 2], some[:, 1, 2],
        color=color, angles="xy", scale_units="xy", scale=3, width=0.004,
    )  # fmt: skip


def read_log(path: Path) -> list[dict]:
    """The lines of a training's ``log.jsonl``."""
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def training_curves(log: list[dict]) -> IPython.display.Image:
    """Loss by step, and on the right ``psnr_recall`` of the validation rooms under the three conditions."""
    figure = Figure(figsize=(9, 3.2), layout="tight")
    left = figure.add_subplot(1, 2, 1, xlabel="step", ylabel="loss", yscale="log")
    left.plot(*_series(log, "loss"), color="black", linewidth=0.7)
    right = figure.add_subplot(1, 2, 2, xlabel="step", ylabel="psnr_recall, dB")
    colors = {"ours": BLUE, "other_context": ORANGE, "no_context": GREY}
    for name, color in colors.items():
        steps, values = _series(log, f"psnr_recall_{name}")
        right.plot(steps, values, ".--" if name == "other_context" else ".-", color=color, label=name)  # lies on grey
    right.legend(frameon=False)
    return show(figure)


def _series(log: list[dict], key: str) -> tuple[list[int], list[float]]:
    """Steps and values of a key, where lines have it."""
    lines = [line for line in log if key in line]
    return [line["step"] for line in lines], [line[key] for line in lines]


def attention_patterns(context: int, target: int) -> IPython.display.Image:
    """Which latents (rows) attend to which (columns), for ``context`` and ``target`` latents: two-way and one-way."""
    figure = Figure(figsize=(6.5, 3), layout="tight")
    total = context + target
    for place, name in enumerate(("two_way", "one_way"), start=1):
        axes = figure.add_subplot(1, 2, place, title=name, xlabel="keys: latents", ylabel="queries: latents")
        pattern = torch.ones(total, total, 3) * torch.tensor(BLUE)
        pattern[:, :context] = torch.tensor(ORANGE)
        if name == "one_way":
            pattern[:context, context:] = 1.0
        axes.imshow(pattern.numpy(), extent=(0, total, total, 0))
        axes.axhline(context, color="black", linewidth=0.8)
        axes.axvline(context, color="black", linewidth=0.8)
    return show(figure)


def calibration(gates: dict, least_score: float) -> IPython.display.Image:
    """What the judges of grounding were calibrated on: distances from the room, and the reader's scores, by kind."""
    figure = Figure(figsize=(9, 3.2), layout="tight")
    left = figure.add_subplot(1, 2, 1, xlabel="SD: 0 this room, 1 another room", xlim=(0, 2))
    right = figure.add_subplot(1, 2, 2, xlabel="probability of the named object, by the reader", xlim=(0, 1))
    gated = {0.1: ("SD < 0.1 ", "right"), 0.2: (" SD < 0.2", "left")}
    read = {least_score: (f" least score, {least_score:.0%}", "left")}
    for axes, values, lines in ((left, gates["distances"], gated), (right, gates["scores"], read)):
        for row, (name, numbers) in enumerate(values.items()):
            color = GREY if name == "ground truth" else ORANGE
            axes.plot(numbers, [row] * len(numbers), "|", color=color, markersize=12)
        axes.set_yticks(range(len(values)), list(values))
        axes.invert_yaxis()
        for line, (name, side) in lines.items():
            axes.axvline(line, color="black", linewidth=0.8, linestyle=":")
            axes.text(line, 1.02, name, ha=side, fontsize=8, transform=axes.get_xaxis_transform())
    return show(figure)


def best_of_curve(rows: list[dict], paper: dict[int, float]) -> IPython.display.Image:
    """Share of episodes in which one of k samples passes, with its interval, by method, and the paper's shares by k."""
    figure = Figure(figsize=(4.5, 3), layout="tight")
    axes = figure.add_subplot(xlabel="k samples", ylabel="one of k passes: IF(SD<0.2)", ylim=(0, 1))
    for method, color in (("ours", BLUE), ("ours_drawn", ORANGE)):
        found = [row for row in rows if row["method"] == method and "_best_of_" in row["metric"]]
        counts = [int(row["metric"].rsplit("_", 1)[1]) for row in found]
        low, high = ([row["mean"] if row[end] is None else row[end] for row in found] for end in ("low", "high"))
        axes.fill_between(counts, low, high, color=color, alpha=0.2)
        axes.plot(counts, [row["mean"] for row in found], ".-", color=color, label=method)
    axes.plot(list(paper), list(paper.values()), "x", color="black", label="the paper, its own scale")
    axes.legend(frameon=False)
    return show(figure)


def margins(entries: list[Entry]) -> IPython.display.Image:
    """How far each check is from its bar, in units of the bar, with its interval: right of the line it holds.

    A check has a line for each training seed. One that lies beyond the picture is an arrow with its number.
    """
    checks = [(entry, check) for entry in entries for check in entry.checks]
    rows = [(f"{entry.claim['id']}: {check.seeds[0].what} {check.seeds[0].bar}", check) for entry, check in checks]
    figure = Figure(figsize=(12, 0.8 + 0.28 * len(rows)), layout="constrained")
    axes = figure.add_subplot(xlabel="distance from the bar, in units of the bar", xlim=(-EDGE, EDGE))
    axes.set_ylim(len(rows), -1)
    for row, (_, check) in enumerate(rows):
        for number, seed in enumerate(check.seeds):
            place = row + 0.25 * number
            low, high = (seed.margin(end) for end in seed.interval or (seed.value, seed.value))
            color = BLUE if seed.holds else ORANGE
            axes.plot([low, high], [place, place], color=color, linewidth=2)
            middle = seed.margin(seed.value)
            if abs(middle) < EDGE:
                axes.plot([middle], [place], "o", color=color, markersize=4)
                continue
            side, marker, align = (1, ">", "right") if middle > 0 else (-1, "<", "left")
            axes.plot([side * 0.97 * EDGE], [place], marker, color=color, markersize=5)
            axes.text(side * 0.93 * EDGE, place, f"{middle:+.1f}", color=color, fontsize=7, ha=align, va="center")
    axes.axvline(0, color="black", linewidth=0.8, linestyle=":")
    for place, text, align in ((0, "the bar", "center"), (EDGE, "holds", "right"), (-EDGE, "misses", "left")):
        axes.text(place, 1.002, text, ha=align, transform=axes.get_xaxis_transform())
    axes.set_yticks(range(len(rows)), [name for name, _ in rows], fontsize=8)
    return show(figure)


def forest(gains: dict[str, dict], unit: str) -> IPython.display.Image:
    """Paired differences, as the results keep them, with their 95% intervals over rooms: a line each, by name.

    Where several trainings stand behind one, small dots are those of each training seed. What is unknown is left out.
    """
    gains = {name: gain for name, gain in gains.items() if None not in (gain["mean"], gain["low"], gain["high"])}
    figure = Figure(figsize=(7, 0.9 + 0.3 * len(gains)), layout="tight")
    axes = figure.add_subplot(xlabel=f"difference, {unit}", ylim=(len(gains) - 0.5, -0.5))
    for row, gain in enumerate(gains.values()):
        sure = gain["low"] > 0 or gain["high"] < 0
        color = (BLUE if gain["mean"] > 0 else ORANGE) if sure else GREY
        axes.plot([gain["low"], gain["high"]], [row, row], color=color, linewidth=3)
        axes.plot([gain["mean"]], [row], "o", color=color)
        seeds = [seed["mean"] for seed in gain.get("by_seed", [])]
        axes.plot(seeds, [row + 0.25] * len(seeds), ".", color="black", markersize=4)
    axes.axvline(0, color="black", linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(gains)), list(gains))
    return show(figure)
