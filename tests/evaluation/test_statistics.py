import json
import math

import numpy as np
import pytest

from v4s_lib.evaluation.statistics import (
    Interval,
    bootstrap,
    in_words,
    make_row,
    paired_difference,
    paired_ratio,
    ratio_of_means,
)

SCENES = np.repeat(np.arange(40), 3)


def draw(seed, spread_scene=1.0, spread_episode=0.1):
    rng = np.random.default_rng(seed)
    return 10 + spread_scene * rng.normal(size=40)[SCENES] + spread_episode * rng.normal(size=len(SCENES))


def test_interval_of_independent_values_is_the_textbook_one():
    values = np.random.default_rng(0).normal(size=400)
    interval = bootstrap(values, np.arange(400))
    half = 1.96 * values.std() / 20
    assert interval.mean == pytest.approx(values.mean())
    assert interval.high - interval.mean == pytest.approx(half, rel=0.15)
    assert interval.mean - interval.low == pytest.approx(half, rel=0.15)
    assert interval.n == 400


def test_episodes_of_one_scene_are_drawn_together():
    """Three near-copies of a scene's value are one piece of evidence: by episodes the interval would be √3 narrower."""
    values = draw(1)
    by_scene, by_episode = bootstrap(values, SCENES), bootstrap(values, np.arange(len(values)))
    assert (by_scene.high - by_scene.low) / (by_episode.high - by_episode.low) == pytest.approx(math.sqrt(3), rel=0.15)


def test_intervals_hold_the_truth_as_often_as_they_say():
    hits = [i.low < 10 < i.high for i in (bootstrap(draw(seed), SCENES, seed) for seed in range(200))]
    assert 0.90 <= np.mean(hits) <= 0.985


def test_every_episode_counts_alike_in_scenes_of_unequal_size():
    """A seen defect: the mean of group means gives the episode of a small group (a short last batch) more weight."""
    interval = bootstrap([1.0, 1, 1, 1, 6], [0, 0, 0, 0, 1])
    assert interval.mean == 2.0


def test_order_and_seed():
    values = draw(2)
    order = np.random.default_rng(0).permutation(len(values))
    first, again = bootstrap(values, SCENES, 5), bootstrap(values[order], SCENES[order], 5)
    assert first.low == pytest.approx(again.low) and first.high == pytest.approx(again.high)
    assert first == bootstrap(values, SCENES, 5)
    assert first.low != bootstrap(values, SCENES, 6).low


def test_episodes_without_a_value_are_counted_out_openly():
    values = draw(3)
    values[:5] = math.nan
    interval = bootstrap(values, SCENES)
    assert interval.n == len(values) - 5
    assert interval.mean == pytest.approx(np.nanmean(values))


def test_one_scene_gives_no_interval_and_none_gives_null():
    alone = bootstrap([1.0, 2.0], [7, 7])
    assert alone.mean == 1.5 and math.isnan(alone.low) and math.isnan(alone.high)
    empty = make_row("ours", "psnr_unseen", "dB", np.full(3, math.nan), np.arange(3)).to_json()
    assert empty["mean"] is None and empty["n"] == 0
    json.dumps(empty, allow_nan=False)


@pytest.mark.parametrize(
    ("found", "options", "words"),
    [
        (Interval(1.234, 1.0, 1.5, 4), {}, "1.23 [1.00, 1.50]"),
        ({"mean": 0.5, "low": -0.25, "high": 1.0}, {"sign": "+", "unit": " dB"}, "+0.50 dB [-0.25, +1.00]"),
        ({"mean": 27.25, "low": 26.76, "high": 27.72}, {"digits": 1}, "27.2 [26.8, 27.7]"),
        (Interval(2.0, math.nan, math.nan, 1), {}, "2.00"),
        ({"mean": None, "low": None, "high": None}, {"sign": "+"}, "–"),
    ],
)
def test_a_mean_in_words(found, options, words):
    assert in_words(found, **options) == words


def test_pairing_removes_what_scenes_share():
    """Methods that differ by 0.5 in every episode differ surely, though each one's own interval is wide."""
    values = draw(4)
    difference = paired_difference(values + 0.5, values, SCENES)
    assert difference.mean == pytest.approx(0.5)
    assert difference.low == pytest.approx(0.5) and difference.high == pytest.approx(0.5)
    holes = values.copy()
    holes[0] = math.nan
    assert paired_difference(holes, values, SCENES).n == len(values) - 1


def test_failures_stay_in_the_mean():
    """A seen defect: clips whose camera was not found left out. Here they count, at the ceiling, and are reported."""
    rotation = np.array([2.0, 2.0, 2.0, 90.0])
    row = make_row("ours", "rotation_error", "degrees", rotation, np.arange(4), failed=1)
    assert (row.mean, row.n, row.failed) == (24.0, 4, 1)
    assert list(row.to_json()) == ["method", "metric", "unit", "mean", "low", "high", "n", "failed"]


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="a value and a scene"):
        bootstrap(np.ones(3), np.ones(4))
    with pytest.raises(ValueError, match="infinity"):
        bootstrap([1.0, math.inf], [0, 1])
    with pytest.raises(ValueError, match="same episodes"):
        paired_difference(np.ones(3), np.ones(2), np.arange(3))


def test_a_ratio_is_one_of_means_and_its_interval_is_over_scenes():
    """Means 3 and 2, whatever the order; an episode without a value in one of them counts in neither."""
    first, second = np.array([2.0, 4.0, np.nan, 3.0]), np.array([1.0, 3.0, 9.0, 2.0])
    ratio = paired_ratio(first, second, np.arange(4))
    assert ratio.mean == pytest.approx(1.5) and ratio.n == 3
    assert 4 / 3 <= ratio.low < 1.5 < ratio.high <= 2
    assert math.isnan(paired_ratio(first[:1], second[:1], np.arange(1)).mean)
    assert math.isnan(paired_ratio(-first, -second, np.arange(4)).mean)  # a share of a loss is none of a gain
    with pytest.raises(ValueError, match="expected the same episodes"):
        paired_ratio(first, second[:2], np.arange(4))


def test_a_ratio_of_means_may_be_of_episodes_that_have_one_value_each():
    first, second = np.array([2.0, 4.0, np.nan, np.nan]), np.array([np.nan, np.nan, 1.0, 3.0])
    ratio = ratio_of_means(np.tile(first, 8), np.tile(second, 8), np.arange(32))
    assert ratio.mean == pytest.approx(1.5) and ratio.n == 32
    assert 0.9 < ratio.low < 1.5 < ratio.high < 2.5
    assert math.isnan(ratio_of_means(first, second, np.arange(4)).mean)  # a draw of four may hold none of the second
