"""What stands in the middle of this frame? A small network that judges generated pixels by themselves (DESIGN §7, IF).

It is trained on rendered rooms of the training split: cameras that look at an object, or past it, and frames that are
blurred and noisy, as a model's are. It is no part of the model, and nothing of it is used in sampling.
``python -m v4s_lib.evaluation.reader`` trains it and writes ``data_manifests/weights/reader``.
"""

import argparse
import json
import math
import sys
from pathlib import Path

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from skimage.filters import gaussian
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy, interpolate
from tqdm.auto import tqdm

from v4s_lib.command import command
from v4s_lib.data.boxes import CENTRE
from v4s_lib.data.manifests import MANIFESTS, save_shipped, shipped_folder
from v4s_lib.data.rooms import RoomTask, render_many
from v4s_lib.data.targets import middle
from v4s_lib.model.weights import check_keys
from v4s_lib.training.fit import fit
from v4s_lib.worlds.cameras import Camera, pose
from v4s_lib.worlds.objects import COLORS, KINDS
from v4s_lib.worlds.scenes import Scenes, make_scenes, scene_seed

CAMERA = Camera(32, 48)  # frames that it reads; others are resized to these
NOTHING = len(COLORS) * len(KINDS)  # the class of a frame with no object in its middle
ROOMS, LOOKS = 4000, 16  # rooms it is trained on, and cameras in each
EPOCHS, BATCH = 7, 64
RATE = 2e-3  # of AdamW, at the most
NOTHING_WEIGHT = 0.2  # in the loss; nineteen cells in twenty show nothing
CELL = 4  # pixels that a cell is wide and high
COVERED = 0.15  # of a cell, at least, to be of an object; the smallest that counts lies in four cells, 3 pixels in each
FIRST_ROOM = 500_000_000  # of the training split, out of reach of the models' own rooms
FOLDER = MANIFESTS / "weights" / "reader"


class ObjectReader(ModelMixin, ConfigMixin):
    """Frames (N, 32, 48, 3) to logits (N, 81, 8, 12): of every cell one a colour and kind, the last for nothing.

    A logit is the sum of its colour's and its kind's, so that every pair is read, also one seldom met.
    """

    @register_to_config
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.see = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(4 * width, 4 * width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(4 * width, 4 * width, 3, padding=1),
            nn.GELU(),
        )
        self.color = nn.Conv2d(4 * width, len(COLORS), 1)
        self.kind = nn.Conv2d(4 * width, len(KINDS), 1)
        self.nothing = nn.Conv2d(4 * width, 1, 1)

    def forward(self, frames: Tensor) -> Tensor:
        seen = self.see(frames.permute(0, 3, 1, 2) * 2 - 1)
        pairs = self.color(seen)[:, :, None] + self.kind(seen)[:, None]
        return torch.cat([pairs.flatten(1, 2), self.nothing(seen)], dim=1)

    @torch.no_grad()
    def score(self, frames: Tensor, labels: list[str]) -> Tensor:
        """How probable (N,) it is that the object of its label is in the middle of each frame (N, H, W, 3).

        That is the highest probability among the cells whose middle is as near to the picture's as ``is_centred`` asks.
        """
        height, width, colors = frames.shape[-3:]
        if frames.ndim != 4 or colors != 3 or height * CAMERA.width != width * CAMERA.height:
            raise ValueError(
                f"expected frames (N, H, W, 3) of {CAMERA.height} to {CAMERA.width} in height and width, "
                f"got shape {tuple(frames.shape)}: resize them"
            )
        size = (CAMERA.height, CAMERA.width)
        small = interpolate(frames.float().permute(0, 3, 1, 2), size, mode="area").permute(0, 2, 3, 1)
        probable = self(small).softmax(dim=1) / 2 + self(small.flip(2)).softmax(dim=1).flip(3) / 2  # and in a mirror
        index = torch.tensor([label_class(label) for label in labels])
        return probable[torch.arange(len(index)), index][:, in_the_middle(*probable.shape[-2:])].amax(dim=1)


def in_the_middle(rows: int, columns: int) -> Tensor:
    """Which cells (rows, columns) have their own middle near the picture's."""
    row, column = ((torch.arange(size) + 0.5) / size - 0.5 for size in (rows, columns))
    return (row.abs() <= CENTRE)[:, None] & (column.abs() <= CENTRE)


def label_class(label: str) -> int:
    """ "red kettle" to the number of its class."""
    color, kind = label.split(" ")
    return list(COLORS).index(color) * len(KINDS) + list(KINDS).index(kind)


