"""A latent cache holds what direct encoding gives, whoever wrote it, and whatever came between."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan
from filelock import FileLock

from tests.model.tiny_wan import tiny_wan
from tests.training.tiny_scans import CAMERA, FRAMES, content, encode, flip, write_scan, write_scans
from v4s_lib.data.episodes import VIDEO_NAME, load_episode, write_episode
from v4s_lib.data.fitting import fit_camera, fit_frames
from v4s_lib.data.instructions import NAVIGATION
from v4s_lib.model.encoding import load_codec
from v4s_lib.training.cached import DTYPES, INDEX, LATENTS, TEXT, CachedLatents
from v4s_lib.training.latents import LOCK, main
from v4s_lib.training.shards import LIST, PLAN
from v4s_lib.worlds.cameras import translation_distance

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_patches_are_those_of_direct_encoding(episodes, tmp_path, dtype):
    cache = encode(episodes, tmp_path, dtype=dtype)
    assert cache.names == ["a", "b", "c", "phone"]
    codec = load_codec("patch:8")
    for name, kept in {"a": 13, "b": 9, "c": 17, "phone": 5}.items():
        video = load_episode(episodes / name).frames[:kept]
        expected = codec.encode(video[None] / 255)[0].to(DTYPES[dtype])
        assert torch.equal(cache.latents(name), expected) and cache.length(name) == kept // 4 + 1
        assert torch.equal(cache.latents(name, [1, 0]), expected[:, [1, 0]])
        alone = codec.encode(video[::4, None] / 255)[:, :, 0].transpose(0, 1).to(DTYPES[dtype])  # each a video
        assert torch.equal(cache.start_latents(name), alone)
        assert torch.equal(cache.start_latents(name, [1]), alone[:, [1]])
    shard = tmp_path / "shard-00000"
    assert (shard / LATENTS).stat().st_mode == (shard / LIST).stat().st_mode  # whoever may read one may read both
    assert torch.equal(cache.latents("c", torch.tensor([4, 2])), cache.latents("c")[:, [4, 2]])


def test_wans_latents_are_those_of_direct_encoding(episodes, wan, tmp_path):
    cache = encode(episodes, tmp_path, wan / "vae")
    stock = tiny_wan()
    for name, kept in {"a": 13, "phone": 5}.items():
        video = load_episode(episodes / name).frames[:kept].permute(3, 0, 1, 2)[None] / 255 * 2 - 1
        with torch.no_grad():
            mode = stock.encode(video).latent_dist.mode()[0]
            alone = [stock.encode(video[:, :, last : last + 1]).latent_dist.mode()[0] for last in range(0, kept, 4)]
        norms = (torch.tensor(stock.config[key]).view(3, 1, 1, 1) for key in ("latents_mean", "latents_std"))
        mean, deviation = norms
        assert torch.equal(cache.latents(name), (mode - mean) / deviation)
        assert torch.equal(cache.start_latents(name), (torch.cat(alone, dim=1) - mean) / deviation)
    assert cache.latents("a").shape == (3, 4, 4, 6) and cache.stamp.codec == "AutoencoderKLWan"


def test_times_and_poses_are_those_of_a_latents_frames(episodes, tmp_path):
    cache = encode(episodes, tmp_path)
    assert cache.times("a").tolist() == pytest.approx([0, 0.4, 0.8, 1.2])
    assert cache.times("phone", [1]).tolist() == pytest.approx([0.8])
    c2w = load_episode(episodes / "a").c2w
    assert cache.c2w("a").shape == (4, 4, 4, 4)
    assert torch.equal(cache.c2w("a")[0], c2w[[0, 0, 0, 0]])
    assert torch.equal(cache.c2w("a", [3])[0], c2w[9:13])
    assert cache.camera("a") == CAMERA
    assert cache.c2w("phone") is None and cache.camera("phone") is None


def test_poses_of_unknown_unit_are_in_nominal_metres_and_captions_name_the_place(tmp_path):
    """A walk in feet and in another unit gives the same poses: its median step from latent to latent is 0.1."""
    known = write_scans(tmp_path / "known") / "c"
    scan = load_episode(known)
    for name, unit in ("feet", 3.28), ("unknown", 0.02):
        c2w = scan.c2w.clone()
        c2w[:, :3, 3] *= unit
        write_episode(tmp_path / "scans" / name, scan.frames, c2w, scan.camera, metric=False, place="park")
    cache = encode(tmp_path / "scans", tmp_path / "cache")
    feet, unknown = (cache.c2w(name, range(5)) for name in cache.names)
    torch.testing.assert_close(feet, unknown)
    steps = translation_distance(feet[1:, -1], feet[:-1, -1])
    assert steps.median().item() == pytest.approx(0.1)
    assert torch.equal(feet[..., :3, :3], encode(known, tmp_path / "metric").c2w("c", range(5))[..., :3, :3])
    assert cache.instructions("feet") == ["The camera moves smoothly in a park."]


def test_another_size_and_every_second_frame(episodes, tmp_path):
    cache = encode(episodes, tmp_path, height=16, width=16, stride=2)
    scan = load_episode(episodes / "c")
    chosen = scan.frames[::2][:9]
    expected = load_codec("patch:8").encode(fit_frames(chosen, 16, 16)[None] / 255)[0]
    assert expected.shape == (768, 3, 2, 2) and torch.equal(cache.latents("c"), expected)
    assert cache.times("c").tolist() == pytest.approx([0, 0.8, 1.6])
    assert torch.equal(cache.c2w("c", [2])[0], scan.c2w[[10, 12, 14, 16]])
    assert cache.camera("c") == fit_camera(CAMERA, 16, 16)
    assert cache.length("phone") == 1  # four of seven frames, of which one is a whole 4k+1


def test_text_is_kept_once_for_each_sentence(episodes, wan, tmp_path):
    said = tmp_path / "said.json"
    said.write_text(json.dumps({"b": ["the camera moves", "a room"]}))
    out, options = tmp_path / "out", {"text-encoder": wan, "text-tokens": 12}
    cache = encode(episodes, out, instructions=said, **options)
    assert cache.instructions("b") == ["the camera moves", "a room"] and cache.instructions("a") == [NAVIGATION]
    assert cache.text("the camera moves").shape == (12, 8) and cache.text("").count_nonzero() == 8
    assert (cache.text("the camera moves")[:4] != 0).all() and (cache.text("the camera moves")[4:] == 0).all()
    with pytest.raises(ValueError, match=r"^expected a sentence of the cache .*, got 'a camera': encode it with it$"):
        cache.text("a camera")
    before = (out / "shard-00000" / LATENTS).stat().st_mtime_ns
    again = encode(episodes, out, **options)  # without the file: a scan keeps what was said of it
    assert again.instructions("b") == ["the camera moves", "a room"]
    assert (out / "shard-00000" / LATENTS).stat().st_mtime_ns == before
    flip(out / TEXT)
    with pytest.raises(ValueError, match=r"^expected \d+ bytes with sha256 .* in .*embeddings.safetensors, got \d+"):
        CachedLatents(out).text("")
    assert torch.equal(encode(episodes, out, **options).text("a room"), cache.text("a room"))
    with pytest.raises(ValueError, match=r"^expected text in .*, got none: encode the scans with --text-encoder$"):
        encode(episodes, tmp_path / "other").text("")


# Shards, workers, kills


def test_two_workers_give_the_same_cache_as_one(episodes, tmp_path):
    encode(episodes, tmp_path / "one", **{"scans-a-shard": 1})
    encode(episodes, tmp_path / "two", workers=2, **{"scans-a-shard": 1})
    one = content(tmp_path / "one")
    shards = [f"shard-{index:05d}/{file}" for index in range(4) for file in (LATENTS, LIST)]
    assert sorted(one) == sorted([INDEX, PLAN, *shards]) and content(tmp_path / "two") == one


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is of Unix")
def test_a_killed_run_goes_on_after_the_last_whole_shard(wan, tmp_path):
    for index in range(6):
        write_scan(tmp_path / "scans" / f"{index}", 5 + 24 * index, seed=index)
    out, flags = tmp_path / "out", ["--height", "32", "--width", "48", "--scans-a-shard", "1"]
    command = [sys.executable, "-m", "v4s_lib.training.latents", str(tmp_path / "scans"), "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, "--codec", str(wan / "vae"), *flags], cwd=ROOT, env=environment)
    end = time.monotonic() + 60
    while not (out / "shard-00001").exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    whole = sorted(path.name for path in out.glob("shard-*"))
    assert 2 <= len(whole) < 6 and not (out / INDEX).exists()
    with pytest.raises(FileNotFoundError, match=r"^expected a latent cache with a whole index.json in .*, got none:"):
        CachedLatents(out)
    times = {name: (out / name / LATENTS).stat().st_mtime_ns for name in whole}
    (out / ".shard-00004.part").mkdir(exist_ok=True)  # as a kill in the midst of writing leaves it
    (out / ".shard-00004.part" / LATENTS).write_bytes(bytes(99))
    torn = out / "shard-00005"
    torn.mkdir()
    (torn / LATENTS).write_bytes(bytes(99))
    options = {"dtype": "bfloat16", "scans-a-shard": 1}
    encode(tmp_path / "scans", out, wan / "vae", **options)
    assert {name: (out / name / LATENTS).stat().st_mtime_ns for name in whole} == times
    encode(tmp_path / "scans", tmp_path / "undisturbed", wan / "vae", **options)
    assert content(out) == content(tmp_path / "undisturbed")


def test_more_scans_become_more_shards(episodes, tmp_path):
    some = tmp_path / "some"
    for name in ("b", "phone"):
        shutil.copytree(episodes / name, some / name)
    encode(some, tmp_path / "out")
    before = content(tmp_path / "out")
    shutil.copytree(episodes / "a", some / "a")
    cache = encode(some, tmp_path / "out")
    after = content(tmp_path / "out")
    assert cache.names == ["a", "b", "phone"] and cache.scans["a"]["shard"] == "shard-00001"
    assert {name: after[name] for name in before if name.startswith("shard")}.items() <= before.items()
    shutil.rmtree(some / "b")  # what is encoded is kept
    assert encode(some, tmp_path / "out").names == ["a", "b", "phone"]


# Scans that cannot be read, or are not there any more


def truncate(video: Path) -> bytes:
    """Cut a video off in its midst, as a copy that stopped; returns what it was."""
    whole = video.read_bytes()
    video.write_bytes(whole[: len(whole) // 2])
    return whole


def test_a_scan_too_long_for_the_gpu_stops_no_other(episodes, wan, tmp_path, monkeypatch):
    """A GPU too small is not at hand: Wan's autoencoder says here what it would say there, of the longest scan."""
    own = AutoencoderKLWan.encode

    def encode_some(codec: AutoencoderKLWan, video: torch.Tensor) -> object:
        if video.shape[2] == max(FRAMES.values()):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return own(codec, video)

    monkeypatch.setattr(AutoencoderKLWan, "encode", encode_some)
    assert encode(episodes, tmp_path, wan / "vae").names == ["a", "b", "phone"]
    said = json.loads((tmp_path / INDEX).read_text())["left_out"]
    assert said == {"c": "expected a scan that fits the GPU's memory, got a longer one: split it"}


