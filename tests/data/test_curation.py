"""``python -m v4s_lib.data.curation``: one file however it was made, a report that adds up, nothing half-written."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from filelock import FileLock

from v4s_lib.data.curation import COLUMNS, LOCK, curate, load_rules, load_windows, main
from v4s_lib.data.curation_windows import KINDS, REASONS, Rules
from v4s_lib.data.manifests import MANIFESTS

ROOT = Path(__file__).resolve().parents[2]
SCANS = MANIFESTS / "scans"
RULES = Rules(length=8, gap=4, context=6, step=3, height=32, width=48)
FLAGS = [word for name, value in asdict(RULES).items() for word in (f"--{name}", str(value))]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The windows of the demo scans, by one process in one go."""
    out = tmp_path_factory.mktemp("whole") / "windows.jsonl"
    assert main([str(SCANS), "--out", str(out), *FLAGS]) == 0
    return out


def files(out: Path) -> list[bytes]:
    """The bytes of the windows and of their report."""
    return [out.read_bytes(), out.with_suffix(".report.json").read_bytes()]


def refused(capsys, *arguments: object) -> str:
    """The one sentence with which the command refuses."""
    assert main([*map(str, arguments), *FLAGS]) == 2
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    return said


def test_the_report_adds_up_and_the_windows_come_back_in_order(whole):
    report, windows = json.loads(whole.with_suffix(".report.json").read_text()), load_windows(whole)
    assert set(report["scans"]) == {"demo_0000", "demo_0001", "demo_0002"}
    for name, row in report["scans"].items():
        assert row["candidates"] == 6 == sum(row[column] for column in (*REASONS, *KINDS))
        for kind in KINDS:
            assert row[kind] == sum(w.scan == name and w.kind == kind for w in windows)
    assert report["total"] == {c: sum(row[c] for row in report["scans"].values()) for c in COLUMNS}
    assert [(w.scan, w.first) for w in windows] == sorted((w.scan, w.first) for w in windows)
    (goal,) = (w for w in windows if w.scan == "demo_0002" and w.kind == "grounding")
    assert goal.first == 15 and "an orange stool" in goal.instruction and len(goal.box) == 4
    assert goal.frames == slice(60, 89) and load_rules(whole) == RULES
    assert report["settings"]["length"] == 8 and report["settings"]["LEAST_COVISIBLE"] == 0.5
    assert [path.name for path in sorted(whole.parent.iterdir())] == [
        ".windows.scans",
        "windows.jsonl",
        "windows.report.json",
    ]


def test_the_command_prints_a_table_of_every_scan_and_of_all(whole, capsys):
    main([str(SCANS), "--out", str(whole), *FLAGS])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["scan", *COLUMNS] and [line[0] for line in lines[1:4]] == [
        "demo_0000",
        "demo_0001",
        "demo_0002",
    ]
    total = json.loads(whole.with_suffix(".report.json").read_text())["total"]
    assert lines[4] == ["in", "all", *(str(total[column]) for column in COLUMNS)]


def test_two_processes_write_the_same_file_as_one(whole, tmp_path):
    out = tmp_path / "windows.jsonl"
    curate(SCANS, out, RULES, workers=2)
    assert files(out) == files(whole)


