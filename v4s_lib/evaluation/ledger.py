"""``python -m v4s_lib.evaluation.ledger``: each claim, the original's figure, ours, and a verdict.

``data_manifests/ledger/claims.yaml`` says of every claim what is measured and what would count as reproduced, before
the experiment is run. Figures come from the stored results that count, see ``evidence``. A verdict is computed, never
written, but for a claim that tests prove (``proved_by``). A check holds if it does for every seed.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from v4s_lib.evaluation import results
from v4s_lib.evaluation.claims import load_claims, ratio_name, sides
from v4s_lib.evaluation.evidence import check_command, is_earlier, stored
from v4s_lib.evaluation.judges import gate_interval
from v4s_lib.evaluation.statistics import in_words

REPRODUCED, IN_PART, NOT_REPRODUCED = "reproduced", "reproduced in part", "not reproduced"
EARLIER = ", of earlier weights"  # added to a verdict
NOT_RUN, UNTESTED, BY_DESIGN = "not run yet", "not testable at this scale", "reproduced, by design"

# Which notebook draws results, by the beginning of their name; the first that fits.
SHOWN = {
    "navigation": "05",
    "grounding": "06",
    "judges": "06",
    "arms": "07",
    "experiments/guidance": "02",
    "experiments/grounding_guidance": "02",
    "experiments/context": "08",
    "experiments/grounding_context": "08",
    "experiments/long_scan": "08",
    "experiments": "09",
}


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
        """How far ``value`` is on the good side of the bar, in units of the bar (of 1 for a bar of 0); -inf of none."""
        if math.isnan(value):
            return -math.inf
        return (value - self.limit) / (abs(self.limit) or 1) * (1 if self.least else -1)


@dataclass(frozen=True)
class Check:
    """A check on every training seed that has results, the shipped weights first."""

    seeds: list[Checked]
    decisive: bool
    trainings: int | None  # how many trainings stand behind it; None where no training does
    earlier: bool = False  # whether its figure is of weights that shipped before

    @property
    def holds(self) -> bool:
        return all(checked.holds for checked in self.seeds)

    @property
    def margin(self) -> float:
        """How far the worst seed's figure is on the good side of the bar."""
        return min(checked.margin(checked.value) for checked in self.seeds)


@dataclass(frozen=True)
class Entry:
    """One line of the ledger."""

    claim: dict[str, Any]
    verdict: str
    checks: list[Check] = field(default_factory=list)

    @property
    def worst(self) -> Check | None:
        """The check that misses its bar most, of decisive ones if one does; None if all hold."""
        missed = [check for check in self.checks if not check.holds]
        return min(missed, key=lambda check: (not check.decisive, check.margin), default=None)


def read_ledger(claims: dict[str, Any] | None = None, folder: Path | None = None) -> list[Entry]:
    """Every claim with its verdict, from the results stored in ``folder``.

    Raises:
        ValueError: stored results belong to other weights than the shipped ones, or lack what a check names.
    """
    content = load_claims() if claims is None else claims
    return [judge_claim(claim, content["seeds_wanted"], folder) for claim in content["claims"]]


def judge_claim(claim: dict[str, Any], seeds_wanted: int, folder: Path | None = None) -> Entry:
    """The verdict on one claim; with too few training seeds behind any of its checks, a preliminary one.

    All checks hold: reproduced, or in part where there is something of the claim that none asks for (``not_asked``).
    Some do, and with them every decisive one: in part. Otherwise: not reproduced. Where what the claim presupposes
    (``only_if``) does not hold, nothing is compared.
    """
    if "proved_by" in claim:
        return Entry(claim, BY_DESIGN)
    folder = folder or results.RESULTS
    if "only_if" in claim:
        if not _file(claim["only_if"], folder).is_file():
            return Entry(claim, NOT_RUN)
        check_made(claim, [claim["only_if"]], folder)
        presupposed = on_every_seed(claim["only_if"], folder)
        if not presupposed.holds:
            return Entry(claim, UNTESTED, [presupposed])
    if any(not _file(check, folder).is_file() for check in claim["checks"]):
        return Entry(claim, NOT_RUN)
    check_made(claim, claim["checks"], folder)
    checks = [on_every_seed(check, folder) for check in claim["checks"]]
    held = sum(check.holds for check in checks)
    decided = all(check.holds for check in checks if check.decisive)
    whole = held == len(checks) and "not_asked" not in claim
    verdict = REPRODUCED if whole else IN_PART if held and decided else NOT_REPRODUCED
    trainings = [check.trainings for check in checks if check.trainings is not None]
    if trainings and min(trainings) < seeds_wanted:
        verdict += ", one training seed" if min(trainings) == 1 else f", {min(trainings)} training seeds"
    if any(check.earlier for check in checks):
        verdict += EARLIER
    return Entry(claim, verdict, checks)


