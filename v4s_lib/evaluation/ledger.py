"""``python -m v4s_lib.evaluation.ledger``: each claim, the original's figure, ours, and a verdict.

``data_manifests/ledger/claims.yaml`` says of every claim what is measured and what would count as reproduced, before
the experiment is run. Figures come from the stored results, which must belong to the shipped weights. A verdict is
computed, never written: all checks hold, some do, or none does.
"""

import json
import sys
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from v4s_lib.data.manifests import MANIFESTS
from v4s_lib.evaluation import results
from v4s_lib.training.presets import get_preset

FOLDER = MANIFESTS / "ledger"
REPRODUCED, IN_PART, NOT_REPRODUCED = "reproduced", "reproduced in part", "not reproduced"
NOT_RUN, UNTESTED, BY_DESIGN = "not run yet", "not tested yet", "by design, see the tests"


@dataclass(frozen=True)
class Checked:
    """One check: what was measured, and whether it meets its bar."""

    what: str
    value: float
    interval: tuple[float, float] | None
    limit: float
    least: bool  # whether the limit is a least value; otherwise it is a most

    @property
    def bar(self) -> str:
        return f"{'≥' if self.least else '≤'} {self.limit:g}"

    @property
    def holds(self) -> bool:
        return self.value >= self.limit if self.least else self.value <= self.limit

    def margin(self, value: float) -> float:
        """How far ``value`` is on the good side of the bar, in units of the bar (of 1 for a bar of 0)."""
        return (value - self.limit) / (abs(self.limit) or 1) * (1 if self.least else -1)


@dataclass(frozen=True)
class Entry:
    """One line of the ledger."""

    claim: dict[str, Any]
    verdict: str
    checked: list[Checked] = field(default_factory=list)


def load_claims(text: str | None = None) -> dict[str, Any]:
    """The claims, checked against ``schema.json``; ``ValueError`` names the entry that breaks it."""
    content = yaml.safe_load((FOLDER / "claims.yaml").read_text(encoding="utf-8") if text is None else text)
    schema = json.loads((FOLDER / "schema.json").read_text(encoding="utf-8"))
    error = best_match(Draft202012Validator(schema).iter_errors(content))
    if error is not None:
        place = ".".join(str(part) for part in error.absolute_path) or "the top level"
        raise ValueError(f"expected claims as in schema.json, got at {place}: {error.message}: correct that entry")
    names = [claim["id"] for claim in content["claims"]]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"expected every claim once, got {', '.join(twice)} twice: number them anew")
    return content


def read_ledger(claims: dict[str, Any] | None = None, folder: Path | None = None) -> list[Entry]:
    """Every claim with its verdict, from the results stored in ``folder``.

    Raises:
        ValueError: stored results belong to other weights than the shipped ones, or lack what a check names.
    """
    content = load_claims() if claims is None else claims
    few = training_seeds() < content["seeds_wanted"]
    return [judge_claim(claim, few, folder) for claim in content["claims"]]


def judge_claim(claim: dict[str, Any], few_seeds: bool, folder: Path | None = None) -> Entry:
    """The verdict on one claim; with too few training seeds, a preliminary one.

    All checks hold: reproduced. Some do, and with them every decisive one: in part. Otherwise: not reproduced.
    """
    if "proved_by" in claim:
        return Entry(claim, BY_DESIGN)
    if "needs" in claim:
        return Entry(claim, UNTESTED)
    folder = folder or results.RESULTS
    if any(not (folder / f"{check['results']}.json").is_file() for check in claim["checks"]):
        return Entry(claim, NOT_RUN)
    checked = [evaluate(check, folder) for check in claim["checks"]]
    held = sum(check.holds for check in checked)
    decided = all(done.holds for done, check in zip(checked, claim["checks"], strict=True) if check.get("decisive"))
    verdict = REPRODUCED if held == len(checked) else IN_PART if held and decided else NOT_REPRODUCED
    trained = any(check["results"] != "judges" for check in claim["checks"])
    return Entry(claim, f"{verdict}, one training seed" if few_seeds and trained else verdict, checked)


