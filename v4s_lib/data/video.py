"""Reading and writing video files, exact to the frame.

Reading goes through decord where it can be trusted and pays, else through PyAV from the first frame on. decord 0.6
answers with wrong frames, and no error, where an edit list hides frames (a trimmed phone video) or a time stamp passes
2^31, and it refuses some narrow frames; a first pass over the packets finds these files. It can also hang for good
while it holds Python's lock, so it works in a process of its own, which is ended after a time-out. In the time that
such a process needs to start, PyAV has decoded some hundred frames.
"""

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor

MEMORY_LIMIT = 8 * 2**30  # bytes of frames that one call may return
TIMEOUT = 120.0  # seconds that decord may take, beside the time for the pixels it has to decode
DECORD_SMALLEST = 192  # pixels; it miscounts the channels of some narrower frames (48, 72), where PyAV is fast anyway
PIXELS_PER_SECOND = 5e6  # slower than one old core
NEAR = 4e7  # pixels that PyAV decodes about as soon as a process with decord has started; our estimate

# fault_tol: raise where decord notices that it puts a neighbour in the place of a frame that it cannot decode.
DECORD_SCRIPT = """
import sys
import numpy as np
from decord import VideoReader
indices = np.frombuffer(sys.stdin.buffer.read(), np.int64)
frames = VideoReader(sys.argv[1], fault_tol=1e-9).get_batch(indices).asnumpy()
sys.stdout.buffer.write(frames.tobytes())
"""


@dataclass(frozen=True)
class _Probe:
    """What the packets of a video tell."""

    count: int  # frames that are shown
    height: int  # as shown, in pixels
    width: int
    plain: bool  # decord can be trusted with it


def read_frames(path: str | Path, indices: Sequence[int] | Tensor | None = None) -> Tensor:
    """Frames of a video by their place in it.

    Args:
        path: any container and codec that FFmpeg reads; rotation marks of phones are applied.
        indices: F places counted from 0, in any order; all frames when ``None``.

    Returns:
        uint8 RGB, (F, H, W, 3).

    Raises:
        FileNotFoundError, ValueError: nothing there, not a complete video, or an index outside it.
    """
    path = Path(path)
    probe = _probe(path)
    indices = range(probe.count) if indices is None else [int(index) for index in indices]
    outside = [index for index in indices if not 0 <= index < probe.count]
    if outside or not indices:
        got = outside[0] if outside else "none"
        raise ValueError(
            f"expected frame indices from 0 to {probe.count - 1} for {path}, got {got}: ask for frames that it has"
        )
    shape = (len(indices), probe.height, probe.width, 3)
    if np.prod(shape, dtype=np.int64) > MEMORY_LIMIT:
        raise ValueError(
            f"expected at most {MEMORY_LIMIT / 2**30:.0f} GiB of frames, got {shape} from {path}: "
            "ask for fewer indices, or make the video smaller with ffmpeg -i IN -vf scale=416:-2 OUT"
        )
    far = (max(indices) + 1) * probe.height * probe.width > NEAR
    if probe.plain and far and importlib.util.find_spec("decord"):
        timeout = TIMEOUT + probe.count * probe.height * probe.width / PIXELS_PER_SECOND
        return _read_with_decord(path, indices, shape, timeout)
    return _read_with_pyav(path, indices)


def count_frames(path: str | Path) -> int:
    """Number of frames that a video shows, counted from its packets and not from what its header says."""
    return _probe(Path(path)).count


def frame_times(path: str | Path) -> Tensor:
    """When a video shows its frames: seconds after the first one, float64 (F,), rising."""
    path = Path(path)
    _probe(path)
    with av.open(path) as container:
        stream = container.streams.video[0]
        times = [packet.pts for packet in container.demux(stream) if packet.size and not packet.is_discard]
        unit = stream.time_base
    if None in times:
        raise ValueError(
            f"expected a video with times in {path}, got one without: write it again with ffmpeg -i IN OUT"
        )
    times = torch.tensor(sorted(times), dtype=torch.float64)
    return (times - times[0]) * float(unit)


def spread(count: int, most: int) -> list[int]:
    """The numbers of ``most`` frames, evenly over a video of ``count``, or of all if it has no more."""
    return torch.linspace(0, count - 1, min(count, most)).round().long().tolist()


