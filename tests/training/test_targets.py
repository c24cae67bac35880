"""Targets in a cache are what their frames give, with a box that fades in, and of the windows that were asked for."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from tests.model.tiny_wan import tiny_wan
from tests.training.tiny_scans import content, encode, flip, write_scan
from tests.training.tiny_targets import RULES, SCANS, TAIL, boxed_of, write_cache, write_curated, write_some
from v4s_lib.data.boxes import BOX_COLOR, outline
from v4s_lib.data.curation import curate, load_windows
from v4s_lib.data.curation_windows import Window
from v4s_lib.data.episodes import VIDEO_NAME, load_episode
from v4s_lib.data.instructions import NAVIGATION
from v4s_lib.model.encoding import decode_latents, encode_frames, load_codec
from v4s_lib.training.cached import INDEX, LATENTS, CachedLatents
from v4s_lib.training.latents import main
from v4s_lib.training.rows import EXTRA
from v4s_lib.training.shards import PLAN
from v4s_lib.training.targets import target_clip

ROOT = Path(__file__).resolve().parents[2]
FLAGS = ["--codec", "patch:8", "--height", "32", "--width", "48", "--dtype", "float32"]
LATENT = 768 * 4 * 6 * 4  # bytes


@pytest.fixture(scope="module")
def windows(tmp_path_factory) -> Path:
    return write_curated(tmp_path_factory.mktemp("windows"))


@pytest.fixture(scope="module")
def cache(windows, tmp_path_factory) -> CachedLatents:
    return write_cache(tmp_path_factory.mktemp("cache"), windows)


def refused(capsys, *arguments: object, scans: Path = SCANS) -> str:
    """The one sentence with which the command refuses."""
    assert main([str(scans), *FLAGS, *map(str, arguments)]) == 2
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    return said


def test_the_decoded_target_is_the_window_and_then_its_last_frame_with_a_box_that_fades_in(cache, windows):
    window = boxed_of(windows)
    latents = cache.target_latents(window.scan, window.first)
    assert latents.shape == (768, 8 + TAIL, 4, 6)
    assert torch.equal(latents[:, :1], cache.start_latents(window.scan, [window.first]))
    clip = decode_latents(load_codec("patch:8"), latents[None])[0]
    scan = load_episode(SCANS / window.scan).frames[window.frames] / 255
    assert len(scan) == 29 and len(clip) == 37
    torch.testing.assert_close(clip[:29], scan, atol=1e-6, rtol=0)
    line = outline(torch.tensor(window.box), 32, 48)
    top, bottom, left, right = window.box
    assert line[top - 1, left - 1 : right + 2].all() and line[bottom + 1, left - 1 : right + 2].all()
    for number, frame in enumerate(clip[29:], start=1):
        expected = scan[-1].clone()
        expected[line] = (1 - number / 8) * scan[-1][line] + number / 8 * torch.tensor(BOX_COLOR)
        torch.testing.assert_close(frame, expected, atol=1e-6, rtol=0)


def test_windows_without_a_box_have_no_target_and_all_sentences_have_text(cache, windows):
    curated = load_windows(windows)
    assert {window.kind for window in curated} == {"navigation", "grounding"}
    ending = {f"{window.scan}/{window.first}" for window in curated if window.kind == "grounding"}
    assert cache.targets.keys() == ending
    assert all(cache.text(window.instruction).any() for window in curated)
    assert all(cache.instructions(name) == [NAVIGATION] for name in cache.names)  # a target drawn anywhere ends nowhere
    plain = next(window for window in curated if window.box is None)
    with pytest.raises(
        ValueError, match=r"^expected a whole target demo_.* in .*, got none: encode it with --windows$"
    ):
        cache.target_latents(plain.scan, plain.first)


def test_wans_targets_are_those_of_direct_encoding(windows, wan, tmp_path):
    window = boxed_of(windows)
    some = shutil.copytree(SCANS / window.scan, tmp_path / "scans" / window.scan).parent
    mine = write_some(tmp_path / "mine.jsonl", [window])
    cache = encode(some, tmp_path / "out", wan / "vae", windows=mine, tail=TAIL)
    latents = cache.target_latents(window.scan, window.first)
    clip = target_clip(load_episode(SCANS / window.scan).frames, window, TAIL, 32, 48)
    with torch.no_grad():
        direct, short = (encode_frames(tiny_wan(), part[None], "cpu")[0] for part in (clip, clip[:29]))
    assert latents.shape == (3, 8 + TAIL, 4, 6) and torch.equal(latents, direct)
    torch.testing.assert_close(latents[:, :8], short)  # what comes after changes nothing
    assert torch.equal(latents[:, :1], cache.start_latents(window.scan, [window.first]))
    inside = cache.latents(window.scan, range(window.first + 1, window.first + 8))
    assert not torch.allclose(latents[:, 1:8], inside, atol=1e-4)  # those know the frames before the start


def test_instructions_of_scans_and_windows_go_together(windows, cache, tmp_path):
    said = tmp_path / "said.json"
    said.write_text(json.dumps({"demo_0000": ["walk on"]}))
    text = {"text-encoder": cache.folder.parent / "text", "text-tokens": 32}
    both = encode(SCANS, tmp_path / "out", windows=windows, tail=TAIL, instructions=said, **text)
    assert both.instructions("demo_0000") == ["walk on"]
    assert both.text("walk on").any() and both.text(boxed_of(windows).instruction).any()


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is of Unix")
def test_a_killed_run_goes_on_after_the_last_whole_shard_of_targets(windows, wan, tmp_path):
    window, ends = replace(boxed_of(windows), first=0, length=2), []
    for index in range(4):
        write_scan(tmp_path / "scans" / f"{index}", 9, seed=index)
        ends.append(replace(window, scan=f"{index}"))
    file, out = write_some(tmp_path / "w.jsonl", ends, replace(RULES, length=2)), tmp_path / "out"
    size = ["--height", "32", "--width", "48", "--scans-a-shard", "1", "--windows", str(file), "--tail", "2"]
    command = [sys.executable, "-m", "v4s_lib.training.latents", str(tmp_path / "scans"), "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, "--codec", str(wan / "vae"), *size], cwd=ROOT, env=environment)
    end = time.monotonic() + 100
    while not (out / "targets-00000").exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    whole = {path: path.stat().st_mtime_ns for path in out.glob(f"*-0000?/{LATENTS}")}
    assert 5 <= len(whole) < 8 and not (out / INDEX).exists()
    options = {"dtype": "bfloat16", "scans-a-shard": 1, "windows": file, "tail": 2}
    cache = encode(tmp_path / "scans", out, wan / "vae", **options)
    assert {path: path.stat().st_mtime_ns for path in whole} == whole
    assert {facts["shard"] for facts in cache.targets.values()} == {f"targets-0000{index}" for index in range(4)}
    encode(tmp_path / "scans", tmp_path / "undisturbed", wan / "vae", **options)
    assert content(out) == content(tmp_path / "undisturbed")


def test_more_scans_and_their_windows_become_more_shards(windows, tmp_path):
    scans, some, out = tmp_path / "scans", tmp_path / "some", tmp_path / "out"
    for name in "01":
        shutil.copytree(SCANS / boxed_of(windows).scan, scans / name)
    shutil.copytree(scans / "0", some / "0")
    curate(some, tmp_path / "windows.jsonl", RULES)
    encode(some, out)  # scans alone, to begin with
    encode(some, out, windows=tmp_path / "windows.jsonl", tail=TAIL)
    before = content(out)
    curate(scans, tmp_path / "windows.jsonl", RULES)
    cache = encode(scans, out, windows=tmp_path / "windows.jsonl", tail=TAIL)
    after = content(out)
    assert {path: after[path] for path in before if path not in (INDEX, PLAN)}.items() <= before.items()
    shards = {key.split("/")[0]: facts["shard"] for key, facts in cache.targets.items()}
    assert shards == {"0": "targets-00000", "1": "targets-00001"}


def test_windows_of_a_scan_that_cannot_be_read_are_said_to_be_of_no_use_until_it_can(windows, tmp_path, capsys):
    scans, out, window = tmp_path / "scans", tmp_path / "out", boxed_of(windows)
    for name in "01":
        shutil.copytree(SCANS / window.scan, scans / name)
    mine = write_some(tmp_path / "mine.jsonl", [replace(window, scan=name) for name in "01"])
    video = scans / "1" / VIDEO_NAME
    whole = video.read_bytes()
    video.write_bytes(whole[: len(whole) // 2])
    cache = encode(scans, out, windows=mine, tail=TAIL)
    assert cache.names == ["0"] and cache.targets.keys() == {f"0/{window.first}"}
    said = capsys.readouterr().out.splitlines()[1:]
    assert len(said) == 1 and said[0].startswith(
        "1 is left out, the next run tries it again, and training refuses its windows until then: expected "
    )
    video.write_bytes(whole)
    before = content(out)
    cache = encode(scans, out, windows=mine, tail=TAIL)
    assert {path: before[path] for path in before if "/" in path}.items() <= content(out).items()
    latents = [cache.target_latents(name, window.first) for name in "01"]
    assert torch.equal(*latents) and cache.targets[f"1/{window.first}"]["shard"] == "targets-00001"


def test_a_flipped_byte_in_a_target_is_refused_and_encoded_again(windows, cache, tmp_path):
    out, window = shutil.copytree(cache.folder, tmp_path / "out"), boxed_of(windows)
    shard = out / cache.targets[f"{window.scan}/{window.first}"]["shard"]
    flip(shard / LATENTS)
    with pytest.raises(ValueError, match=r"^expected \d+ bytes with sha256 .*targets-00000.*, got .*: encode it again"):
        CachedLatents(out).target_latents(window.scan, window.first)
    text = {"text-encoder": cache.folder.parent / "text", "text-tokens": 32}
    again = encode(SCANS, out, windows=windows, tail=TAIL, **text)
    expected = cache.target_latents(window.scan, window.first)
    assert torch.equal(again.target_latents(window.scan, window.first), expected)


def moved(window: Window) -> Window:
    top, bottom, left, right = window.box
    return replace(window, box=(top, bottom, left, right + 1))


# What is asked of a cache that was made with the windows and a tail of 2
REFUSED: dict[str, tuple[Callable[[Path, Path], list[object]], str]] = {
    "size": (
        lambda file, tmp: ["--windows", write_some(tmp / "w.jsonl", load_windows(file), replace(RULES, stride=2))],
        "expected windows made with stride 1, height 32, width 48 in {tmp}/w.jsonl, got stride 2, height 32, width 48: "
        "curate as the latents are made",
    ),
    "scan": (
        lambda file, tmp: ["--windows", write_some(tmp / "w.jsonl", [replace(boxed_of(file), scan="elsewhere")])],
        "expected windows of scans in {out}, got some of elsewhere: curate scans of this cache",
    ),
    "tail": (
        lambda file, tmp: ["--windows", file, "--tail", 1],
        "expected targets of these windows with a tail of 1 latents in {out}/targets-00000, got others: give windows "
        "and tail as before, delete {out}/targets-00000, or choose another --out",
    ),
    "no tail": (
        lambda file, tmp: ["--windows", file, "--tail", 0],
        "expected a tail from 1 latent, got 0: choose a longer one",
    ),
    "box": (
        lambda file, tmp: ["--windows", write_some(tmp / "w.jsonl", [moved(boxed_of(file))])],
        "expected targets of these windows with a tail of 2 latents in {out}/targets-00000, got others: give windows "
        "and tail as before, delete {out}/targets-00000, or choose another --out",
    ),
    "none": (
        lambda file, tmp: [],
        "expected windows for all targets in {out}, got none for {target}: give --windows as before, or choose another "
        "--out",
    ),
    "torn": (
        lambda file, tmp: ["--windows", tmp / "nowhere.jsonl"],
        "expected whole windows with their report in {tmp}/nowhere.jsonl, got others or none: run python -m "
        "v4s_lib.data.curation to its end",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_windows_are_refused_in_one_sentence(windows, tmp_path, capsys, name):
    arguments, sentence = REFUSED[name]
    one, out = write_some(tmp_path / "one.jsonl", [boxed_of(windows)]), tmp_path / "out"
    encode(SCANS, out, windows=one, tail=TAIL)
    before = content(out)
    given = arguments(one, tmp_path)
    tail = [] if "--tail" in given else ["--tail", TAIL]
    said = refused(capsys, "--out", out, *tail, *given)
    target = f"{boxed_of(windows).scan}/{boxed_of(windows).first}"
    assert said == sentence.format(out=out, tmp=tmp_path, target=target) and content(out) == before


def test_windows_of_a_scan_that_has_become_shorter_are_refused(windows, tmp_path, capsys):
    window = replace(boxed_of(windows), first=17)
    mine = write_some(tmp_path / "w.jsonl", [window])
    said = refused(capsys, "--out", tmp_path / "out", "--windows", mine)
    assert said == f"expected 29 frames from 68 on in scan {window.scan}, got 25: curate the scans as they are now"


def test_the_space_that_is_checked_has_the_targets_in_it(windows, tmp_path, capsys, monkeypatch):
    mine = write_some(tmp_path / "one.jsonl", [boxed_of(windows)])
    scans = 3 * 24 * (2 * LATENT + EXTRA)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": scans}))
    said = refused(capsys, "--out", tmp_path / "out", "--windows", mine, "--tail", 5)
    assert said.startswith(f"expected {scans + 13 * LATENT:,} bytes free in ") and f"got {scans:,}: make room" in said
    assert sorted(content(tmp_path / "out")) == [PLAN]


def test_the_facts_of_a_target_are_those_of_its_window(windows, cache):
    window = boxed_of(windows)
    facts = cache.target_facts(window.scan, window.first)
    assert facts == {"length": 8, "tail": TAIL, "box": list(asdict(window)["box"])}
    assert cache.target_facts(window.scan, window.first + 1) is None