def evaluate(check: dict[str, Any], folder: Path | None = None) -> Checked:
    """Look a check's figure up and hold it against its bar."""
    found = stored(check["results"], folder or results.RESULTS)
    interval = None
    if "gate" in check:
        judge, frames = check["gate"].split(".")
        what, value = f"{judge.upper()} gate, {frames}", _find(found["gates"][judge], frames, check["results"])
    elif "pair" in check:
        gain = _find(found["gain"], check["pair"], check["results"])
        end = check.get("end")
        what, value = check["pair"] + (f", {end} end" if end else ""), gain[end or "mean"]
        interval = None if end else (gain["low"], gain["high"])
    else:
        row = _row(found, check["method"], check["metric"], check["results"])
        what, value, interval = f"{check['metric']} of {check['method']}", row["mean"], (row["low"], row["high"])
        if "over" in check or "over_metric" in check:
            method, metric = check.get("over", check["method"]), check.get("over_metric", check["metric"])
            under = _row(found, method, metric, check["results"])["mean"]
            what += f" / {metric if method == check['method'] else method}"
            value, interval = (value / under if under else float("inf") if value else float("nan")), None
    value = float("nan") if value is None else value  # a retention of no gain is none
    interval = None if interval and None in interval else interval
    least = "at_least" in check
    return Checked(what, value, interval, check["at_least" if least else "at_most"], least)


@lru_cache(maxsize=8)
def stored(name: str, folder: Path) -> dict[str, Any]:
    """Stored results, refused if they were measured with other weights than the shipped ones."""
    content = json.loads((folder / f"{name}.json").read_text())
    if "weights_sha256" in content:
        digest = shipped_digest(content["preset"])
        if content["weights_sha256"] != digest:
            raise ValueError(
                f"expected {name} for weights {digest[:12]}, got it for {content['weights_sha256'][:12]}: "
                "run its command again"
            )
    return content


@lru_cache(maxsize=2)
def shipped_digest(preset: str) -> str:
    """sha256 over the parameters of the shipped models of a preset."""
    return results.models_digest(results.load_models(get_preset(preset)))


def training_seeds(preset: str = "small") -> int:
    """How many seeds a preset's shipped weights were trained from: folders beside ``ours`` that are ours, too."""
    return len(list((MANIFESTS / "weights" / preset).glob("ours*/run.json")))


def _find(place: dict[str, Any], name: str, file: str) -> Any:
    if name not in place:
        raise ValueError(f"expected {name!r} in the results {file}, got {', '.join(place)}: run its command again")
    return place[name]


def _row(content: dict[str, Any], method: str, metric: str, name: str) -> dict[str, Any]:
    rows = {(row["method"], row["metric"]): row for row in content["rows"]}
    if (method, metric) not in rows:
        raise ValueError(f"expected {metric} of {method} in the results {name}, got none: run its command again")
    return rows[method, metric]


def ledger_table(entries: list[Entry]) -> str:
    """The ledger in Markdown: a claim a line."""
    lines = ["| | claim | original | ours | verdict |", "|---|---|---|---|---|"]
    for entry in entries:
        claim = entry.claim
        ours = "; ".join(describe(check) for check in entry.checked)
        ours = ours or (f"needs {claim['needs']}" if "needs" in claim else claim.get("proved_by", "–"))
        lines.append(f"| {claim['id']} | {claim['claim']} | {claim['original']} | {ours} | **{entry.verdict}** |")
    return "\n".join(lines)


def describe(check: Checked) -> str:
    """One check in words: what, its figure with the interval, its bar, and whether it holds."""
    interval = "" if check.interval is None else f" [{check.interval[0]:.2f}, {check.interval[1]:.2f}]"
    return f"{check.what} {check.value:.2f}{interval} ({check.bar}: {'yes' if check.holds else 'no'})"


def main() -> int:
    try:
        print(ledger_table(read_ledger()))
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
