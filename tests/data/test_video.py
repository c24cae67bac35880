"""Real video files through the real readers. Frame i shows i in binary, as eight bars: a frame tells its own index."""

import importlib.util
import os
import struct
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch import Tensor

from v4s_lib.data import video
from v4s_lib.data.manifests import MANIFESTS
from v4s_lib.data.video import _probe, _read_with_decord, _read_with_pyav, count_frames, read_frames, write_video

needs_decord = pytest.mark.skipif(importlib.util.find_spec("decord") is None, reason="decord has no wheel here")
SIDE = 192  # pixels: from here on decord may read


def numbered(index: int) -> np.ndarray:
    """A frame whose eight vertical bars are white where ``index`` has a 1, the highest bit first."""
    bits = np.unpackbits(np.uint8([index])) * np.uint8(255)
    return np.ascontiguousarray(np.broadcast_to(bits.repeat(SIDE // 8)[None, :, None], (SIDE, SIDE, 3)))


def encode(
    path: Path,
    count: int = 100,
    codec: str = "libx264",
    times: Callable[[int], int] = lambda index: 100 * index,
    timescale: int = 1000,
    options: dict[str, str] | None = None,
) -> Path:
    """Write frames that tell their index, at the given times."""
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=10, options=options or {"crf": "5"})
        stream.height, stream.width, stream.pix_fmt = SIDE, SIDE, "yuv420p"
        stream.codec_context.time_base = Fraction(1, timescale)
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(numbered(index), format="rgb24")
            frame.pts, frame.time_base = times(index), Fraction(1, timescale)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def told(frames: Tensor) -> list[int]:
    """The indices that frames tell by their bars."""
    bars = frames[:, :, SIDE // 16 :: SIDE // 8].float().mean(dim=(1, 3)) > 127
    return (bars.long() @ 2 ** torch.arange(7, -1, -1)).tolist()


def patch(path: Path, marker: bytes, offset: int, value: int) -> Path:
    """Overwrite a 32-bit number of an MP4 header, ``offset`` bytes after a box's name."""
    data = bytearray(path.read_bytes())
    place = data.index(marker) + offset
    data[place : place + 4] = struct.pack(">i", value)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", ["scan.mp4", "scan.mkv", "scan.mov"])
def test_frames_come_back_by_index_in_any_order(tmp_path, monkeypatch, name):
    if name != "scan.mov":
        monkeypatch.setattr(video, "NEAR", 0)  # decord reads, however near the frames are
    path = encode(tmp_path / name)
    assert count_frames(path) == 100
    assert told(read_frames(path, [0, 99, 50, 7, 50])) == [0, 99, 50, 7, 50]
    assert told(read_frames(path, torch.tensor([98, 1]))) == [98, 1]
    assert told(read_frames(path)) == list(range(100))


@needs_decord
def test_decord_and_pyav_give_the_same_pixels(tmp_path):
    path = tmp_path / "scan.mp4"
    smooth = torch.nn.functional.interpolate(torch.rand(12, 3, 4, 6, generator=torch.manual_seed(0)), size=(200, 310))
    write_video(path, (smooth.permute(0, 2, 3, 1) * 255).to(torch.uint8))
    assert _probe(path).plain
    indices = [11, 0, 5]
    assert torch.equal(_read_with_decord(path, indices, (3, 200, 310, 3), 200), _read_with_pyav(path, indices))


def test_variable_frame_rate(tmp_path):
    steps = torch.randint(10, 500, (100,), generator=torch.Generator().manual_seed(0)).cumsum(0).tolist()
    path = encode(tmp_path / "scan.mp4", times=lambda index: steps[index], options={"crf": "5", "g": "12"})
    indices = [99, 3, 40, 41, 77, 12]
    assert told(read_frames(path, indices)) == indices
    if importlib.util.find_spec("decord"):
        assert _probe(path).plain
        assert told(_read_with_decord(path, indices, (6, SIDE, SIDE, 3), 200)) == indices


def test_a_container_that_promises_more_than_it_shows(tmp_path):
    """An edit list that ends early, as of a trimmed phone video: the header promises 100 frames, 60 are shown."""
    path = encode(tmp_path / "scan.mp4")
    patch(path, b"elst", 12, 6000)
    started = time.monotonic()
    assert count_frames(path) == 60
    assert not _probe(path).plain
    assert told(read_frames(path, [0, 20, 40, 59])) == [0, 20, 40, 59]
    with pytest.raises(ValueError, match=r"expected frame indices from 0 to 59 .* got 99: ask for"):
        read_frames(path, [0, 99])
    assert time.monotonic() - started < 60


@needs_decord
def test_decord_reads_what_is_far_from_the_start_and_pyav_what_is_near(tmp_path, monkeypatch):
    path = encode(tmp_path / "scan.mp4")
    monkeypatch.setattr(video, "NEAR", 50 * SIDE**2)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))  # decord's process cannot start
    assert told(read_frames(path, [49, 0])) == [49, 0]
    with pytest.raises(FileNotFoundError, match="no-python"):
        read_frames(path, [50])


@needs_decord
def test_decord_may_not_put_a_neighbour_in_the_place_of_a_frame(tmp_path):
    path = encode(tmp_path / "scan.mp4")
    patch(path, b"elst", 12, 6000)
    with pytest.raises(ValueError, match=r"^expected whole frames in .*, got an error .*corrupted"):
        _read_with_decord(path, range(90), (90, SIDE, SIDE, 3), 200)


def test_an_edit_list_that_starts_late(tmp_path):
    path = encode(tmp_path / "scan.mp4")
    with av.open(path) as container:
        second = round(1 / container.streams.video[0].time_base)
        delay = -min(packet.dts for packet in container.demux(video=0) if packet.size)
    patch(path, b"elst", 12, 7000)
    patch(path, b"elst", 16, 3 * second + delay)
    assert count_frames(path) == 70
    assert told(read_frames(path)) == list(range(30, 100))
    assert told(read_frames(path, [69, 0, 35])) == [99, 30, 65]


def test_an_avi_header_that_promises_a_hundred_times_more(tmp_path):
    path = encode(tmp_path / "scan.avi", codec="mpeg4", timescale=1000, options={"qscale": "2"})
    with av.open(path) as container:
        assert container.streams.video[0].frames > 5000
    assert count_frames(path) == 100
    assert told(read_frames(path)) == list(range(100))


def test_time_stamps_beyond_32_bits(tmp_path):
    path = encode(tmp_path / "scan.mp4", times=lambda index: 10**8 * index, timescale=10**9)
    assert not _probe(path).plain
    assert told(read_frames(path, [0, 33, 66, 99])) == [0, 33, 66, 99]


@pytest.mark.parametrize(("degrees", "matrix"), [(90, (0, 1, -1, 0)), (180, (-1, 0, 0, -1)), (270, (0, -1, 1, 0))])
def test_rotation_marks_of_phones_are_applied(tmp_path, degrees, matrix):
    upright = torch.zeros(2, 200, 320, 3, dtype=torch.uint8)
    upright[:, :100, :160] = 255  # top left
    path = tmp_path / "scan.mp4"
    write_video(path, upright)
    for place, value in zip((0, 4, 12, 16), matrix, strict=True):
        patch(path, b"tkhd", 44 + place, value * 2**16)
    expected = torch.rot90(upright, -degrees // 90, (1, 2))
    frames = read_frames(path)
    assert frames.shape == expected.shape
    assert (frames.float() - expected.float()).abs().mean() < 3
    assert torch.equal(_read_with_pyav(path, [0, 1]), frames)


@needs_decord
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a named pipe")
def test_a_reader_that_hangs_is_ended(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")  # decord waits for good for someone to write
    started = time.monotonic()
    with pytest.raises(ValueError, match=r"expected decord to read .* within 1 s, got no answer: write"):
        _read_with_decord(tmp_path / "pipe.mp4", [0], (1, SIDE, SIDE, 3), 1.0)
    assert time.monotonic() - started < 60


def cut(path: Path) -> None:
    """Cut off the last fifth of a file whose index stands in front."""
    with av.open(path, "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
        for frame in np.random.default_rng(0).integers(0, 255, (20, 64, 64, 3), np.uint8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 4 // 5])


def cut_index(path: Path) -> None:
    encode(path)
    path.write_bytes(path.read_bytes()[:-200])


def sound_only(path: Path) -> None:
    with av.open(path, "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_bytes(b""), "got an empty file"),
        (lambda path: path.write_text("\n<!DOCTYPE html><html>log in</html>"), "got a web page"),
        (lambda path: path.write_bytes(b"\x00\x01 no video at all" * 99), "got one that cannot be read"),
        (cut_index, "got one that cannot be read"),
        (cut, "got one that is cut off"),
        (sound_only, "got a file without a picture"),
    ],
)
def test_files_that_are_no_whole_video_are_refused_in_one_sentence(tmp_path, write, message):
    path = tmp_path / "scan.mp4"
    write(path)
    for read in (read_frames, count_frames):
        with pytest.raises(ValueError, match=rf"^expected [^\n]*{message}[^\n]*: [^\n]*$"):
            read(path)


def test_a_frame_that_cannot_be_decoded_is_an_error(tmp_path):
    """decord would put a neighbour in its place."""
    source, path = encode(tmp_path / "source.mp4"), tmp_path / "scan.mp4"
    with av.open(source) as read, av.open(path, "w") as write:
        stream = write.add_stream_from_template(read.streams.video[0])
        for index, packet in enumerate(packet for packet in read.demux(video=0) if packet.size):
            if index == 50:
                damaged = av.Packet(bytes([0, 0, 0, 2, 9, 48]))
                damaged.pts, damaged.dts, damaged.time_base = packet.pts, packet.dts, packet.time_base
                packet = damaged
            packet.stream = stream
            write.mux(packet)
    with pytest.raises(ValueError, match=r"^expected whole frames in .*, got .*: download or write the video again$"):
        read_frames(path)
    with pytest.raises(ValueError, match=r"^expected whole frames in .*, got .*: download or write the video again$"):
        _read_with_pyav(path, range(100))


def test_a_missing_file_and_indices_outside(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^expected a video file at .*, got nothing there: check the path$"):
        read_frames(tmp_path / "none.mp4")
    path = tmp_path / "scan.mp4"
    write_video(path, torch.zeros(5, 32, 48, 3, dtype=torch.uint8))
    for indices, got in (([5], "5"), ([0, -1], "-1"), ([], "none")):
        with pytest.raises(ValueError, match=rf"expected frame indices from 0 to 4 .* got {got}: ask"):
            read_frames(path, indices)


def test_more_frames_than_fit_into_memory_are_refused(tmp_path):
    path = encode(tmp_path / "scan.mp4", count=2)
    with pytest.raises(ValueError, match=r"expected at most 8 GiB of frames, got .*: ask for fewer indices"):
        read_frames(path, [0] * 80_000)


def test_writing_refuses_other_tensors_and_leaves_nothing(tmp_path):
    for frames in (torch.zeros(5, 32, 48, 3), torch.zeros(0, 32, 48, 3).byte(), torch.zeros(5, 3, 32, 48).byte()):
        with pytest.raises(ValueError, match=r"expected uint8 frames \(F, H, W, 3\), got"):
            write_video(tmp_path / "scan.mp4", frames)
    with pytest.raises((av.error.FFmpegError, ValueError)):
        write_video(tmp_path / "scan.mp4", torch.zeros(1, 1, 1, 3, dtype=torch.uint8), fps=-1)  # fails while writing
    assert list(tmp_path.iterdir()) == []


def test_the_same_frames_give_the_same_bytes(tmp_path):
    """With its macroblock tree, x264 reads memory that nobody wrote: here it meets other leftovers every time."""
    frames = read_frames(MANIFESTS / "scans/demo_0001/scan.mp4")
    for index in range(8):
        leftovers = [np.random.default_rng(index).integers(0, 255, 20_000, np.uint8) for _ in range(50)]
        del leftovers
        write_video(tmp_path / f"{index}.mp4", frames)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
