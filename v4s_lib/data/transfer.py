"""One file over HTTP, which goes on where it stopped and never glues two versions together.

A file arrives as ``NAME.part`` and takes its place once size and sha256 are right. ``NAME.part.json`` holds the mark of
the server's version, so that a later process goes on where a killed one stopped.
"""

import os
import re
import ssl
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from threading import Event, Lock
from urllib.error import HTTPError
from urllib.request import OpenerDirector, build_opener

from tqdm import tqdm

from v4s_lib.data import disk, files
from v4s_lib.data.disk import RECEIVED, RESUME
from v4s_lib.data.redirects import Asked, Redirects

CHUNK = 1 << 20
RECORDED, PUBLISHER = "first download", "publisher"  # whose a recorded sha256 is


@dataclass(frozen=True)
class Retry:
    """When to give up: ``tries`` in a row without a new byte; waits double; a silent server is left after ``timeout``.

    Times are in seconds. A server that asks for a wait over ``longest_wait`` is reported at once.
    """

    tries: int = 6
    first_wait: float = 1.0
    longest_wait: float = 60.0
    timeout: float = 30.0


@dataclass(frozen=True)
class Job:
    """A file to bring, and what is known of it before."""

    url: str
    path: Path
    size: int | None = None
    sha256: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    terms: str = ""
    origin: str = "as listed"
    remedy: str = "try again later, and correct the list if the file was changed on purpose"
    hub: bool = False  # its size and sha256 are those that the hub says, where it says them

    def told(self, size: int | None, sha256: str | None) -> "Job":
        """The job with what the hub has said, where that counts."""
        if not self.hub or sha256 is None:
            return self
        if self.size and size and size != self.size:
            raise ValueError(f"expected {self.size} bytes ({self.origin}) from {self.url}, got {size}: {self.remedy}")
        said = {"origin": "as the hub says", "remedy": "try again later, or from another network"}
        return replace(self, size=self.size or size, sha256=sha256, **said)

    @property
    def part(self) -> Path:
        return self.path.with_name(self.path.name + ".part")

    @property
    def state(self) -> Path:
        return self.path.with_name(self.path.name + ".part.json")


@dataclass(frozen=True)
class Run:
    """What the files of one call share."""

    retry: Retry
    folder: Path
    bar: tqdm
    opener: OpenerDirector = field(default_factory=lambda: build_opener(Redirects))
    stop: Event = field(default_factory=Event)
    lock: Lock = field(default_factory=Lock)

    def advance(self, count: int) -> None:
        with self.lock:
            self.bar.update(count)


class _Stopped(Exception):
    """Another file failed, or the user stopped the command."""


class _Again(Exception):
    """A failure that may pass; ``wait`` is what the server asked for, in seconds."""

    def __init__(self, got: str, wait: float = 0) -> None:
        super().__init__(got)
        self.wait = wait


def download_file(job: Job, run: Run) -> None:
    """Bring one file into its place, or raise one sentence; what came of it stays in its ``.part``."""
    best, failures, damaged = disk.length(job.part), 0, False
    with disk.writing(job.path):
        job.path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        try:
            told = _receive(job, run)
            found = files.sha256(job.part)
            if told.sha256 in (None, found):
                break
            _discard(job, run)
            if damaged:
                raise ValueError(
                    f"expected sha256 {told.sha256[:16]}... ({told.origin}) from {job.url}, got {found[:16]}..., twice:"
                    f" {told.remedy}"
                )
            damaged = True
            raise _Again(f"sha256 {found[:16]}...")
        except _Again as again:
            length = disk.length(job.part)
            failures = 1 if length > best else failures + 1
            best = max(best, length)
            wait = max(again.wait, min(run.retry.first_wait * 2 ** min(failures - 1, 30), run.retry.longest_wait))
            if failures >= run.retry.tries or again.wait > run.retry.longest_wait:
                pause = f"wait {again.wait:.0f} seconds, then " if again.wait else "check the network, then "
                raise ConnectionError(f"expected all of {job.url}, got {again}: {pause}{RESUME}") from None
        if run.stop.wait(wait):
            raise _Stopped
    with disk.writing(job.path):
        _remember(told, run, found)
        os.replace(job.part, job.path)
        job.state.unlink(missing_ok=True)


def _receive(job: Job, run: Run) -> Job:
    """Add what is missing of a file to its ``.part``, which is then whole; returns the job as the hub has told it."""
    state, have = disk.read_json(job.state), disk.length(job.part)
    told = job.told(None, state.get("sha256"))
    mark, total = state.get("mark"), job.size or state.get("size")
    known = state.get("url") == job.url and (mark or told.sha256)
    if have and (not known or (total and have > total)):
        have = _discard(job, run)
    if have and have == total:
        return told
    headers = dict(job.headers)
    if have:
        headers |= {"Range": f"bytes={have}-"} | ({"If-Range": mark} if mark else {})
    request = Asked(job.url, headers)
    with _open(job, request, run) as response:
        job = job.told(*request.said)
        start, total = _examine(response, job, have, mark, run)
        first = _read(response)
        if not start:
            if first.lstrip()[:20].lower().startswith((b"<!doctype html", b"<html")):
                _refuse_page(job)
            _discard(job, run)
        _store(response, first, start, total, job, run)
    return job


