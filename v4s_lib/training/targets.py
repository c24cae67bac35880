"""Whole targets for a latent cache: curated grounding windows, each with its box tail (PAPER.md §5), encoded.

A window for navigation needs none: its latents are the scan's own. What ends on an object goes on after the scan's
frames, with some that stand still while the box fades in. So its frames are encoded as a video by themselves, and the
latents are those that a target has in sampling: the encoder looks back to the start frame and no further.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from v4s_lib.data import disk
from v4s_lib.data.boxes import box_tail
from v4s_lib.data.curation import load_rules, load_windows
from v4s_lib.data.curation_windows import Window
from v4s_lib.data.episodes import load_episode
from v4s_lib.data.fitting import fit_frames
from v4s_lib.data.sources import source_hashes
from v4s_lib.model.encoding import Codec, encode_frames
from v4s_lib.training.cached import INDEX, Stamp, target_key
from v4s_lib.training.full import FullScale
from v4s_lib.training.rows import stored
from v4s_lib.worlds.paths import FRAMES_PER_LATENT, latent_frames

SCANS, TARGETS = "shard-", "targets-"  # before the number of a shard


@dataclass(frozen=True)
class Curated:
    """What a cache holds for curated windows."""

    sentences: frozenset[str] = frozenset()  # of all windows
    scans: frozenset[str] = frozenset()  # of all windows
    boxed: dict[str, list[Window]] = field(default_factory=dict)  # by scan, those that end on an object in a box
    tail: int = FullScale.tail_latents  # after those, in which the box fades in

    def shards(self, shards: dict[str, list[str]]) -> dict[str, list[str]]:
        """For the shards of scans those of targets: the names of the scans in it that have any."""
        boxed = {shard: [name for name in names if name in self.boxed] for shard, names in shards.items()}
        return {shard.replace(SCANS, TARGETS): names for shard, names in boxed.items() if names}

    def facts(self, scan: str) -> dict[str, dict[str, Any]]:
        """What decides the latents of a scan's targets, beside video and stamp; as JSON has it."""
        return {
            target_key(scan, window.first): {"length": window.length, "tail": self.tail, "box": list(window.box)}
            for window in self.boxed[scan]
        }

    def latents(self, scan: str) -> int:
        """Latents of all targets of a scan."""
        return sum(window.length + self.tail for window in self.boxed[scan])


def read_curated(path: Path | None, stamp: Stamp, tail: int = FullScale.tail_latents) -> Curated:
    """The curated windows of a file, of frames as the stamp has them; nothing without a file."""
    if path is None:
        return Curated()
    if tail < 1:
        raise ValueError(f"expected a tail from 1 latent, got {tail}: choose a longer one")
    rules, parts = load_rules(path), ("stride", "height", "width")
    wanted, got = (", ".join(f"{part} {getattr(of, part)}" for part in parts) for of in (stamp, rules))
    if wanted != got:
        raise ValueError(f"expected windows made with {wanted} in {path}, got {got}: curate as the latents are made")
    windows, boxed = load_windows(path), {}
    for window in windows:
        if window.box is not None:
            boxed.setdefault(window.scan, []).append(window)
    sentences, scans = (frozenset(getattr(window, part) for window in windows) for part in ("instruction", "scan"))
    return Curated(sentences, scans, boxed, tail)


def check_curated(out: Path, curated: Curated, shards: dict[str, list[str]]) -> None:
    """Refuse windows of other scans than those of the cache at ``out``, and to leave out targets that it has."""
    if strange := sorted(curated.scans.difference(*shards.values())):
        raise ValueError(f"expected windows of scans in {out}, got some of {strange[0]}: curate scans of this cache")
    had = disk.read_json(out / INDEX).get("targets", {}).keys()
    if lost := sorted(had - {key for name in curated.boxed for key in curated.facts(name)}):
        raise ValueError(
            f"expected windows for all targets in {out}, got none for {lost[0]}: give --windows as before, or choose "
            "another --out"
        )


def check_targets(folder: Path, curated: Curated, names: list[str], scans: dict[str, dict[str, Any]]) -> None:
    """Refuse a shard of targets of other windows, or with another tail."""
    if {name: scan["targets"] for name, scan in scans.items()} != {name: curated.facts(name) for name in names}:
        raise ValueError(
            f"expected targets of these windows with a tail of {curated.tail} latents in {folder}, got others: "
            f"give windows and tail as before, delete {folder}, or choose another --out"
        )


def target_clip(frames: Tensor, window: Window, tail: int, height: int, width: int) -> Tensor:
    """The frames of a window, then four a latent of ``tail`` in which the box fades in: (F, height, width, 3) in 0..1.

    ``frames`` (F, H, W, 3), uint8, are those of the scan of which the latents are made.
    """
    moving, wanted = frames[window.frames], latent_frames(window.length)
    if len(moving) != wanted:
        raise ValueError(
            f"expected {wanted} frames from {window.frames.start} on in scan {window.scan}, got {len(moving)}: "
            "curate the scans as they are now"
        )
    moving = fit_frames(moving, height, width) / 255
    return torch.cat([moving, box_tail(moving[-1], torch.tensor(window.box), FRAMES_PER_LATENT * tail)])


def encode_targets(
    name: str, episode: Path, codec: Codec, stamp: Stamp, curated: Curated
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The targets (C, T, h, w) of a scan's windows, start frame, moving frames and tail; and what they are of."""
    frames, tensors = load_episode(episode).frames[:: stamp.stride], {}
    for window in curated.boxed[name]:
        clip = target_clip(frames, window, curated.tail, stamp.height, stamp.width)
        latents = encode_frames(codec, clip[None], codec.device)[0]
        tensors[target_key(name, window.first)] = stored(latents, stamp, episode)
    return tensors, {"targets": curated.facts(name), "source": source_hashes(episode)}
