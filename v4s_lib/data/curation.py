"""From scans to training windows: ``python -m v4s_lib.data.curation SCANS --out windows.jsonl``.

SCANS is an episode, or a folder of some. ``windows.jsonl`` has a ``Window`` a line, by scan and first latent. Beside
it, ``windows.report.json`` says by which settings, with their digest, and for every scan and in all how many candidates
each filter dropped; ``.windows.scans`` keeps what is done. A scan that cannot be read stops no other: the report has
the sentence of its ``error``, and the next run tries it again. Run the same command again after a kill, or with more
scans: one that is done and whose files have not changed is not curated again.
"""

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tqdm import tqdm

from v4s_lib.command import command
from v4s_lib.data import boxes, curation_filters, curation_windows, disk, instructions
from v4s_lib.data.curation_windows import KINDS, REASONS, Rules, Window, curate_scan
from v4s_lib.data.episodes import load_annotations
from v4s_lib.data.files import sha256
from v4s_lib.data.sources import find_episodes, source_hashes
from v4s_lib.data.workers import run_workers

COLUMNS = ("candidates", *REASONS, *KINDS)
LOCK = ".lock"


@dataclass(frozen=True)
class Job:
    """What every worker is told."""

    episodes: dict[str, Path]
    store: Path
    rules: Rules
    digest: str


def settings_of(rules: Rules) -> dict[str, Any]:
    """All that decides the windows of a scan: the rules, and every constant of filters and captions; as JSON has it."""
    modules = (boxes, curation_filters, curation_windows, instructions)
    constants = {name: value for module in modules for name, value in vars(module).items() if name.isupper()}
    return json.loads(json.dumps(asdict(rules) | constants))


def curate(scans: Path, out: Path, rules: Rules, workers: int = 1) -> dict[str, Any]:
    """Write the windows of all scans to ``out``; returns the report. Interrupted, the same call goes on.

    Args:
        scans: an episode, or a folder of some.
        out: a name that ends in .jsonl.
        workers: processes.

    Raises:
        ValueError, OSError: one sentence, also where no scan can be read; what was done before is still there, and
            nothing half-written is.
    """
    check_rules(rules)
    if workers < 1 or out.suffix != ".jsonl":
        raise ValueError(f"expected workers from 1 and a .jsonl file, got {workers} and {out}: choose others")
    episodes, report, store = find_episodes(scans), out.with_suffix(".report.json"), out.with_name(f".{out.stem}.scans")
    settings, before = settings_of(rules), disk.read_json(report)
    check_settings(out, before, settings)
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    with disk.writing(store):
        store.mkdir(parents=True, exist_ok=True)
        if not before:
            disk.write_json(report, {"settings": settings, "digest": digest})
        try:
            lock = FileLock(store / LOCK).acquire(timeout=0)
        except Timeout:
            raise OSError(f"expected one run at a time for {out}, got another at work: wait for its end") from None
    with lock:
        job = Job(episodes, store, rules, digest)
        missing = [name for name in episodes if read_done(job, name) is None]
        if missing:
            run_workers(curate_scans, job, [missing[worker::workers] for worker in range(min(workers, len(missing)))])
        with disk.writing(out):
            return write_windows(job, out, report, settings)


def check_rules(rules: Rules) -> None:
    """Refuse settings of which no window can come."""
    least = Rules(length=2, gap=0, context=1, step=1, stride=1, height=2, width=2)
    for field in fields(Rules):
        value, bound = getattr(rules, field.name), getattr(least, field.name)
        if value < bound:
            raise ValueError(f"expected {field.name} from {bound}, got {value}: choose a larger one")


def check_settings(out: Path, report: dict[str, Any], settings: dict[str, Any]) -> None:
    """Refuse a place that holds windows of other settings, or something else."""
    if not report:
        if out.exists():
            raise ValueError(f"expected a free place for the windows, got the existing {out}: choose another --out")
        return
    found = report.get("settings", {})
    differing = [name for name in settings if found.get(name) != settings[name]]
    if differing:
        wanted, got = (", ".join(f"{name} {of.get(name)}" for name in differing) for of in (settings, found))
        raise ValueError(f"expected windows made with {wanted} in {out}, got {got}: choose another --out")


def curate_scans(job: Job, names: list[str], worker: int) -> None:
    """Curate scans one after the other; what each gives is in the store, whole or not at all."""
    for name in tqdm(names, position=worker, desc=f"worker {worker}", unit="scan", disable=None):
        content = {"digest": job.digest, "source": read_source(job.episodes[name])}
        try:
            windows, counts = curate_scan(name, job.episodes[name], job.rules)
            content |= {"counts": counts, "windows": [asdict(window) for window in windows]}
        except (ValueError, OSError) as error:
            content |= {"counts": count_unreadable(job.episodes[name], job.rules), "windows": [], "error": str(error)}
        with disk.writing(job.store):
            disk.write_json(job.store / f"{name}.json", content)


