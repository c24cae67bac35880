"""One file from a server that misbehaves, onto a disk that fills, by a process that is killed."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Event

import pytest
from tqdm import tqdm

from tests.data.faults import FAULTS, FILLED, KILLED, fault_table
from tests.data.faulty_server import BODY, DIGEST, HALF, Server, get, ranges
from v4s_lib.data.download import Retry
from v4s_lib.data.transfer import Job, Run, download_file

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.does)
def test_a_fault_ends_in_the_whole_file_or_in_one_sentence(server, tmp_path, fault):
    server.answers = list(fault.answers)
    path = tmp_path / "deep" / "file.bin"
    start = time.monotonic()
    if fault.error is None:
        assert get(server, path, fault.size, fault.sha256) == path
        assert path.read_bytes() == BODY
        assert not list(tmp_path.rglob("*.part*"))
    else:
        with pytest.raises((OSError, ValueError), match=fault.error) as caught:
            get(server, path, fault.size, fault.sha256)
        assert str(caught.value).startswith("expected ") and "\n" not in str(caught.value)
        assert not path.exists()
    if fault.requests:
        assert len(server.log) == fault.requests
    if fault.ranges:
        assert ranges(server) == list(fault.ranges)
    if "rate_limits" in fault.answers:
        assert time.monotonic() - start >= 1


def test_the_table_has_a_row_for_each_fault():
    assert len(fault_table().splitlines()) == 2 + len([*FAULTS, KILLED, FILLED])
    assert "| answers 404 | says what to check |" in fault_table()
    assert f"<!-- faults -->\n{fault_table()}\n<!-- end of faults -->" in (ROOT / "README.md").read_text()


class WrittenDown(Event):
    """An event that keeps how long it was waited for."""

    def __init__(self):
        super().__init__()
        self.waits = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout)
        return super().wait(timeout)


@pytest.fixture
def run(tmp_path) -> Run:
    return Run(Retry(6, 0.01, 0.05, 5), tmp_path, tqdm(disable=True), stop=WrittenDown())


def test_waits_double_up_to_the_longest_and_none_follows_the_last_try(server, tmp_path, run):
    server.answers, start = ["drops"], time.monotonic()
    with pytest.raises(ConnectionError, match="got no answer"):
        download_file(Job(f"{server.url}/file", tmp_path / "file"), run)
    assert run.stop.waits == [0.01, 0.02, 0.04, 0.05, 0.05]
    assert time.monotonic() - start >= sum(run.stop.waits)
    assert len(server.log) == 6


def test_waits_start_anew_after_new_bytes(server, tmp_path, run):
    server.answers = ["drops", "drops", "truncates", "drops", "good"]
    download_file(Job(f"{server.url}/file", tmp_path / "file", len(BODY), DIGEST), run)
    assert run.stop.waits == [0.01, 0.02, 0.01, 0.02]
    assert ranges(server) == [None, None, None, f"bytes={HALF}-", f"bytes={HALF}-"]
    assert (tmp_path / "file").read_bytes() == BODY


def half(server: Server, path: Path, **options) -> None:
    server.answers = ["truncates"]
    with pytest.raises(ConnectionError):
        get(server, path, retry=Retry(1, 0.01, 0.01, 5), **options)
    assert path.with_name(path.name + ".part").stat().st_size == HALF
    server.answers, server.log = ["good"], []


def test_a_second_call_asks_for_the_rest_only(server, tmp_path):
    half(server, tmp_path / "file")
    get(server, tmp_path / "file")
    assert ranges(server) == [f"bytes={HALF}-"]
    assert server.log[0][1]["If-Range"] == '"one"'
    assert (tmp_path / "file").read_bytes() == BODY


@pytest.mark.parametrize("answer", ["good", "ignores_if_range"])
def test_a_new_version_is_not_glued_to_an_old_half(server, tmp_path, answer):
    half(server, tmp_path / "file", size=False, sha256=False)
    server.body, server.etag, server.answers = BODY[::-1], '"two"', [answer]
    get(server, tmp_path / "file", size=False, sha256=False)
    assert (tmp_path / "file").read_bytes() == BODY[::-1]


def test_a_damaged_half_is_thrown_away(server, tmp_path):
    half(server, tmp_path / "file")
    (tmp_path / "file.part").write_bytes(bytes(HALF))
    get(server, tmp_path / "file")
    assert ranges(server) == [f"bytes={HALF}-", None]
    assert (tmp_path / "file").read_bytes() == BODY


def test_a_half_that_nobody_vouches_for_starts_over(server, tmp_path):
    half(server, tmp_path / "file", size=False, sha256=False)
    (tmp_path / "file.part.json").unlink()
    get(server, tmp_path / "file", size=False, sha256=False)
    assert ranges(server) == [None]


def test_no_server_at_all(tmp_path, server):
    server.stop()
    with pytest.raises(ConnectionError, match=r"^expected all of .*, got no answer \(.*refused.*\): check the network"):
        get(server, tmp_path / "file")


def test_a_login_goes_to_its_host_only(server, tmp_path):
    other = Server()
    try:
        server.answers, server.away = ["redirects", "redirects_away"], f"{other.url}/cdn"
        get(server, tmp_path / "file", headers={"Authorization": "Bearer secret"})
        assert [headers.get("Authorization") for _, headers in server.log] == ["Bearer secret"] * 2
        assert [headers.get("Authorization") for _, headers in other.log] == [None]
    finally:
        other.stop()


# A full disk, and a killed process

CHILD = """
import resource, sys
from v4s_lib.data.download import Retry, fetch_file
if sys.argv[3] != "0":
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
try:
    fetch_file(sys.argv[1], sys.argv[2], None, None, progress=False, retry=Retry(3, 0.01, 1, 20))