@pytest.mark.parametrize(("workers", "a_shard"), [(1, 2), (2, 1), (1, 16)])
def test_a_truncated_video_stops_no_other_and_is_tried_again(episodes, tmp_path, capsys, workers, a_shard):
    scans, out = shutil.copytree(episodes, tmp_path / "scans"), tmp_path / "out"
    options = {"workers": workers, "scans-a-shard": a_shard}
    whole = truncate(scans / "b" / VIDEO_NAME)
    assert encode(scans, out, **options).names == ["a", "c", "phone"]
    first, *lines = capsys.readouterr().out.splitlines()
    said = json.loads((out / INDEX).read_text())["left_out"]
    assert first == str(out / INDEX) and said.keys() == {"b"} and f"{scans / 'b' / VIDEO_NAME}" in said["b"]
    assert lines == [f"b is left out, the next run tries it again: {said['b']}"]
    before = {path: path.read_bytes() for path in out.glob(f"*/{LATENTS}")}
    assert encode(scans, out, **options).names == ["a", "c", "phone"]  # it is tried again, in a shard of its own
    assert capsys.readouterr().out.splitlines()[1:] == lines and not list(out.glob("*.part"))
    (scans / "b" / VIDEO_NAME).write_bytes(whole)
    cache = encode(scans, out, **options)
    assert cache.names == ["a", "b", "c", "phone"] and len(capsys.readouterr().out.splitlines()) == 1
    assert json.loads((out / INDEX).read_text())["left_out"] == {}
    assert {path: path.read_bytes() for path in before} == before
    direct = encode(episodes, tmp_path / "direct")
    assert all(torch.equal(cache.latents(name), direct.latents(name)) for name in cache.names)


