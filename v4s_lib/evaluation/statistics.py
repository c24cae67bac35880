"""From one number an episode to a row of a table: mean, 95% interval, how many counted and how many failed (DESIGN §7).

Episodes of one scene are alike, so the bootstrap draws scenes, each with all of its episodes. The same seed draws the
same scenes for every method, and every interval is a function of its arguments alone.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean over episodes and the bootstrap interval of it; NaN where too few episodes are left to tell."""

    mean: float
    low: float
    high: float
    n: int  # episodes that counted: those whose value is not NaN

    def to_json(self) -> dict:
        """Plain values; ``None`` where a number is unknown, since JSON has no NaN."""
        return _known(asdict(self))


@dataclass(frozen=True)
class Row:
    """One row of the evaluation's JSON (DESIGN §8)."""

    method: str
    metric: str
    unit: str
    mean: float
    low: float
    high: float
    n: int
    failed: int  # frames judged as failures, which the mean counts, as not followed or as an unrelated path's error

    def to_json(self) -> dict:
        """Plain values; ``None`` where a number is unknown, since JSON has no NaN."""
        return _known(asdict(self))


def _known(values: dict) -> dict:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


def in_words(found: Interval | dict[str, Any], sign: str = "", digits: int = 2, unit: str = "") -> str:
    """A mean and, where it is known, its interval, as tables show them; ``sign`` "+" for differences."""
    known = _known(found if isinstance(found, dict) else asdict(found))
    mean, low, high = known["mean"], known["low"], known["high"]
    if mean is None:
        return "–"
    form = f"{sign}.{digits}f"
    return f"{mean:{form}}{unit}" + ("" if low is None else f" [{low:{form}}, {high:{form}}]")


def bootstrap(values: np.ndarray, scenes: np.ndarray, seed: int = 0) -> Interval:
    """Mean of ``values`` (E,), every episode counting alike, and its 95% interval over ``scenes`` (E,).

    NaN marks an episode without a value (an empty mask): it is counted out, and ``n`` says how many remain. A failure
    is not NaN; give it a value that counts against it. With fewer than two scenes the interval is unknown (NaN), not
    narrow. Where all episodes have one value the interval has no width, which is too narrow.
    """
    values, scenes = np.asarray(values, np.float64), np.asarray(scenes)
    if values.ndim != 1 or values.shape != scenes.shape:
        raise ValueError(f"expected a value and a scene an episode, got {values.shape} and {scenes.shape}: match them")
    if np.isinf(values).any():
        raise ValueError("expected finite values or NaN, got infinity: give the measure a ceiling")
    counted = ~np.isnan(values)
    values, (names, index) = values[counted], np.unique(scenes[counted], return_inverse=True)
    if len(names) == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    mean = float(values.mean())
    if len(names) < 2:
        return Interval(mean, math.nan, math.nan, len(values))
    low, high = _ends(_means(_draws(len(names), seed), values, index))
    return Interval(mean, float(low), float(high), len(values))


def paired_difference(first: np.ndarray, second: np.ndarray, scenes: np.ndarray, seed: int = 0) -> Interval:
    """Mean of ``first - second`` (E,) over the episodes that both methods have a value for, and its interval."""
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.shape != second.shape:
        raise ValueError(f"expected the same episodes of both, got {first.shape} and {second.shape}: align them")
    return bootstrap(first - second, scenes, seed)


def paired_ratio(first: np.ndarray, second: np.ndarray, scenes: np.ndarray, seed: int = 0) -> Interval:
    """``ratio_of_means`` over the episodes that have both values."""
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.shape != second.shape:
        raise ValueError(f"expected the same episodes of both, got {first.shape} and {second.shape}: align them")
    both = ~np.isnan(first + second)
    return ratio_of_means(np.where(both, first, math.nan), np.where(both, second, math.nan), scenes, seed)


def ratio_of_means(first: np.ndarray, second: np.ndarray, scenes: np.ndarray, seed: int = 0) -> Interval:
    """Mean of ``first`` over that of ``second`` (E,), each over the episodes that have it, and its interval.

    It is unknown (NaN) where the mean of ``second`` is not surely above zero.
    """
    first, second, scenes = np.asarray(first, np.float64), np.asarray(second, np.float64), np.asarray(scenes)
    if not first.shape == second.shape == scenes.shape:
        raise ValueError(f"expected the same episodes of both, got {first.shape} and {second.shape}: align them")
    counted = ~(np.isnan(first) & np.isnan(second))
    names, index = np.unique(scenes[counted], return_inverse=True)
    unknown = Interval(math.nan, math.nan, math.nan, int(counted.sum()))
    if len(names) < 2:
        return unknown
    drawn = np.concatenate([np.ones((1, len(names))), _draws(len(names), seed)])  # first what was measured
    with np.errstate(invalid="ignore", divide="ignore"):
        over, under = (_means(drawn, values[counted], index) for values in (first, second))
    if np.isnan(over + under).any() or under.min() <= 0:  # a share of what may be nothing is no number
        return unknown
    low, high = _ends((over / under)[1:])
    return Interval(float(over[0] / under[0]), float(low), float(high), unknown.n)


def _draws(scenes: int, seed: int) -> np.ndarray:
    """How often each of S scenes is in each of the bootstrap's draws (D, S)."""
    return np.random.default_rng(seed).multinomial(scenes, np.full(scenes, 1 / scenes), RESAMPLES)


def _ends(drawn: np.ndarray) -> np.ndarray:
    """Both ends of the interval over the draws' values (D,)."""
    return np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])


def _means(drawn: np.ndarray, values: np.ndarray, index: np.ndarray) -> np.ndarray:
    """The mean of ``values`` (E,) for each draw (D, S) of scenes; ``index`` (E,) tells whose they are; NaN of none."""
    known = ~np.isnan(values)
    return (drawn @ np.bincount(index, np.where(known, values, 0.0))) / (drawn @ np.bincount(index, known))


def make_row(
    method: str, metric: str, unit: str, values: np.ndarray, scenes: np.ndarray, failed: int = 0, seed: int = 0
) -> Row:
    """The row of one method and metric; arguments as ``bootstrap``."""
    interval = bootstrap(values, scenes, seed)
    return Row(method, metric, unit, interval.mean, interval.low, interval.high, interval.n, failed)