def on_every_seed(check: dict[str, Any], folder: Path | None = None) -> Check:
    """A check on the shipped weights and on every other training seed whose results are stored."""
    folder = folder or results.RESULTS
    places = _places(check, folder)
    found = stored(check["results"], folder)
    named = [row["mean"] for row in found.get("rows", []) if row["metric"] == "training_seeds"]
    untrained = "gate" in check or check.get("method") == "ground_truth"
    trainings = None if untrained else int(named[0]) if named else len(places)
    seeds = [checked for place in places for checked in evaluate_seeds(check, place)]
    return Check(seeds, check.get("decisive", False), trainings, is_earlier(found))


def check_made(claim: dict[str, Any], checks: list[dict[str, Any]], folder: Path) -> None:
    """``ValueError`` where results that checks look at are not what the claim's command makes."""
    for check in checks:
        for place in _places(check, folder):
            check_command(stored(check["results"], place), check["results"], claim["command"])


def _places(check: dict[str, Any], folder: Path) -> list[Path]:
    """The folder, and those of other training seeds, where they have what the check looks at."""
    return [place for place in (folder, *sorted(folder.glob("seed*"))) if _file(check, place).is_file()]


def _file(check: dict[str, Any], folder: Path) -> Path:
    return folder / f"{check['results']}.json"


def evaluate_seeds(check: dict[str, Any], folder: Path | None = None) -> list[Checked]:
    """``evaluate``, for each training seed of an arm by itself where the results tell those differences apart."""
    found = stored(check["results"], folder or results.RESULTS)
    kept = _ratio(found, check) if sides(check) else found.get("gain", {}).get(check.get("pair"), {})
    return [evaluate(check, folder, seed) for seed in range(len(kept.get("by_seed", [])))] or [evaluate(check, folder)]


def evaluate(check: dict[str, Any], folder: Path | None = None, seed: int | None = None) -> Checked:
    """Look a check's figure up, of all training seeds or of the arm's ``seed``-th, and hold it against its bar."""
    found = stored(check["results"], folder or results.RESULTS)
    interval = None
    if "gate" in check:
        judge, frames = check["gate"].split(".")
        what, value = f"{judge.upper()} gate, {frames}", _find(found["gates"][judge], frames, check["results"])
        interval = gate_interval(found, judge, frames)
    elif "pair" in check:
        gain = _find(found["gain"], check["pair"], check["results"])
        gain = gain if seed is None else gain["by_seed"][seed]
        end = check.get("end")
        clips = f" of {found.get('measure') or found['experiment']}" if {"measure", "experiment"} & found.keys() else ""
        what, value = check["pair"] + clips + (f", {end} end" if end else ""), gain[end or "mean"]
        interval = gain["low"], gain["high"]
    else:
        what, row = f"{check['metric']} of {check['method']}", results.find_row(found, check["method"], check["metric"])
        if pair := sides(check):
            what, row = ratio_name(*pair), _ratio(found, check)
            row = row if seed is None else row["by_seed"][seed]
        value, interval = row["mean"], (row["low"], row["high"])
    value = math.nan if value is None else value  # unknown, which misses any bar: a retention of no gain is none
    interval = None if interval and None in interval else interval
    least = "at_least" in check
    return Checked(what, value, interval, check["at_least" if least else "at_most"], least)


