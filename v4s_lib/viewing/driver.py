"""A camera driver: buttons build a path from the start frame on, ``generate`` samples it and shows the clip.

Where there are objects to choose from, ``find it`` samples a clip that no path is given for, only the object's name.
Every click adds four poses, the frames of one latent, so that a path always has 4k+1. The picture comes first and needs
no widgets; without them (``interactive=False``) it is all there is.
"""

import math
from collections.abc import Callable, Sequence

import ipywidgets
import torch
from IPython.display import display
from torch import Tensor

from v4s_lib.viewing.sheets import Strip, contact_sheet, picture, to_image, to_png
from v4s_lib.worlds.paths import FRAMES_PER_LATENT

# Yaw and pitch in degrees and forward motion in metres that one click adds; the speeds are those seen in training.
MOVES = {
    "turn left": (20.0, 0.0, 0.0),
    "turn right": (-20.0, 0.0, 0.0),
    "forward": (0.0, 0.0, 0.25),
    "look up": (0.0, 10.0, 0.0),
    "look down": (0.0, -10.0, 0.0),
}
SCALE = 6  # how much larger than the clip's pixels the driver shows them


def extend_path(path: Tensor, move: str) -> Tensor:
    """A path (F, 4, 4) with the four poses that a move adds: evenly spaced, one latent.

    Yaw turns about the world's z axis, left positive; pitch about the camera's x axis, up positive; forward is along
    the ground. c2w, OpenCV camera axes, metres.
    """
    if move not in MOVES:
        raise ValueError(f"expected a move out of {', '.join(MOVES)}, got {move!r}: choose one of them")
    yaw, pitch, distance = (value / FRAMES_PER_LATENT for value in MOVES[move])
    poses = [path[-1]]
    for _ in range(FRAMES_PER_LATENT):
        pose = poses[-1].clone()
        pose[:3, :3] = _rotation("z", yaw) @ pose[:3, :3] @ _rotation("x", pitch)
        ground = pose[:2, 2] / pose[:2, 2].norm().clamp(min=1e-6)
        pose[:2, 3] += distance * ground
        poses.append(pose)
    return torch.cat([path, torch.stack(poses[1:])])


def _rotation(axis: str, degrees: float) -> Tensor:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    rows = {"z": [[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]], "x": [[1, 0, 0], [0, cos, -sin], [0, sin, cos]]}
    return torch.tensor(rows[axis])


class Driver:
    """The widgets and the path they have built so far.

    Args:
        generate: camera path (F, 4, 4), F = 4k+1, to a clip (F, H, W, 3) in 0..1, the start frame first.
        start_frame: (H, W, 3) in 0..1.
        start_c2w: (4, 4) its pose; only how the path leaves it reaches the model.
        max_latents: moving latents that a path may have, as many as in training.
        find: an object's name to a clip (F, H, W, 3), likewise; None leaves the choice out.
        objects: names to choose from.
    """

    def __init__(
        self,
        generate: Callable[[Tensor], Tensor],
        start_frame: Tensor,
        start_c2w: Tensor,
        max_latents: int,
        find: Callable[[str], Tensor] | None = None,
        objects: Sequence[str] = (),
    ) -> None:
        self.generate, self.max_latents, self.find = generate, max_latents, find
        self.start = (start_c2w[None], start_frame[None])
        self.path, self.clip = self.start
        names = (*MOVES, "generate", "start again", *(["find it"] if find else []))
        self.buttons = {name: ipywidgets.Button(description=name) for name in names}
        self.choice = ipywidgets.Dropdown(description="object", options=list(objects))
        self.image = ipywidgets.Image(format="png", value=to_png(to_image(start_frame, SCALE)))
        self.slider = ipywidgets.IntSlider(description="frame", min=0, max=0)
        self.label = ipywidgets.Label()
        for name in MOVES:
            self.buttons[name].on_click(self._move)
        self.buttons["generate"].on_click(self._sample)
        self.buttons["start again"].on_click(lambda _: self._show(*self.start))
        self.slider.observe(self._show_frame, names="value")
        buttons = list(self.buttons.values())
        rows = [ipywidgets.HBox(buttons[:5]), ipywidgets.HBox(buttons[5:7])]
        if find:
            self.buttons["find it"].on_click(self._find)
            rows.append(ipywidgets.HBox([self.choice, self.buttons["find it"]]))
        self.box = ipywidgets.VBox([self.image, self.slider, *rows, self.label])
        self._show(*self.start)

    def _show(self, path: Tensor, clip: Tensor) -> None:
        """Take over a path and the clip to look at, and say how far the path has got."""
        self.path, self.clip = path, clip
        latents = (len(path) - 1) // FRAMES_PER_LATENT
        self.slider.max, self.slider.value = len(clip) - 1, 0
        self._show_frame()
        full = latents >= self.max_latents
        for name in MOVES:
            self.buttons[name].disabled = full
        self.buttons["generate"].disabled = latents == 0
        self.label.value = f"{latents} of {self.max_latents} moves" + (": the path is full" if full else "")

    def _move(self, button: ipywidgets.Button) -> None:
        self._show(extend_path(self.path, button.description), self.start[1])

    def _sample(self, button: ipywidgets.Button) -> None:
        self.label.value = "sampling"
        self._show(self.path, self.generate(self.path))

    def _find(self, button: ipywidgets.Button) -> None:
        self.label.value = "sampling"
        self._show(self.start[0], self.find(self.choice.value))
        self.label.value = f"looked for: {self.choice.value}"

    def _show_frame(self, change: dict | None = None) -> None:
        self.image.value = to_png(to_image(self.clip[self.slider.value], SCALE))


def drive(
    generate: Callable[[Tensor], Tensor],
    start_frame: Tensor,
    start_c2w: Tensor,
    moves: list[str],
    max_latents: int,
    interactive: bool = True,
    find: Callable[[str], Tensor] | None = None,
    objects: Sequence[str] = (),
) -> None:
    """Show the clip of a first path as a still picture, then, if ``interactive``, the driver itself.

    Args:
        generate, start_frame, start_c2w, max_latents, find, objects: as ``Driver``.
        moves: the first path, as names out of ``MOVES``.
        interactive: whether to make widgets at all.
    """
    path = start_c2w[None]
    for move in moves:
        path = extend_path(path, move)
    display(picture(contact_sheet([Strip(", ".join(moves), generate(path), "generated")])))
    if interactive:
        display(Driver(generate, start_frame, start_c2w, max_latents, find, objects).box)