def read_source(episode: Path) -> dict[str, str]:
    """The hashes of a scan's files, or why they cannot be told."""
    try:
        return source_hashes(episode)
    except (ValueError, OSError) as error:
        return {"error": str(error)}


def count_unreadable(episode: Path, rules: Rules) -> dict[str, int]:
    """The counts of a scan that cannot be read: as many candidates as its cameras tell of, none if they do not."""
    try:
        known = load_annotations(episode)
    except (ValueError, OSError):
        known = None
    candidates = 0 if known is None else len(rules.candidates(len(known.c2w)))
    return dict.fromkeys(COLUMNS, 0) | {"candidates": candidates, "unreadable": candidates}


def read_done(job: Job, name: str) -> dict[str, Any] | None:
    """What the store has of a scan; ``None`` where that is nothing, an error, or of the scan before it changed."""
    content = disk.read_json(job.store / f"{name}.json")
    if content.get("digest") != job.digest or "error" in content:
        return None
    return content if content["source"] == read_source(job.episodes[name]) else None


def write_windows(job: Job, out: Path, report: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Write the windows of all scans in order, then the report that has their hash."""
    done = {name: disk.read_json(job.store / f"{name}.json") for name in sorted(job.episodes)}
    errors = {name: {"error": content["error"]} for name, content in done.items() if "error" in content}
    if len(errors) == len(done):
        name, first = next(iter(errors.items()))
        got = f"none of {len(errors)}, {name} because of this ({first['error']})"
        raise ValueError(f"expected a scan that can be read, got {got}: correct the scans, or take them away")
    part = out.with_name(f".{out.name}.part")
    lines = (json.dumps(asdict(Window(**window))) for content in done.values() for window in content["windows"])
    part.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
    os.replace(part, out)
    counts = {name: content["counts"] | errors.get(name, {}) for name, content in done.items()}
    total = {column: sum(row[column] for row in counts.values()) for column in COLUMNS}
    content = {"settings": settings, "digest": job.digest, "sha256": sha256(out), "total": total, "scans": counts}
    disk.write_json(report, content)
    return content


def load_windows(path: str | Path) -> list[Window]:
    """The windows that ``curate`` has written; ``ValueError`` where they are not as the report beside them says."""
    path = Path(path)
    report = disk.read_json(path.with_suffix(".report.json"))
    if not path.is_file() or report.get("sha256") != sha256(path):
        raise ValueError(
            f"expected whole windows with their report in {path}, got others or none: "
            "run python -m v4s_lib.data.curation to its end"
        )
    windows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [Window(**w | {"box": None if w["box"] is None else tuple(w["box"])}) for w in windows]


def load_rules(path: str | Path) -> Rules:
    """The rules by which ``curate`` has made the windows of that file; ``ValueError`` as ``load_windows``."""
    load_windows(path)
    settings = disk.read_json(Path(path).with_suffix(".report.json"))["settings"]
    return Rules(**{field.name: settings[field.name] for field in fields(Rules)})


def table(report: dict[str, Any]) -> Iterator[str]:
    """The report's lines: for each scan and in all the candidates, those that each filter dropped, and what is left.

    Below, the scans that cannot be read, and why.
    """
    width = max(map(len, [*report["scans"], "in all"]))
    yield "  ".join(["scan".ljust(width), *COLUMNS])
    for name, row in [*report["scans"].items(), ("in all", report["total"])]:
        yield "  ".join([name.ljust(width), *(str(row[column]).rjust(len(column)) for column in COLUMNS)])
    yield from (f"{name} cannot be read: {row['error']}" for name, row in report["scans"].items() if "error" in row)


@command("run the same command to go on after the last whole scan")
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m v4s_lib.data.curation", description=__doc__.splitlines()[0])
    parser.add_argument("scans", type=Path, help="an episode, or a folder of episodes")
    parser.add_argument("--out", type=Path, required=True, help="file of the windows, .jsonl")
    helps = {
        "length": "latents of a target, its start frame's included",
        "gap": "latents on either side of it that hold no context",
        "context": "latents that must remain for the context",
        "step": "latents from one candidate to the next",
        "stride": "take every n-th frame, as the latents are made",
        "height": "of the frames, pixels, as the latents are made",
        "width": "of the frames, pixels, as the latents are made",
    }
    for name, text in helps.items():
        default = getattr(Rules, name)
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{text} (default: {default})")
    parser.add_argument("--workers", type=int, default=1, help="processes (default: 1)")
    options = parser.parse_args(arguments)
    rules = Rules(**{name: getattr(options, name) for name in helps})
    report = curate(options.scans, options.out, rules, options.workers)
    print("\n".join(table(report)))


if __name__ == "__main__":
    sys.exit(main())
