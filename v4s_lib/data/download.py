"""Download the files of a manifest: ``python -m v4s_lib.data.download NAME --out FOLDER``.

How one file arrives is in ``transfer.py``. huggingface_hub (since 1.18) starts over after a kill and checks sizes only:
its addresses and login are used here, not its downloads. A file without a sha256 in its manifest must be as the hub
says, which tells the sha256 of large files; any other is trusted on first use. ``received.json`` keeps what came, and
whose its sha256 is (``sha256_from``).
"""

import argparse
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock, Timeout
from tqdm import tqdm

from v4s_lib.command import command
from v4s_lib.data import disk, files
from v4s_lib.data.archives import inside
from v4s_lib.data.disk import RECEIVED, RESUME
from v4s_lib.data.manifests import load_manifest
from v4s_lib.data.transfer import PUBLISHER, Job, Retry, Run, download_file

LOCK = ".download.lock"
RETRY = Retry()
ADDRESS = re.compile(r"https?://[\w.-]+(:\d+)?([/?#][!-~]*)?", re.ASCII)


def fetch_manifest(
    name: str | Path,
    folder: str | Path,
    workers: int = 4,
    offline: bool = False,
    progress: bool = True,
    retry: Retry = RETRY,
) -> list[Path]:
    """Bring every file of a manifest (``http``, ``hub`` or ``gated``) into ``folder``; our choice of rules.

    A file that is in place and right is kept, a wrong one is replaced. After an error or a kill, the same call goes on.

    Args:
        name: in ``data_manifests/``, or the path of a ``.yaml`` file.
        workers: files at once.
        offline: use no network; what is in ``folder`` must be complete and right.

    Returns:
        The files, in the manifest's order.

    Raises:
        FileNotFoundError, PermissionError, ConnectionError, OSError, ValueError: one sentence on what to do.
    """
    manifest, folder = load_manifest(name), Path(folder)
    access, terms = manifest["access"], manifest.get("terms", "")
    if access in ("generated", "shipped"):
        todo = (
            f"run {manifest.get('command', 'the command of its README')}" if access == "generated" else "use it there"
        )
        raise ValueError(f"expected a set to download, got {manifest['name']}, which is {access}: {todo}")
    listed = manifest.get("files")
    if not listed:
        raise ValueError(f"expected files in the manifest {manifest['name']}, got none: {terms}")
    address = addresses(manifest)
    jobs, hub = [], "repo_id" in manifest
    for file in listed:
        (url, headers), path, sha256 = address(file), inside(folder, file["path"]), file.get("sha256")
        jobs.append(Job(url, path, file.get("size"), sha256, headers, terms, hub=hub and sha256 is None))
    return _fetch(jobs, folder, workers, offline, progress, retry)


def fetch_file(
    url: str,
    path: str | Path,
    size: int | None = None,
    sha256: str | None = None,
    headers: dict[str, str] | None = None,
    terms: str = "",
    offline: bool = False,
    progress: bool = True,
    retry: Retry = RETRY,
) -> Path:
    """Bring one file from ``url`` to ``path`` under the rules of ``fetch_manifest``.

    Args:
        size: bytes; None: not known.
        sha256: 64 hexadecimal digits; None: trusted on first use, see ``received.json`` beside the file.
        headers: sent to the host of ``url`` only.
        terms: what to accept and where; shown when the server refuses.
    """
    path = Path(path)
    job = Job(url, inside(path.parent, path.name), size, sha256, headers or {}, terms)
    return _fetch([job], path.parent, 1, offline, progress, retry)[0]


def addresses(manifest: dict[str, Any]) -> Callable[[dict[str, Any]], tuple[str, dict[str, str]]]:
    """How to get from a manifest's file to its URL and headers; the login of the hub goes to the hub only."""
    if "repo_id" not in manifest:
        return lambda file: (file.get("url", ""), {})
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers

    headers = build_hf_headers(library_name="v4s_lib")
    place = {"revision": manifest["revision"], "repo_type": manifest.get("repo_type", "model")}
    return lambda file: (hf_hub_url(manifest["repo_id"], file["path"], **place), headers)


