"""``python -m v4s_lib.data``: the same scan every time, resumed after a kill, nothing half-written."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from v4s_lib.data.__main__ import main
from v4s_lib.data.episodes import load_episode
from v4s_lib.data.manifests import MANIFESTS, load_manifest
from v4s_lib.data.scans import psnr, render_scan

ROOT = Path(__file__).resolve().parents[2]


def manifest(folder: Path, **values: object) -> str:
    """A copy of rooms.yaml with tiny scans."""
    copy = load_manifest("rooms")
    copy["generator"] |= {
        "height": 16,
        "width": 24,
        "samples": 1,
        "splits": {"demo": {"scans": 2, "latents": 5}},
    } | values
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(copy))
    return str(path)


def test_psnr_of_a_known_error():
    grey = torch.full((4, 4), 100, dtype=torch.uint8)
    assert psnr(grey, grey + 16) == pytest.approx(24.048, abs=1e-3)  # 20 log10(255 / 16)


def test_shipped_scans_show_the_rooms_of_their_seeds():
    generator = load_manifest("rooms")["generator"]
    for index in range(3):
        episode = load_episode(MANIFESTS / "scans" / f"demo_{index:04d}")
        again = render_scan(generator, "demo", index)
        assert episode.scene_seed == again.scene_seed
        assert (episode.c2w - again.c2w).abs().max() < 1e-5
        assert episode.objects == again.objects
        assert psnr(episode.frames, again.frames) > 40


def test_scans_are_written_counted_and_left_alone_the_second_time(tmp_path, capsys):
    arguments = ["--manifest", manifest(tmp_path), "--split", "demo", "--out", str(tmp_path / "out")]
    main(arguments + ["--count", "1"])
    assert "1 scans written; PSNR of file against render" in capsys.readouterr().out
    first = (tmp_path / "out/demo_0000/scan.mp4").stat().st_mtime_ns
    main(arguments)
    assert "1 scans written" in capsys.readouterr().out
    main(arguments)
    assert "every scan was there already" in capsys.readouterr().out
    assert (tmp_path / "out/demo_0000/scan.mp4").stat().st_mtime_ns == first
    assert load_episode(tmp_path / "out/demo_0001").frames.shape == (17, 16, 24, 3)


def test_scans_of_other_settings_are_not_taken_for_these(tmp_path, capsys):
    arguments = ["--split", "demo", "--count", "1", "--out", str(tmp_path / "out"), "--manifest"]
    main(arguments + [manifest(tmp_path)])
    assert main(arguments + [manifest(tmp_path, height=24)]) == 2
    said = capsys.readouterr().err
    assert re.search(r"expected seed, height, width, frames .* got .*: it is from another manifest", said)


def test_unknown_splits_and_counts_are_refused_before_any_work(tmp_path, capsys):
    arguments = ["--manifest", manifest(tmp_path), "--out", str(tmp_path / "out")]
    for more, message in (
        (["--split", "tset"], "expected a split out of demo, got 'tset'"),
        (["--split", "demo", "--count", "3"], "expected a count from 1 to 2 for demo, got 3"),
        (["--split", "demo", "--count", "0"], "expected a count from 1 to 2 for demo, got 0"),
    ):
        assert main(arguments + more) == 2
        assert capsys.readouterr().err.startswith(message)
    assert main(["--manifest", "demo_scans"]) == 2
    assert capsys.readouterr().err.startswith("expected a generated data set, got demo_scans")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_run_leaves_no_episode_and_is_resumed(tmp_path):
    splits = {"demo": {"scans": 1, "latents": 150}}
    arguments = ["--manifest", manifest(tmp_path, splits=splits), "--split", "demo", "--out", str(tmp_path / "out")]
    command = [sys.executable, "-m", "v4s_lib.data", *arguments]
    run = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    part = tmp_path / "out/.demo_0000.part"
    deadline = time.monotonic() + 200
    while not part.exists() and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    run.kill()
    assert run.wait() == -signal.SIGKILL
    assert part.exists() and not (tmp_path / "out/demo_0000").exists()
    main(arguments)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["demo_0000"]
    assert len(load_episode(tmp_path / "out/demo_0000").frames) == 597
