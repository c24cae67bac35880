"""Small scans, their latent cache, and its bytes."""

from pathlib import Path

import torch
from torch.nn.functional import interpolate

from tests.model.tiny_wan import save_text_encoder, tiny_wan
from v4s_lib.data.episodes import write_episode
from v4s_lib.data.video import write_video
from v4s_lib.model.encoding import load_codec
from v4s_lib.training.cached import CachedLatents, make_stamp
from v4s_lib.training.latents import LOCK, main
from v4s_lib.worlds.cameras import Camera, pose

CAMERA = Camera(height=32, width=48, horizontal_fov=70.0)
FRAMES = {"a": 13, "b": 10, "c": 17, "phone": 7}  # those after the last 4k+1 are left out: 13, 9, 17, 5


def frames(count: int, seed: int) -> torch.Tensor:
    """uint8 (F, 32, 48, 3), smooth, each frame another."""
    coarse = torch.rand(count, 3, 3, 4, generator=torch.Generator().manual_seed(seed))
    wide = interpolate(coarse, size=(32, 48), mode="bilinear")
    return (wide.permute(0, 2, 3, 1) * 255).round().to(torch.uint8)


def write_scan(folder: Path, count: int, seed: int) -> None:
    angle = torch.linspace(0, 1, count)
    c2w = pose(torch.stack([angle, angle * 2, angle + 1], dim=-1), angle, angle / 5)
    write_episode(folder, frames(count, seed), c2w, CAMERA)


def write_scans(folder: Path) -> Path:
    """Three scans with cameras and a phone video without, which has a name of its own."""
    for seed, (name, count) in enumerate(FRAMES.items()):
        if name == "phone":
            write_video(folder / name / "IMG_1.mov", frames(count, seed), fps=5)
        else:
            write_scan(folder / name, count, seed)
    return folder


def save_wan(folder: Path) -> Path:
    """The parts of a Wan pipeline that encode, tiny and random."""
    tiny_wan().save_pretrained(folder / "vae")
    return save_text_encoder(folder)


def encode(episodes: Path, out: Path, codec: str | Path = "patch:8", **changes: object) -> CachedLatents:
    """Encode at 32x48 by the command, and read with the stamp that it must have."""
    options = {"height": 32, "width": 48, "dtype": "float32", "scans-a-shard": 2} | changes
    flags = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    assert main([str(episodes), "--out", str(out), "--codec", str(codec), *flags]) == 0
    sizes = (options["dtype"], options["height"], options["width"], options.get("stride", 1))
    return CachedLatents(out, make_stamp(load_codec(codec), *sizes))


def content(out: Path) -> dict[str, bytes]:
    """Every byte of a cache."""
    files = [path for path in sorted(out.rglob("*")) if path.is_file() and path.name != LOCK]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


def flip(path: Path, place: int = -1) -> None:
    changed = bytearray(path.read_bytes())
    changed[place] ^= 1
    path.write_bytes(changed)