def _fetch(jobs: list[Job], folder: Path, workers: int, offline: bool, progress: bool, retry: Retry) -> list[Path]:
    _check(jobs, folder, workers)
    records = disk.read_json(folder / RECEIVED)
    jobs = [_recorded(job, records, folder) for job in jobs]
    missing = [job for job in jobs if not _in_place(job)]
    if offline and missing:
        got = f"{len(missing)} of {len(jobs)} files missing or changed"
        raise FileNotFoundError(f"expected {missing[0].path} without a network, got {got}: run it once with a network")
    if missing:
        with disk.writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            disk.require_space(folder, sum(max(0, (job.size or 0) - disk.length(job.part)) for job in missing))
            try:
                with FileLock(folder / LOCK, timeout=0):
                    _fetch_missing(missing, folder, workers, progress, retry)
            except Timeout:
                raise OSError(f"expected one download into {folder}, got another at work: wait for its end") from None
    return [job.path for job in jobs]


def _fetch_missing(jobs: list[Job], folder: Path, workers: int, progress: bool, retry: Retry) -> None:
    total = None if any(job.size is None for job in jobs) else sum(job.size for job in jobs)
    done = sum(disk.length(job.part) for job in jobs)
    shape = {"total": total, "initial": done, "unit": "B", "unit_scale": True, "disable": not progress}
    with tqdm(desc=folder.name, **shape) as bar, ThreadPoolExecutor(workers) as pool:
        run = Run(retry, folder, bar)
        futures = [pool.submit(download_file, job, run) for job in jobs]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            run.stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _check(jobs: list[Job], folder: Path, workers: int) -> None:
    """Refuse bad input before any work starts."""
    if workers < 1:
        raise ValueError(f"expected at least 1 worker, got {workers}: choose 1 or more")
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"expected a folder at {folder}, got a file: choose another folder")
    names = [PurePosixPath(job.path.relative_to(folder).as_posix().casefold()) for job in jobs]
    counts = Counter(names)
    for job, name in zip(jobs, names, strict=True):
        if counts[name] > 1 or any(parent in counts for parent in name.parents):
            raise ValueError(f"expected every path once, got {job.path} twice or below a file: correct the manifest")
        if name.name in (RECEIVED, LOCK) or name.name.endswith((".part", ".part.json")):
            raise ValueError(f"expected a name of data, got {job.path}, which the downloader uses: rename it")
        if not ADDRESS.fullmatch(job.url):
            raise ValueError(f"expected a url https://host/file, got {job.url!r} for {name}: correct it")
        if job.size is not None and job.size < 1:
            raise ValueError(f"expected a size from 1 byte, got {job.size} for {name}: correct it")
        if job.sha256 is not None and not re.fullmatch("[0-9a-f]{64}", job.sha256):
            raise ValueError(f"expected a sha256 of 64 hexadecimal digits, got {job.sha256!r} for {name}: correct it")
        if job.path.is_dir():
            raise FileExistsError(f"expected a file at {job.path}, got a folder: move it away")
        above = [folder / parent for parent in job.path.relative_to(folder).parents]
        if wrong := [place for place in above if place.exists() and not place.is_dir()]:
            raise FileExistsError(f"expected a folder at {wrong[0]}, got a file: move it away")


def _recorded(job: Job, records: dict[str, Any], folder: Path) -> Job:
    """Without a listed sha256, a file must stay what the hub said, or what it was when it first came."""
    name = job.path.relative_to(folder).as_posix()
    record = records.get(name)
    if job.sha256 is not None:
        return job
    if record is not None:
        return replace(
            job,
            size=job.size or record["size"],
            sha256=record["sha256"],
            origin=f"as {'the hub said' if record.get('sha256_from') == PUBLISHER else 'received'} on {record['date']}",
            hub=False,
            remedy=f"keep what you have, or delete {name} from {folder / RECEIVED} to take the new file",
        )
    if job.path.exists():
        raise FileExistsError(f"expected a sha256 or no file yet at {job.path}, got an unknown file: move it away")
    return job


def _in_place(job: Job) -> bool:
    if job.sha256 is None or not job.path.is_file() or job.size not in (None, disk.length(job.path)):
        return False
    return files.sha256(job.path) == job.sha256


@command(RESUME)
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m v4s_lib.data.download", description=__doc__.splitlines()[0])
    parser.add_argument("name", help="name in data_manifests/, or a .yaml file")
    parser.add_argument("--out", type=Path, help="folder for the files (default: data/ and the manifest's name)")
    parser.add_argument("--workers", type=int, default=4, help="files at once (default: 4)")
    parser.add_argument("--offline", action="store_true", help="use no network: check what is there")
    options = parser.parse_args(arguments)
    out = options.out or Path("data") / load_manifest(options.name)["name"]
    paths = fetch_manifest(options.name, out, options.workers, options.offline)
    print(f"{out}: {len(paths)} files, all as listed")


if __name__ == "__main__":
    sys.exit(main())