def test_with_more_scans_only_the_new_and_the_changed_ones_are_read(whole, tmp_path):
    scans, out = tmp_path / "scans", tmp_path / "scans/windows.jsonl"  # beside the scans, it is not taken for one
    for name in ("demo_0002", "demo_0000"):
        shutil.copytree(SCANS / name, scans / name)
    curate(scans, out, RULES)
    done = tmp_path / "scans/.windows.scans"
    before = {path.name: path.stat().st_mtime_ns for path in done.glob("*.json")}
    shutil.copytree(SCANS / "demo_0001", scans / "demo_0001")
    (scans / "demo_0002/transforms.json").open("a").write("\n")
    curate(scans, out, RULES)
    after = {path.name: path.stat().st_mtime_ns for path in done.glob("*.json")}
    assert before.keys() == {"demo_0000.json", "demo_0002.json"} and len(after) == 3
    assert after["demo_0000.json"] == before["demo_0000.json"] and after["demo_0002.json"] > before["demo_0002.json"]
    assert files(out) == files(whole)


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is a signal of Unix")
def test_ctrl_c_leaves_whole_scans_and_the_same_command_goes_on(whole, tmp_path):
    scans, out = tmp_path / "scans", tmp_path / "windows.jsonl"
    for index in range(8):
        shutil.copytree(SCANS / "demo_0000", scans / f"scan_{index:02d}")
    arguments = [str(scans), "--out", str(out), *FLAGS]
    command = [sys.executable, "-m", "v4s_lib.data.curation", *arguments]
    run = subprocess.Popen(
        command,
        cwd=ROOT,
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    done, end = tmp_path / ".windows.scans", time.monotonic() + 100
    while not list(done.glob("*.json")) and run.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    run.send_signal(signal.SIGINT)
    said = run.communicate(timeout=60)[1].decode()
    assert run.returncode == 130 and said.endswith(
        "interrupted: run the same command to go on after the last whole scan\n"
    )
    kept = {path: path.stat().st_mtime_ns for path in done.glob("*.json")}
    assert 0 < len(kept) < 8 and not out.exists()
    assert main(arguments) == 0
    assert all(path.stat().st_mtime_ns == time_of for path, time_of in kept.items())
    assert len(load_windows(out)) == 8 * sum(w.scan == "demo_0000" for w in load_windows(whole))


def break_video(folder: Path) -> bytes:
    """Cut off the video of an episode; returns what it was."""
    video = folder / "scan.mp4"
    content = video.read_bytes()
    video.write_bytes(content[:30_000])
    return content


def entries(out: Path) -> dict[str, int]:
    """When each scan of a run was curated."""
    return {path.stem: path.stat().st_mtime_ns for path in (out.parent / f".{out.stem}.scans").glob("*.json")}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_broken_scan_is_reported_and_the_others_are_curated(whole, tmp_path, capsys, workers):
    scans, out = tmp_path / "scans", tmp_path / "windows.jsonl"
    shutil.copytree(SCANS, scans)
    content, empty, cameras = break_video(scans / "demo_0001"), scans / "a_folder", scans / "demo_0001/transforms.json"
    empty.mkdir()
    assert main([str(scans), "--out", str(out), *FLAGS, "--workers", str(workers)]) == 0
    said = capsys.readouterr().out.splitlines()[-2:]
    assert said[0].startswith(f"a_folder cannot be read: expected a video in {empty}, got none: ")
    assert said[1].startswith("demo_0001 cannot be read: expected ") and str(scans / "demo_0001/scan.mp4") in said[1]
    report = json.loads(out.with_suffix(".report.json").read_text())
    for name, candidates in (("a_folder", 0), ("demo_0001", 6)):  # the cameras tell how long the second is
        row = report["scans"][name]
        assert f"{name} cannot be read: {row.pop('error')}" in said
        assert row == dict.fromkeys(COLUMNS, 0) | {"candidates": candidates, "unreadable": candidates}
    assert report["total"]["candidates"] == 18 == sum(report["total"][name] for name in (*REASONS, *KINDS))
    assert load_windows(out) == [window for window in load_windows(whole) if window.scan != "demo_0001"]

    before = entries(out)
    assert main([str(scans), "--out", str(out), *FLAGS]) == 0  # these alone are tried again
    assert {name for name, time_of in entries(out).items() if time_of != before[name]} == {"a_folder", "demo_0001"}
    cameras.write_text("{")
    assert main([str(scans), "--out", str(out), *FLAGS]) == 0
    row = json.loads(out.with_suffix(".report.json").read_text())["scans"]["demo_0001"]
    assert row["candidates"] == row["unreadable"] == 0 and row["error"].startswith(f"expected JSON in {cameras}")
    shutil.rmtree(empty)
    shutil.copy(SCANS / "demo_0001/transforms.json", cameras)
    (scans / "demo_0001/scan.mp4").write_bytes(content)
    assert main([str(scans), "--out", str(out), *FLAGS]) == 0
    assert files(out) == files(whole)
    changed = {name for name, time_of in entries(out).items() if time_of != before.get(name)}
    assert changed == {"a_folder", "demo_0001"}  # the first was tried again, too, until it was taken away


def test_scans_of_which_none_can_be_read_are_refused(tmp_path, capsys):
    scans, out = tmp_path / "scans", tmp_path / "windows.jsonl"
    for name in ("demo_0000", "demo_0001"):
        shutil.copytree(SCANS / name, scans / name)
        break_video(scans / name)
    said = refused(capsys, scans, "--out", out)
    assert said.startswith("expected a scan that can be read, got none of 2, demo_0000 because of this (expected ")
    assert said.endswith("): correct the scans, or take them away") and not out.exists()


def test_windows_of_other_settings_are_refused_and_stay(whole, capsys):
    before = files(whole)
    assert main([str(SCANS), "--out", str(whole), *FLAGS, "--gap", "3", "--step", "1"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"expected windows made with gap 3, step 1 in {whole}, got gap 4, step 3: choose another")
    assert files(whole) == before


def test_bad_input_is_refused_before_any_work(whole, tmp_path, capsys):
    out, other = tmp_path / "windows.jsonl", tmp_path / "notes.jsonl"
    assert refused(capsys, tmp_path / "nothing", "--out", out).startswith("expected a folder of episodes at")
    assert refused(capsys, SCANS, "--out", tmp_path / "windows.txt").startswith("expected workers from 1 and a .jsonl")
    assert refused(capsys, SCANS, "--out", out, "--workers", 0).startswith("expected workers from 1 and a .jsonl")
    assert main([str(SCANS), "--out", str(out), "--length", "1"]) == 2
    assert capsys.readouterr().err.startswith("expected length from 2, got 1: choose a larger one")
    assert list(tmp_path.iterdir()) == []
    other.write_text("mine\n")
    assert refused(capsys, SCANS, "--out", other).startswith("expected a free place for the windows, got the existing")
    assert other.read_text() == "mine\n"
    with FileLock(whole.parent / ".windows.scans" / LOCK):
        assert refused(capsys, SCANS, "--out", whole).startswith("expected one run at a time for")


def test_changed_windows_are_not_loaded(whole, tmp_path):
    for path in (whole, whole.with_suffix(".report.json")):
        shutil.copy(path, tmp_path)
    copy = tmp_path / whole.name
    assert load_windows(copy) == load_windows(whole)
    copy.write_text(copy.read_text().replace("smoothly", "quickly", 1))
    with pytest.raises(ValueError, match="^expected whole windows with their report in .*: run python -m v4s_lib.data"):
        load_windows(copy)
    with pytest.raises(ValueError, match="^expected whole windows"):
        load_windows(tmp_path / "nothing.jsonl")