def _open(job: Job, request: Asked, run: Run) -> HTTPResponse:
    try:
        return run.opener.open(request, timeout=run.retry.timeout)
    except HTTPError as error:
        with error:
            if error.code == 416 and request.has_header("Range"):
                _discard(job, run)
                raise _Again("416 (the file is shorter there)") from None
            raise _refusal(job, error) from None
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise ConnectionError(
                f"expected a certificate for {job.url}, got {reason.verify_message}: check the clock and the network, "
                "and point SSL_CERT_FILE at your organisation's certificates if it inspects traffic"
            ) from error
        raise _Again(f"no answer ({reason or type(error).__name__})") from error


def _refusal(job: Job, error: HTTPError) -> Exception:
    """What to do at a status that is no success, in one sentence."""
    terms, code, reason = job.terms.rstrip(". "), error.code, " ".join(str(error.reason).split())
    if code in (408, 425, 429) or code >= 500:
        return _Again(f"{code} ({reason})", _retry_after(error.headers))
    got = f"expected the file {job.url}, got {code}"
    if code == 401:
        todo = "log in (on the hub: hf auth login)" + (f", then {terms}" if terms else "")
        return PermissionError(f"{got} (no valid login): {todo}, then {RESUME}")
    if code == 403:
        return PermissionError(f"{got} (not allowed): {terms or 'ask its owners for access'}, then {RESUME}")
    if code in (404, 410):
        return FileNotFoundError(f"{got} (not there): check url, path and revision against the homepage of the set")
    return ConnectionError(f"{got} ({reason}): open it in a browser to see why")


def _retry_after(headers: HTTPMessage) -> float:
    """Seconds that the server asks to wait, given as a number or as a date; 0 without one."""
    value = headers.get("Retry-After", "0").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return 0.0


def _refuse_page(job: Job) -> None:
    if not job.path.name.lower().endswith((".html", ".htm", ".xhtml")):
        terms = f", or {job.terms.rstrip('. ')}" if job.terms else ""
        raise ValueError(
            f"expected the file {job.url}, got a web page (HTML): open it in a browser, since a proxy or the site may "
            f"ask for a login{terms}"
        )


def _examine(response: HTTPResponse, job: Job, have: int, mark: str | None, run: Run) -> tuple[int, int | None]:
    """Where the answer starts in the file and how long the file is (None: not said), once the answer makes sense."""
    headers = response.headers
    if headers.get_content_type() in ("text/html", "application/xhtml+xml"):
        _refuse_page(job)
    if (encoding := headers.get("Content-Encoding", "identity").lower()) != "identity":
        raise ValueError(f"expected plain bytes from {job.url}, got {encoding}: use a network without such a proxy")
    start, announced = 0, response.length
    if response.status == 206:
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", headers.get("Content-Range", ""))
        theirs = headers.get("ETag" if (mark or "").startswith('"') else "Last-Modified")
        if not have or not span or int(span[1]) != have or (mark and theirs not in (None, mark)):
            _discard(job, run)
            raise _Again("a piece of another file")
        start, announced = have, int(span[2])
    elif response.status != 200:
        raise ConnectionError(f"expected 200 from {job.url}, got {response.status}: open it in a browser to see why")
    if job.size and announced not in (None, job.size):
        raise ValueError(f"expected {job.size} bytes ({job.origin}) from {job.url}, got {announced}: {job.remedy}")
    if announced is None and not response.chunked and not job.size and not job.sha256:
        raise ValueError(f"expected a known length of {job.url}, got none: give the size or the sha256")
    return start, job.size or announced


def _read(response: HTTPResponse) -> bytes:
    try:
        return response.read1(CHUNK)
    except (OSError, HTTPException) as error:
        raise _Again(f"a line that broke ({str(error) or type(error).__name__})") from error


def _store(response: HTTPResponse, first: bytes, start: int, total: int | None, job: Job, run: Run) -> None:
    length, chunk = start, first
    with disk.writing(job.part), job.part.open("ab" if start else "wb", buffering=0) as file:
        if not start:
            tag = response.headers.get("ETag", "")
            mark = tag if tag.startswith('"') else response.headers.get("Last-Modified")
            sha256 = job.sha256 if job.hub else None
            disk.write_json(job.state, {"url": job.url, "mark": mark, "size": total, "sha256": sha256})
        while chunk:
            if run.stop.is_set():
                raise _Stopped
            disk.require_space(job.part.parent, total - length if total else len(chunk))
            view = memoryview(chunk)
            while view:
                view = view[file.write(view) :]
            length += len(chunk)
            run.advance(len(chunk))
            if total and length > total:
                raise ValueError(f"expected {total} bytes ({job.origin}) from {job.url}, got more: {job.remedy}")
            chunk = _read(response)
        os.fsync(file.fileno())
    if total and length < total:
        raise _Again(f"{length} of {total} bytes")
    if not length:
        _discard(job, run)
        raise ValueError(f"expected a file from {job.url}, got 0 bytes: {job.remedy}")


def _discard(job: Job, run: Run) -> int:
    """Forget what came of a file; returns what is left of it: 0 bytes."""
    run.advance(-disk.length(job.part))
    job.part.unlink(missing_ok=True)
    job.state.unlink(missing_ok=True)
    return 0


def _remember(job: Job, run: Run, found: str) -> None:
    """Record what came, before it takes its place, when nothing but this record can tell it from another file."""
    if job.sha256 is not None and not job.hub:
        return
    with run.lock:
        records = disk.read_json(run.folder / RECEIVED)
        records[job.path.relative_to(run.folder).as_posix()] = {
            "size": disk.length(job.part),
            "sha256": found,
            "sha256_from": RECORDED if job.sha256 is None else PUBLISHER,
            "url": job.url,
            "date": datetime.now(UTC).date().isoformat(),
        }
        disk.write_json(run.folder / RECEIVED, records)
