"""Reading frames through ``read_frames`` against decord and PyAV called directly; a wrong frame ends the benchmark.

Files are written in the run: a texture, over which ten bars tell the frame's index in binary, at a constant frame rate
and, the same packets with other times, at a variable one. ``read_frames`` looks at all packets first, reads what is
near the start with PyAV, which counts frames from the first one on, and the rest with decord in a process of its own,
which takes time to start. All readers take as many threads as they like. torchcodec is compared where it is installed.
"""

import importlib
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor

from v4s_lib.data.video import read_frames, write_video
from v4s_lib.evaluation.ratios import Comparison, time_pairs

SIZE = (256, 416)  # the paper's
BAR = 16  # pixels that a bar is wide and high
BITS = 10  # bars, one for each binary digit


def write_numbered(path: Path, count: int) -> Path:
    """``count`` frames (at most 1,024) that tell their index, at 10 frames a second."""
    texture = torch.randint(64, 192, (*SIZE, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    frames = torch.stack([texture.roll(2 * index, dims=1) for index in range(count)])
    bits = (np.arange(count)[:, None] >> np.arange(BITS)) & 1
    frames[:, :BAR, : BITS * BAR] = 255 * torch.from_numpy(bits.repeat(BAR, axis=1)).byte()[:, None, :, None]
    write_video(path, frames, crf=23, pixels="yuv420p")
    return path


def told(frames: Tensor) -> list[int]:
    """The indices that frames (F, H, W, 3) tell."""
    bars = frames[:, BAR // 2, BAR // 2 : BITS * BAR : BAR].float().mean(dim=-1) > 127
    return (bars.long() << torch.arange(BITS)).sum(dim=1).tolist()


def vary_times(source: Path, path: Path) -> Path:
    """The same packets, each frame shown 1 to 5 times as long as before."""
    with av.open(source) as old, av.open(path, "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        packets = [packet for packet in old.demux(video=0) if packet.size]
        unit, early = packets[0].duration, -min(packet.dts for packet in packets)
        longest = np.random.default_rng(0).integers(1, 6, 2 * len(packets))
        times = unit * np.concatenate([[0], longest.cumsum()])
        for packet in packets:
            packet.pts, packet.dts = (int(times[(time + early) // unit]) for time in (packet.pts, packet.dts))
            packet.stream = stream
            new.mux(packet)
    return path


def with_decord(path: Path, indices: list[int]) -> Tensor:
    from decord import VideoReader

    return torch.from_numpy(VideoReader(str(path)).get_batch(indices).asnumpy())


def with_pyav(path: Path, indices: list[int]) -> Tensor:
    wanted, last = set(indices), max(indices)
    with av.open(path) as container:
        container.streams.video[0].thread_type = "AUTO"  # as in ``read_frames``
        decoded = container.decode(video=0)
        frames = [frame.to_ndarray(format="rgb24") for i, frame in enumerate(islice(decoded, last + 1)) if i in wanted]
    return torch.from_numpy(np.stack(frames))


def with_torchcodec(path: Path, indices: list[int]) -> Tensor:
    from torchcodec.decoders import VideoDecoder

    return VideoDecoder(str(path), dimension_order="NHWC", seek_mode="exact").get_frames_at(indices).data


READERS = {"decord": with_decord, "av": with_pyav, "torchcodec": with_torchcodec}


def check(read: Callable[[Path, list[int]], Tensor], path: Path, indices: list[int]) -> None:
    """Refuse a reader that returns another frame than it was asked for."""
    got = told(read(path, indices))
    if got != indices:
        wrong = sum(a != b for a, b in zip(got, indices, strict=True))
        raise ValueError(f"expected frames {indices} of {path.name}, got {wrong} others: do not use {read.__name__}")


def can_load(name: str) -> bool:
    """Whether a reader is installed and finds the libraries that it needs."""
    try:
        importlib.import_module(name)
    except (ImportError, OSError, RuntimeError):
        return False
    return True


def compare(pairs: int, quick: bool, _: torch.device) -> Iterator[Comparison]:
    """The rows; ``quick`` reads a short file."""
    count = 24 if quick else 480
    sixth, sparse = count // 6, np.random.default_rng(1).choice(count, 2 if quick else 16, replace=False)
    near, far = range(sixth, 2 * sixth), range(5 * sixth, count)
    asked = {f"{sixth} frames in a row, from {row[0]} on,": [*row] for row in (near, far)}
    asked[f"{len(sparse)} frames here and there"] = sorted(sparse.tolist())
    with tempfile.TemporaryDirectory() as folder:
        constant = write_numbered(Path(folder) / "constant.mp4", count)
        files = {"constant": constant, "variable": vary_times(constant, Path(folder) / "variable.mp4")}
        for rate, path in files.items():
            for wanted, indices in asked.items():
                check(read_frames, path, indices)
                for name, read in READERS.items():
                    what = f"{wanted} of {count}, {SIZE[1]}x{SIZE[0]}, {rate} rate"
                    measured = []
                    if can_load(name):
                        check(read, path, indices)
                        ours = partial(read_frames, path, indices)
                        measured = time_pairs(ours, partial(read, path, indices), pairs)
                    yield Comparison(what, "read_frames", name, "s", measured)
