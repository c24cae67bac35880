"""From an episode to the rows of a latent cache: latents, times and poses, and what they were made of."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from v4s_lib.data.curation_windows import nominal_poses
from v4s_lib.data.episodes import load_episode
from v4s_lib.data.fitting import fit_camera, fit_frames
from v4s_lib.data.sources import episode_video, source_hashes, whole_latents
from v4s_lib.data.video import count_frames, frame_times
from v4s_lib.data.windows import grouped_frames
from v4s_lib.model.encoding import Codec, encode_video, latent_shape
from v4s_lib.training.cached import DTYPES, Stamp
from v4s_lib.worlds.paths import FRAMES_PER_LATENT, latent_frames

EXTRA = 8 + FRAMES_PER_LATENT * 4 * 4 * 4  # bytes a latent of its time and its poses


def encode_scan(name: str, episode: Path, codec: Codec, stamp: Stamp) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Latents and starts (T, C, h, w), times (T,) in seconds, poses (T, 4, 4, 4) where known; and what they are of.

    One latent is one row, so that any of them is read from one place of the file. Its start is the last of its frames,
    encoded alone: a target that starts there has the start latent that the sampler has.
    """
    scan = load_episode(episode)
    count = whole_latents(len(scan.frames), stamp.stride)
    groups = grouped_frames(torch.arange(count))
    frames = fit_frames(scan.frames[:: stamp.stride][: latent_frames(count)], stamp.height, stamp.width)
    alone = [encode_video(codec, frames[last : last + 1]) for last in groups[:, -1].tolist()]
    encoded = (encode_video(codec, frames), torch.cat(alone, dim=1))
    latents, starts = (stored(part.transpose(0, 1), stamp, episode) for part in encoded)
    times = frame_times(episode_video(episode))[:: stamp.stride]
    tensors = {f"{name}/latents": latents, f"{name}/starts": starts, f"{name}/times": times[groups[:, -1]]}
    fov = None
    if scan.c2w is not None:
        c2w = scan.c2w[:: stamp.stride][: latent_frames(count)]
        tensors[f"{name}/c2w"] = (c2w if scan.metric else nominal_poses(c2w)[0])[groups]
        fov = fit_camera(scan.camera, stamp.height, stamp.width).horizontal_fov
    return tensors, {"latents": count, "horizontal_fov": fov, "place": scan.place, "source": source_hashes(episode)}


def stored(latents: Tensor, stamp: Stamp, episode: Path) -> Tensor:
    """Latents as the stamp stores them; ``ValueError`` where they are not finite."""
    latents = latents.to("cpu", DTYPES[stamp.dtype]).contiguous()
    if not torch.isfinite(latents).all():
        raise ValueError(f"expected finite latents of {episode}, got others: choose --dtype bfloat16 or another codec")
    return latents


def latent_bytes(codec: Codec, stamp: Stamp) -> int:
    """Bytes of one latent as it is stored."""
    channels, rows, columns = latent_shape(codec, stamp.height, stamp.width)
    return channels * rows * columns * DTYPES[stamp.dtype].itemsize


def needed_bytes(episodes: list[Path], codec: Codec, stamp: Stamp) -> int:
    """Bytes that the rows of these episodes take, counted in their videos before anything is encoded."""
    size = 2 * latent_bytes(codec, stamp) + EXTRA  # a latent, and its start
    return size * sum(whole_latents(count_frames(episode_video(episode)), stamp.stride) for episode in episodes)


def read_instructions(path: Path | None) -> dict[str, list[str]]:
    """Sentences of each scan, from a JSON file ``{"scan": ["sentence", ...]}``."""
    if path is None:
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"expected JSON in {path}, got {error}: correct it") from error
    lists = list(content.values()) if isinstance(content, dict) else [None]
    if not all(isinstance(said, list) and said and all(isinstance(one, str) for one in said) for said in lists):
        raise ValueError(f'expected {{"scan": ["sentence", ...]}} in {path}, got something else: correct it')
    return content
