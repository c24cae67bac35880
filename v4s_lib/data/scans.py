"""Scans of generated rooms: rendered from a split and an index, and written as episodes."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from v4s_lib.data.episodes import TRANSFORMS_NAME, VIDEO_NAME, Episode, EpisodeObject, write_episode
from v4s_lib.data.video import read_frames
from v4s_lib.worlds.cameras import Camera
from v4s_lib.worlds.paths import latent_frames, scan_path
from v4s_lib.worlds.raycast import render
from v4s_lib.worlds.scenes import make_scenes, scene_seed


def render_scan(generator: dict[str, Any], split: str, index: int) -> Episode:
    """Render scan ``index`` of a split; room and path follow from its seed alone.

    Args:
        generator: the ``generator`` entry of a manifest: size, field of view, rays a pixel, reach, splits.
        split: one of its splits.
        index: from 0 up to the number of scans of the split.
    """
    _check_index(generator, split, index)
    seed = scene_seed(split, index)
    scenes = make_scenes([seed])
    frames = latent_frames(generator["splits"][split]["latents"])
    c2w = scan_path(scenes, torch.Generator().manual_seed(seed), frames, generator["reach"])[0]
    camera = Camera(generator["height"], generator["width"], float(generator["horizontal_fov"]))
    rgb = render(scenes, torch.zeros(frames, dtype=torch.long), c2w, camera, generator["samples"]).rgb
    pixels = (rgb * 255).round().clamp(0, 255).to(torch.uint8)
    objects = tuple(EpisodeObject(o.label, o.instance, o.box_min, o.box_max) for o in scenes.objects[0])
    return Episode(pixels, c2w, camera, objects, seed)


def write_scan(generator: dict[str, Any], split: str, index: int, out: Path) -> float | None:
    """Render a scan and write it to ``out/<split>_<index>``; an episode that is there already is left as it is.

    Returns:
        PSNR in dB between the render and the file read back; ``None`` when the episode was there already.
    """
    _check_index(generator, split, index)
    folder = out / f"{split}_{index:04d}"
    if folder.exists():
        _check_same(folder, generator, split, index)
        return None
    scan = render_scan(generator, split, index)
    write_episode(folder, scan.frames, scan.c2w, scan.camera, scan.objects, scan.scene_seed)
    return psnr(scan.frames, read_frames(folder / VIDEO_NAME))


def psnr(first: Tensor, second: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of two uint8 tensors of one shape, over all their values."""
    error = (first.float() - second.float()).square().mean().clamp(min=1e-10)
    return (10 * torch.log10(255**2 / error)).item()


def scan_count(generator: dict[str, Any], split: str) -> int:
    """Number of scans of a split; ``ValueError`` when there is no such split."""
    splits = generator["splits"]
    if split not in splits:
        raise ValueError(f"expected a split out of {', '.join(splits)}, got {split!r}: choose one of them")
    return splits[split]["scans"]


def _check_index(generator: dict[str, Any], split: str, index: int) -> None:
    scans = scan_count(generator, split)
    if not 0 <= index < scans:
        raise ValueError(f"expected a scan from 0 to {scans - 1} of {split}, got {index}: choose one of them")


def _check_same(folder: Path, generator: dict[str, Any], split: str, index: int) -> None:
    """Refuse an existing episode that was written from other settings."""
    frames = latent_frames(generator["splits"][split]["latents"])
    expected = (scene_seed(split, index), generator["height"], generator["width"], frames)
    transforms = json.loads((folder / TRANSFORMS_NAME).read_text(encoding="utf-8"))
    found = (transforms["scene_seed"], transforms["h"], transforms["w"], len(transforms["frames"]))
    if found != expected:
        raise ValueError(
            f"expected seed, height, width, frames {expected} in {folder}, got {found}: "
            "it is from another manifest, so remove it or choose another --out"
        )
