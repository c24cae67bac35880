"""Curated windows of the demo scans, one with a box and some without, their cache, and the scale that fits them."""

import json
from dataclasses import asdict, replace
from pathlib import Path

from tests.model.tiny_wan import save_text_encoder
from tests.training.tiny_cache import SCALE
from tests.training.tiny_scans import encode
from v4s_lib.data.curation import curate, load_windows, settings_of
from v4s_lib.data.curation_windows import Rules, Window
from v4s_lib.data.files import sha256
from v4s_lib.data.manifests import MANIFESTS
from v4s_lib.training.cached import CachedLatents

SCANS = MANIFESTS / "scans"
RULES = Rules(length=8, gap=4, context=6, step=3, height=32, width=48)
TAIL = 2
BOXED = replace(SCALE, moving_latents=7, tail_latents=TAIL, text_tokens=32)


def write_curated(folder: Path) -> Path:
    """What curation makes of the demo scans."""
    curate(SCANS, folder / "windows.jsonl", RULES)
    return folder / "windows.jsonl"


def write_some(file: Path, windows: list[Window], rules: Rules = RULES) -> Path:
    """A file of windows as curation would write them."""
    file.write_text("".join(json.dumps(asdict(window)) + "\n" for window in windows))
    report = {"settings": settings_of(rules), "sha256": sha256(file)}
    file.with_suffix(".report.json").write_text(json.dumps(report))
    return file


def boxed_of(windows: Path) -> Window:
    """The first window with a box."""
    return next(window for window in load_windows(windows) if window.box is not None)


def write_cache(folder: Path, windows: Path) -> CachedLatents:
    """The demo scans by exact patches, with text and the windows' targets."""
    text = {"text-encoder": save_text_encoder(folder / "text"), "text-tokens": 32}
    return encode(SCANS, folder / "cache", windows=windows, tail=TAIL, **text)