def test_where_no_scan_can_be_encoded_the_first_says_why(episodes, tmp_path, capsys):
    scans = shutil.copytree(episodes / "b", tmp_path / "scans" / "b").parent
    truncate(scans / "b" / VIDEO_NAME)
    (scans / "empty").mkdir()
    flags = ["--codec", "patch:8", "--height", "32", "--width", "48", "--dtype", "float32"]
    assert main([str(scans), "--out", str(tmp_path / "out"), *flags]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("expected a scan that can be encoded, got none of 2, b because of this (expected ")
    assert said.endswith("): correct the scans, or take them away") and sorted(content(tmp_path / "out")) == [PLAN]
    shutil.copytree(episodes / "a", scans / "a")
    assert encode(scans, tmp_path / "out").names == ["a"]


def test_a_planned_scan_that_was_taken_away_is_planned_no_more(episodes, tmp_path):
    """It was left out, and then is not there; another comes later, into a shard that is not yet taken."""
    scans, out = shutil.copytree(episodes, tmp_path / "scans"), tmp_path / "out"
    shutil.rmtree(scans / "phone")
    truncate(scans / "b" / VIDEO_NAME)
    encode(scans, out, **{"scans-a-shard": 1})
    shutil.rmtree(scans / "b")
    shutil.rmtree(scans / "a")  # this one is encoded, and stays
    assert encode(scans, out, **{"scans-a-shard": 1}).names == ["a", "c"]
    shards = json.loads((out / PLAN).read_text())["shards"]
    assert shards == {"shard-00000": ["a"], "shard-00002": ["c"]}
    shutil.copytree(episodes / "phone", scans / "phone")
    shutil.copytree(episodes / "b", scans / "b")
    cache = encode(scans, out)
    assert {name: facts["shard"][-1] for name, facts in cache.scans.items()} == {
        "a": "0",
        "b": "3",
        "c": "2",
        "phone": "3",
    }


def test_a_damaged_shard_whose_scan_is_not_there_any_more_is_refused(episodes, tmp_path, capsys):
    scans, out = shutil.copytree(episodes, tmp_path / "scans"), tmp_path / "out"
    encode(scans, out)
    shutil.rmtree(scans / "a")
    flip(out / "shard-00000" / LATENTS)
    flags = ["--codec", "patch:8", "--height", "32", "--width", "48", "--dtype", "float32"]
    assert main([str(scans), "--out", str(out), *flags]) == 2
    said = (
        f"expected the encoded scan a among the episodes, got none: put it back, or delete {out}/shard-00000 to lose it"
    )
    assert capsys.readouterr().err.strip() == said
    shutil.rmtree(out / "shard-00000")
    assert encode(scans, out).names == ["b", "c", "phone"]


def test_a_scan_that_was_changed_is_refused(episodes, tmp_path, capsys):
    scans = shutil.copytree(episodes, tmp_path / "scans")
    encode(scans, tmp_path / "out")
    shutil.rmtree(scans / "b")
    write_scan(scans / "b", FRAMES["b"], seed=99)
    flags = ["--codec", "patch:8", "--height", "32", "--width", "48", "--dtype", "float32"]
    assert main([str(scans), "--out", str(tmp_path / "out"), *flags]) == 2
    assert "b as it was when it was encoded, got other files: delete " in capsys.readouterr().err


def test_two_runs_at_a_time_are_refused(episodes, tmp_path, capsys):
    with FileLock(tmp_path / LOCK):
        assert main([str(episodes), "--out", str(tmp_path), "--codec", "patch:8"]) == 2
    assert capsys.readouterr().err.startswith("expected one run at a time in ")


# A full disk


def test_the_space_is_checked_before_anything_is_encoded(episodes, tmp_path, capsys, monkeypatch):
    needed = 2 * 4 * 13 * 768 * 4 * 6  # 13 latents in all, each with its start
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": needed}))
    flags = ["--codec", "patch:8", "--height", "32", "--width", "48", "--dtype", "float32"]
    assert main([str(episodes), "--out", str(tmp_path), *flags]) == 2
    said = capsys.readouterr().err
    assert said.startswith("expected ") and f"got {needed:,}: make room, then run the same command again" in said
    assert sorted(content(tmp_path)) == [PLAN]


@pytest.fixture
def small_files() -> Iterator[Callable[[int], None]]:
    """No file may grow past some bytes: the system refuses the rest, to every library in its own way."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("size", [100, 1000, 500_000])
def test_a_full_disk_leaves_what_was_there(episodes, tmp_path, capsys, small_files, size):
    """The new plan (100 bytes) or the second shard (1.3 MB) does not fit; the first shard was there before."""
    some = tmp_path / "some"
    shutil.copytree(episodes / "a", some / "a")
    out, flags = tmp_path / "out", ["--height", "32", "--width", "48", "--dtype", "float32", "--codec", "patch:8"]
    encode(some, out)
    before = content(out)
    for name in ("b", "c", "phone"):
        shutil.copytree(episodes / name, some / name)
    small_files(size)
    assert main([str(some), "--out", str(out), *flags]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("expected to write ") and "File too large" in said and "\n" not in said
    small_files(2**40)
    after = content(out)
    assert sorted(after) == sorted(before) and {**after, PLAN: before[PLAN]} == before
    assert CachedLatents(out).names == ["a"]
    assert encode(some, out).names == ["a", "b", "c", "phone"]