except OSError as error:
    sys.exit(str(error))
"""


def child(server: Server, path: Path, limit=0, before=()) -> subprocess.Popen:
    command = [*before, sys.executable, "-c", CHILD, f"{server.url}/file", str(path), str(limit)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True)


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is of Unix")
def test_a_killed_download_goes_on_in_another_process(server, tmp_path):
    server.answers = list(KILLED.answers)
    process, part = child(server, tmp_path / "file"), tmp_path / "file.part"
    end = time.monotonic() + 20
    while not (part.exists() and part.stat().st_size == HALF) and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL and part.stat().st_size == HALF
    get(server, tmp_path / "file", size=False, sha256=False)
    assert ranges(server) == list(KILLED.ranges)
    assert (tmp_path / "file").read_bytes() == BODY


@pytest.mark.skipif(sys.platform == "win32", reason="limits are of Unix")
def test_a_disk_that_fills_keeps_what_came(server, tmp_path):
    server.answers = list(FILLED.answers)
    process = child(server, tmp_path / "file", limit=100_000)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 1
    assert re.match(FILLED.error, said)
    assert (tmp_path / "file.part").stat().st_size == 100_000
    get(server, tmp_path / "file", size=False, sha256=False)
    assert ranges(server) == list(FILLED.ranges)
    assert (tmp_path / "file").read_bytes() == BODY


def test_a_real_small_disk(server, tmp_path):
    """A file system of 120 kB; chunks without a length pass the check before, so that it fills on the way."""
    mount = f'mount -t tmpfs -o size=120k tmpfs {tmp_path} && exec "$@"'
    before = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, "sh"]
    try:
        allowed = subprocess.run([*before, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        allowed = False
    if not allowed:
        pytest.skip("this machine lets no user mount a file system")
    server.answers = ["chunked"]
    process = child(server, tmp_path / "file", before=before)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 1
    assert said.startswith("expected ") and "make room, then run the same command again" in said


@pytest.mark.parametrize("full_from", [1, 3])
def test_disk_space_is_checked_before_and_during(server, tmp_path, monkeypatch, full_from):
    calls = []

    def usage(path):
        calls.append(path)
        return type("Usage", (), {"free": 1000 if len(calls) >= full_from else 10**9})

    monkeypatch.setattr("shutil.disk_usage", usage)
    with pytest.raises(OSError, match=r"^expected [\d,]+ bytes free in .*, got 1,000: make room, then run the same"):
        get(server, tmp_path / "file")
    assert len(server.log) == (0 if full_from == 1 else 1)
