"""Every benchmark runs at tiny size, and what it measures with has known answers."""

import pytest
import torch

from tests.benchmarks import video_reading
from tests.benchmarks.__main__ import BENCHMARKS, main
from v4s_lib.data.video import frame_times, read_frames


@pytest.fixture
def threads(monkeypatch):
    """The benchmarks fix the thread count, and what the profiler says; later tests get theirs back."""
    before = torch.get_num_threads()
    for name in ("OMP_NUM_THREADS", "KINETO_LOG_LEVEL"):
        monkeypatch.setenv(name, "1")
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_runs_and_stores_nothing_quickly(name, tmp_path, capsys, threads):
    path = tmp_path / "benchmarks.json"
    assert main([name, "--quick", "--pairs", "1", "--json", str(path)]) == 0
    first, empty, head, rule, *rows = capsys.readouterr().out.splitlines()
    assert (first, empty) == ("1 threads, 1 pairs", "")
    assert rows and all(row.count("|") == head.count("|") == rule.count("|") for row in rows)
    assert all(row.endswith(f"| `python -m tests.benchmarks {name}` |") for row in rows)
    assert any("not measured" not in row for row in rows)
    assert not path.exists()


def test_bad_requests_are_refused(tmp_path, capsys):
    assert main(["magic"]) == 2
    assert main(["start_up", "--pairs", "0"]) == 2
    unknown, none = capsys.readouterr().err.splitlines()
    assert unknown.startswith("expected benchmarks out of cached_context, ") and "got 'magic'" in unknown
    assert none == "expected 1 or more pairs and threads, got 0 and 1: ask for some"


def test_written_frames_tell_their_index_and_a_wrong_one_is_noticed(tmp_path):
    constant = video_reading.write_numbered(tmp_path / "constant.mp4", 24)
    variable = video_reading.vary_times(constant, tmp_path / "variable.mp4")
    gaps = [frame_times(path).diff() for path in (constant, variable)]
    assert gaps[0].max() < 1.1 * gaps[0].min() and gaps[1].max() > 2 * gaps[1].min()
    for path in (constant, variable):
        assert video_reading.told(read_frames(path)) == list(range(24))
        with pytest.raises(ValueError, match=r"^expected frames \[3, 7\] of .*, got 2 others: do not use"):
            video_reading.check(one_late, path, [3, 7])


def one_late(path, indices):
    """A reader that returns the next frame."""
    return read_frames(path, [index + 1 for index in indices])
