"""Workers: the first sentence counts, nobody is left at work, not even after kill -9."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from v4s_lib.data.workers import run_workers

ROOT = Path(__file__).resolve().parents[2]


def note(folder: Path, share: list[str], number: int) -> None:
    """Do what the share says, and leave this process's id behind."""
    (folder / f"{number}.part").write_text(str(os.getpid()))
    os.replace(folder / f"{number}.part", folder / str(number))
    for word in share:
        if word == "fail":
            raise FileNotFoundError("expected a scan, got none: look for it")
        if word == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(float(word))


def is_alive(process: int) -> bool:
    """Whether there is such a process, other than as a zombie that nobody has waited for."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True).stdout
    return bool(state.strip()) and not state.startswith("Z")


def test_every_share_is_worked_on_in_its_own_process(tmp_path):
    run_workers(note, tmp_path, [["0"], ["0"]])
    ids = {int((tmp_path / str(number)).read_text()) for number in range(2)}
    assert len(ids) == 2 and os.getpid() not in ids
    run_workers(note, tmp_path, [["0"]])
    assert (tmp_path / "0").read_text() == str(os.getpid())  # one share needs no other process


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is of Unix")
@pytest.mark.parametrize(
    ("word", "error", "sentence"),
    [
        ("fail", FileNotFoundError, r"^expected a scan, got none: look for it$"),
        ("die", OSError, r"^expected every worker to finish, got one that ended with code -9: look for a lack of"),
    ],
)
def test_a_worker_that_fails_ends_the_others(tmp_path, word, error, sentence):
    start = time.monotonic()
    with pytest.raises(error, match=sentence):
        run_workers(note, tmp_path, [["600"], [word]])
    assert time.monotonic() - start < 100
    assert not any(is_alive(int(path.read_text())) for path in tmp_path.iterdir() if path.suffix == "")


PARENT = """
import sys
from pathlib import Path
from tests.data.test_workers import note
from v4s_lib.data.workers import run_workers
if __name__ == "__main__":
    run_workers(note, Path(sys.argv[1]), [["600"], ["600"]])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is of Unix")
def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    script, out = tmp_path / "parent.py", tmp_path / "out"
    script.write_text(PARENT)
    out.mkdir()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, str(script), str(out)], env=environment)
    end = time.monotonic() + 100
    while len(list(out.glob("[01]"))) < 2 and time.monotonic() < end:
        time.sleep(0.05)
    workers = [int(path.read_text()) for path in out.glob("[01]")]
    assert len(workers) == 2 and all(is_alive(worker) for worker in workers)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    while any(is_alive(worker) for worker in workers) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(is_alive(worker) for worker in workers)