def look_around(scenes: Scenes, generator: torch.Generator, looks: int) -> tuple[Tensor, Tensor]:
    """Frames (looks, 32, 48, 3) of one room, by cameras that look at its objects or past them, and cells' classes."""

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(looks, generator=generator)

    objects = scenes.objects[0]
    chosen = torch.randint(len(objects), (looks,), generator=generator).tolist()
    low, high = scenes.free_min[0], scenes.free_max[0]
    place = torch.stack([uniform(float(low[0]), float(high[0])), uniform(float(low[1]), float(high[1]))], dim=1)
    place = torch.cat([place, uniform(1.3, 1.6)[:, None]], dim=1)
    away = torch.stack([middle(objects[i]) for i in chosen]) - place
    past = torch.rand(looks, generator=generator) < 0.5  # half of the cameras look where they like, nearby
    yaw = torch.atan2(away[:, 1], away[:, 0]) + uniform(-1, 1) * torch.where(past, math.radians(60), math.radians(8))
    pitch = torch.atan2(away[:, 2], away[:, :2].norm(dim=1)) + uniform(-1, 1) * math.radians(6)
    task = RoomTask(CAMERA)
    shown = render_many(scenes, pose(place, yaw, pitch)[None], task)
    return shown.rgb[0], cell_classes(shown.instance[0], scenes)


def cell_classes(instance: Tensor, scenes: Scenes) -> Tensor:
    """The class (N, 8, 12) of the object that covers most of each cell, or NOTHING; of ids (N, H, W)."""
    classes = torch.full((len(instance), instance.shape[1] // CELL, instance.shape[2] // CELL), NOTHING)
    most = torch.full(classes.shape, COVERED)
    for item in scenes.objects[0]:
        share = avg_pool2d((instance == item.instance).float()[:, None], CELL)[:, 0]
        classes[share >= most] = label_class(item.label)
        most = torch.maximum(most, share)
    return classes


def spoiled(frames: Tensor, generator: torch.Generator) -> Tensor:
    """Frames as a model might draw them: blurred, noisy, with a cast of colour."""
    count, sigma = len(frames), torch.rand((), generator=generator).item()  # pixels
    frames = torch.from_numpy(gaussian(frames.numpy(), (0, sigma, sigma), channel_axis=-1))
    frames = frames * (1 + 0.1 * torch.randn((count, 1, 1, 3), generator=generator))
    noise = 0.06 * torch.rand((count, 1, 1, 1), generator=generator) * torch.randn(frames.shape, generator=generator)
    return (frames + noise).clamp(0, 1)


def train_reader(rooms: int = ROOMS, epochs: int = EPOCHS, seed: int = 0, progress: bool = True) -> ObjectReader:
    """Train a reader; the same arguments give the same one on the same machine."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for index in tqdm(range(rooms), disable=not progress, desc="rooms"):
        scenes = make_scenes([scene_seed("train", FIRST_ROOM + index)])
        frames, classes = look_around(scenes, generator, LOOKS)
        parts.append(((255 * frames).round().byte(), classes.byte()))
    frames, classes = (torch.cat(part) for part in zip(*parts, strict=True))
    torch.manual_seed(seed)
    reader = ObjectReader()
    weight = torch.ones(NOTHING + 1)
    weight[NOTHING] = NOTHING_WEIGHT

    def loss() -> Tensor:
        drawn = torch.randint(len(frames), (BATCH,), generator=generator)
        shown, wanted = spoiled(frames[drawn].float() / 255, generator), classes[drawn].long()
        if torch.rand((), generator=generator) < 0.5:
            shown, wanted = shown.flip(2), wanted.flip(2)  # a mirrored room is a room
        return cross_entropy(reader(shown), wanted, weight)

    fit(reader, loss, epochs * len(frames) // BATCH, RATE, progress)
    return reader.eval()


def load_reader(folder: Path | None = None) -> ObjectReader:
    """The shipped reader, checked against its manifest, or the one in ``folder``."""
    folder = shipped_folder("weights_reader", "weights/reader") if folder is None else folder
    reader, info = ObjectReader.from_pretrained(folder, use_safetensors=True, output_loading_info=True)
    check_keys(folder, info["missing_keys"], info["unexpected_keys"])
    return reader


@command("nothing was written; run the same command again")
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m v4s_lib.evaluation.reader", description=__doc__)
    parser.add_argument("--rooms", type=int, default=ROOMS)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--out", type=Path, default=FOLDER)
    args = parser.parse_args(arguments)
    reader = train_reader(args.rooms, args.epochs)
    reader.to(torch.float16).save_pretrained(args.out, safe_serialization=True)
    (args.out / "run.json").write_text(json.dumps({"rooms": args.rooms, "looks": LOOKS, "epochs": args.epochs}) + "\n")
    if args.out == FOLDER:
        save_shipped(
            "weights_reader",
            "The reader of what stands in the middle of a frame: a judge, and no part of any model",
            "python -m v4s_lib.evaluation.reader",
            sorted(FOLDER.iterdir()),
        )


if __name__ == "__main__":
    sys.exit(main())
