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
from torch.nn.functional import cross_entropy, gelu, interpolate
from tqdm.auto import tqdm

from v4s_lib.data.boxes import is_centred
from v4s_lib.data.files import verify
from v4s_lib.data.manifests import MANIFESTS, load_manifest, save_shipped
from v4s_lib.data.rooms import RoomTask, render_many
from v4s_lib.data.targets import middle
from v4s_lib.worlds.cameras import Camera, pose
from v4s_lib.worlds.objects import COLORS, KINDS
from v4s_lib.worlds.scenes import Scenes, make_scenes, scene_seed

CAMERA = Camera(32, 48)  # frames that it reads; others are resized to these
NOTHING = len(COLORS) * len(KINDS)  # the class of a frame with no object in its middle
ROOMS, LOOKS = 1000, 16  # rooms it is trained on, and cameras in each
EPOCHS = 6
FIRST_ROOM = 500_000_000  # of the training split, out of reach of the models' own rooms
FOLDER = MANIFESTS / "weights" / "reader"


class ObjectReader(ModelMixin, ConfigMixin):
    """Frames (N, 32, 48, 3) to logits (N, 81): one a colour and kind, the last for nothing.

    A logit is the sum of its colour's and its kind's, so that every pair is read, also one seldom met.
    """

    @register_to_config
    def __init__(self, width: int = 24) -> None:
        super().__init__()
        sizes = [(5, width, 1), (width, 2 * width, 2), (2 * width, 2 * width, 1), (2 * width, 4 * width, 2)]
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, stride, padding=1) for a, b, stride in sizes)
        self.last = nn.Conv2d(4 * width, 4 * width, 3, padding=1)
        self.where = nn.Conv2d(4 * width, 1, 1)
        self.color = nn.Linear(4 * width, len(COLORS))
        self.kind = nn.Linear(4 * width, len(KINDS))
        self.nothing = nn.Linear(4 * width, 1)

    def forward(self, frames: Tensor) -> Tensor:
        x = frames.permute(0, 3, 1, 2) * 2 - 1
        row, column = torch.meshgrid(*(torch.linspace(-1, 1, size) for size in x.shape[-2:]), indexing="ij")
        x = torch.cat([x, torch.stack([row, column]).to(x).expand(len(x), -1, -1, -1)], dim=1)
        for layer in [*self.layers, self.last]:
            x = gelu(layer(x))
        share = self.where(x).flatten(2).softmax(dim=-1)  # where in the frame it looks
        x = (x.flatten(2) * share).sum(dim=-1)
        pairs = self.color(x)[:, :, None] + self.kind(x)[:, None, :]
        return torch.cat([pairs.flatten(1), self.nothing(x)], dim=1)

    @torch.no_grad()
    def score(self, frames: Tensor, labels: list[str]) -> Tensor:
        """How probable (N,) it is that each frame (N, H, W, 3) has the object of its label in its middle."""
        height, width, colors = frames.shape[-3:]
        if frames.ndim != 4 or colors != 3 or height * CAMERA.width != width * CAMERA.height:
            raise ValueError(
                f"expected frames (N, H, W, 3) of {CAMERA.height} to {CAMERA.width} in height and width, "
                f"got shape {tuple(frames.shape)}: resize them"
            )
        size = (CAMERA.height, CAMERA.width)
        small = interpolate(frames.float().permute(0, 3, 1, 2), size, mode="area").permute(0, 2, 3, 1)
        index = torch.tensor([label_class(label) for label in labels])
        return self(small).softmax(dim=1).gather(1, index[:, None])[:, 0]


def label_class(label: str) -> int:
    """ "red kettle" to the number of its class."""
    color, kind = label.split(" ")
    return list(COLORS).index(color) * len(KINDS) + list(KINDS).index(kind)


def look_around(scenes: Scenes, generator: torch.Generator, looks: int) -> tuple[Tensor, Tensor]:
    """Frames (looks, 32, 48, 3) of one room, by cameras that look at its objects or past them, and their classes."""

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
    return shown.rgb[0], torch.tensor([in_the_middle(instance, scenes) for instance in shown.instance[0]])


def in_the_middle(instance: Tensor, scenes: Scenes) -> int:
    """The class of the centred object of a frame's instance ids (H, W), the most central one, or NOTHING."""
    best, found = math.inf, NOTHING
    size = torch.tensor(instance.shape, dtype=torch.float32)
    for item in scenes.objects[0]:
        mask = instance == item.instance
        if is_centred(mask):
            off = ((mask.nonzero().float().mean(dim=0) + 0.5) / size - 0.5).norm().item()
            if off < best:
                best, found = off, label_class(item.label)
    return found


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
        parts.append(look_around(scenes, generator, LOOKS))
    frames, classes = (torch.cat(part) for part in zip(*parts, strict=True))
    torch.manual_seed(seed)
    reader = ObjectReader()
    batch, steps = 64, epochs * len(frames) // 64
    optimizer = torch.optim.AdamW(reader.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=max(2, steps))
    bar = tqdm(range(steps), disable=not progress, desc="reader")
    for _ in bar:
        drawn = torch.randint(len(frames), (batch,), generator=generator)
        shown, wanted = spoiled(frames[drawn], generator), classes[drawn]
        if torch.rand((), generator=generator) < 0.5:
            shown = shown.flip(2)  # a mirrored room is a room
        loss = cross_entropy(reader(shown), wanted)
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        bar.set_postfix(loss=f"{loss.item():.3f}")
    return reader.eval()


def load_reader(folder: Path | None = None) -> ObjectReader:
    """The shipped reader, checked against its manifest, or the one in ``folder``."""
    if folder is None:
        folder = FOLDER
        for file in load_manifest("weights_reader")["files"]:
            verify(MANIFESTS / file["path"], file["size"], file["sha256"])
    return ObjectReader.from_pretrained(folder, use_safetensors=True)


def main(arguments: list[str] | None = None) -> int:
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
    return 0


if __name__ == "__main__":
    sys.exit(main())