def write_video(path: str | Path, frames: Tensor, fps: float = 10, crf: int = 6, pixels: str = "yuv444p") -> None:
    """Write uint8 RGB frames (F, H, W, 3) as H.264 in MP4, by default with full colour resolution and high quality.

    crf 6 is our choice: rooms at 32x48 come back at 41 dB or more. One thread and no macroblock tree: with it, x264
    reads memory that nobody wrote, and the same frames give other bytes every time. The file is written beside its
    place and renamed, so that it is there whole or not at all.
    """
    path = Path(path)
    if frames.dtype != torch.uint8 or frames.dim() != 4 or frames.shape[-1] != 3 or len(frames) == 0:
        raise ValueError(
            f"expected uint8 frames (F, H, W, 3), got {frames.dtype} {tuple(frames.shape)}: convert them first"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        with av.open(part, "w", format="mp4") as container:
            options = {"crf": str(crf), "preset": "slow", "threads": "1", "x264-params": "mbtree=0"}
            stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options=options)
            stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], pixels
            for frame in frames.cpu().numpy():
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode(None))
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def through_file(frames: Tensor, crf: int = 6, pixels: str = "yuv444p") -> Tensor:
    """Frames (F, H, W, 3) in 0..1 as they come back from a file that ``write_video`` wrote."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_video(path, (255 * frames).round().byte(), crf=crf, pixels=pixels)
        return read_frames(path).float() / 255


def _probe(path: Path) -> _Probe:
    """Check the file at the door and walk over its packets, without decoding more than one frame."""
    if not path.is_file():
        raise FileNotFoundError(f"expected a video file at {path}, got nothing there: check the path")
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(64).lstrip()
    if not head:
        raise ValueError(f"expected a video in {path}, got an empty file: delete it and download or write it again")
    if head.startswith(b"<"):
        raise ValueError(f"expected a video in {path}, got a web page: delete it and download it again, logged in")
    try:
        with av.open(path) as container:
            return _probe_stream(path, container, size)
    except av.error.FFmpegError as error:
        raise ValueError(
            f"expected a complete video in {path}, got one that cannot be read ({error.strerror}): "
            "it may be cut off, so download or write it again"
        ) from error


def _probe_stream(path: Path, container: av.container.InputContainer, size: int) -> _Probe:
    if not container.streams.video:
        raise ValueError(f"expected a video in {path}, got a file without a picture: check that it is the right one")
    stream = container.streams.video[0]
    reported, first, times, hidden, torn = stream.frames, None, [], 0, False
    for packet in container.demux(stream):
        if first is None:
            first = next(iter(packet.decode()), None)
        if packet.size:
            times.append(packet.pts)
            hidden += packet.is_discard
            torn |= packet.is_corrupt
    end = max((entry.pos + entry.size for entry in stream.index_entries), default=0)
    if torn or end > size:
        raise ValueError(f"expected a complete video in {path}, got one that is cut off: download or write it again")
    if first is None or len(times) == hidden:
        raise ValueError(f"expected a video in {path}, got one without frames: write it again")
    exact = None not in times and len(set(times)) == len(times) and max(times) < 2**31
    turned = first.rotation % 180 != 0
    height, width = (first.width, first.height) if turned else (first.height, first.width)
    plain = exact and not hidden and reported in (0, len(times)) and min(height, width) >= DECORD_SMALLEST
    return _Probe(len(times) - hidden, height, width, plain)


def _read_with_decord(path: Path, indices: Sequence[int], shape: tuple[int, ...], timeout: float) -> Tensor:
    command = [sys.executable, "-P", "-c", DECORD_SCRIPT, str(path)]
    request = np.asarray(indices, np.int64).tobytes()
    try:
        done = subprocess.run(command, input=request, capture_output=True, timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise ValueError(
            f"expected decord to read {path} within {timeout:.0f} s, got no answer: write the video again with "
            "ffmpeg -i IN OUT"
        ) from error
    if done.returncode != 0 or len(done.stdout) != np.prod(shape, dtype=np.int64):
        said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2].rpartition("] ")[2]
        raise ValueError(f"expected whole frames in {path}, got an error ({said}): download or write the video again")
    return torch.frombuffer(bytearray(done.stdout), dtype=torch.uint8).view(shape)


def _read_with_pyav(path: Path, indices: Sequence[int]) -> Tensor:
    """Decode from the first frame on, counting: slow for a few late frames, and exact."""
    wanted, frames = set(indices), {}
    try:
        with av.open(path) as container:
            container.streams.video[0].thread_type = "AUTO"
            for index, frame in enumerate(container.decode(video=0)):
                if index in wanted:
                    frames[index] = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
                if len(frames) == len(wanted):
                    return torch.from_numpy(np.stack([frames[index] for index in indices]))
        said = f"only {index + 1} frames"
    except av.error.FFmpegError as error:
        said = f"an error ({error.strerror})"
    raise ValueError(f"expected whole frames in {path}, got {said}: download or write the video again")