def _ratio(found: dict[str, Any], check: dict[str, Any]) -> dict[str, Any]:
    """The ratio that a check asks for as it is stored; of results that store none, that of the means."""
    one, other = sides(check)
    if (name := ratio_name(one, other)) in found.get("ratio", {}):
        return found["ratio"][name]
    over, under = (results.find_row(found, *side)["mean"] for side in (one, other))
    known = over is not None and under is not None and under > 0
    return {"mean": over / under if known else None, "low": None, "high": None}


def _find(place: dict[str, Any], name: str, file: str) -> Any:
    if name not in place:
        raise ValueError(f"expected {name!r} in the results {file}, got {', '.join(place)}: run its command again")
    return place[name]


def ledger_table(entries: list[Entry]) -> str:
    """The ledger in Markdown: a claim a line, with all its checks, source, bars and the command that measures it."""

    def ours(entry: Entry) -> str:
        checks = "; ".join(describe(check) for check in entry.checks)
        takes = f"; it takes {entry.claim['takes']}" if entry.checks and entry.verdict == UNTESTED else ""
        return (checks or entry.claim.get("proved_by", "–")) + takes

    def command(entry: Entry) -> str:
        lines = entry.claim.get("command", "").split("; ")
        return " and ".join(f"`{line}`" for line in lines if line) or "–"

    def shown(entry: Entry) -> str:
        names = [check["results"] for check in entry.claim.get("checks", [])]
        drawn = [next((SHOWN[start] for start in SHOWN if name.startswith(start)), None) for name in names]
        return f"notebook {', '.join(sorted({number for number in drawn if number}))}" if any(drawn) else "–"

    def source(entry: Entry) -> str:
        return entry.claim["source"]

    def bars(entry: Entry) -> str:
        return entry.claim["reproduced_when"]

    return _table(entries, ours, {"source": source, "counts when": bars, "drawn in": shown, "command": command})


def brief_table(entries: list[Entry]) -> str:
    """The verdicts in Markdown: a claim a line, with the figure that misses its bar most, or its first one."""

    def ours(entry: Entry) -> str:
        shown = entry.worst or (entry.checks[0] if entry.checks else None)
        return f"{shown.seeds[0].what}: {_figures(shown)} ({shown.seeds[0].bar})" if shown else "–"

    return _table(entries, ours, {})


def _table(entries: list[Entry], ours: Callable[[Entry], str], more: dict[str, Callable[[Entry], str]]) -> str:
    """A claim a line, with what ``ours`` says of its figures, what of it was not asked, and ``more`` columns."""
    heads = ["", "claim", "original", "ours", "verdict", *more]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for entry in entries:
        claim = entry.claim
        lacking = f"; not asked: {claim['not_asked']}" if "not_asked" in claim else ""
        cells = [claim["id"], claim["claim"], claim["original"], ours(entry) + lacking, f"**{entry.verdict}**"]
        lines.append(f"| {' | '.join([*cells, *(tell(entry) for tell in more.values())])} |")
    return "\n".join(lines)


def describe(check: Check) -> str:
    """One check in words: what, its figure with the interval on each seed, its bar, and whether it holds."""
    first = check.seeds[0]
    return f"{first.what} {_figures(check)} ({first.bar}: {'yes' if check.holds else 'no'})"


def _figures(check: Check) -> str:
    return " and ".join(_figure(checked) for checked in check.seeds)


def _figure(checked: Checked) -> str:
    low, high = checked.interval or (None, None)
    near = checked.value != checked.limit and round(checked.value, 2) == round(checked.limit, 2)
    digits = 4 if near else 2  # rounding must not hide on which side of the bar it is
    return in_words({"mean": checked.value, "low": low, "high": high}, digits=digits)


def main() -> int:
    try:
        print(ledger_table(read_ledger()))
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
