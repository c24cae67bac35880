"""Ratios of two things that were measured in turns in one run: how a benchmark is timed, kept and shown.

A time alone says more of the machine than of the code, so no row has one without the other it is compared with.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Comparison:
    """A row of the table: our way to an end and another way, measured in pairs."""

    what: str
    ours: str
    other: str
    unit: str  # of both values: less is better, but for one "a second", which ends in "/s"
    pairs: list[tuple[float, float]]  # ours and the other's; none says that the other could not be measured
    ideal: float | None = None  # ratio that a count of operations promises

    def ratios(self) -> list[float]:
        """How many times better ours is, pair by pair; below 1 it loses."""
        if self.unit.endswith("/s"):
            return [ours / other for ours, other in self.pairs]
        return [other / ours for ours, other in self.pairs]


def seconds(call: Callable[[], object]) -> float:
    """How long a call takes."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def time_pairs(ours: Callable[[], object], other: Callable[[], object], count: int) -> list[tuple[float, float]]:
    """Seconds of both, ``count`` times, after one run of each that does not count.

    The order changes from pair to pair, so that neither always meets the warmer machine.
    """
    if count < 1:
        raise ValueError(f"expected one pair or more, got {count}: ask for 5")
    ours(), other()
    pairs = []
    for number in range(count):
        if number % 2:
            second, first = seconds(other), seconds(ours)
        else:
            first, second = seconds(ours), seconds(other)
        pairs.append((first, second))
    return pairs


def throughput(pairs: list[tuple[float, float]], ours: float, other: float) -> list[tuple[float, float]]:
    """Pairs of seconds as things a second, where one run makes ``ours`` and ``other`` of them."""
    return [(ours / first, other / second) for first, second in pairs]


def ratio_cell(row: Comparison) -> str:
    """Median ratio with its spread, and its share of the ideal where there is one."""
    if not row.pairs:
        return "not measured"
    ratios = row.ratios()
    middle = statistics.median(ratios)
    text = f"{middle:.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"
    return text if row.ideal is None else f"{text}, {middle / row.ideal:.0%} of the ideal {row.ideal:.2f}"


def ratio_line(row: Comparison, command: str) -> str:
    """A row of the table, in Markdown: both medians with their unit, the ratio, the command."""
    cells = [row.ours, row.other]
    if row.pairs:
        medians = (statistics.median(values) for values in zip(*row.pairs, strict=True))
        cells = [f"{name}: {value:.3g} {row.unit}" for name, value in zip(cells, medians, strict=True)]
    return f"| {row.what} | {cells[0]} | {cells[1]} | {ratio_cell(row)} | `{command}` |"


def ratio_table(results: dict[str, Any]) -> str:
    """The table of all stored benchmarks, in Markdown.

    Args:
        results: a benchmark's name to its ``command``, its ``threads`` and its ``rows``, each a Comparison as a dict.
    """
    lines = [
        "| what | ours | other | times better (below 1 ours loses): median [least, most] | command |",
        "|---|---|---|---|---|",
    ]
    for benchmark in results.values():
        lines += [ratio_line(Comparison(**row), benchmark["command"]) for row in benchmark["rows"]]
    return "\n".join(lines)
