"""Ratios with known answers, and the table that they make."""

import time

import pytest

from v4s_lib.evaluation.ratios import Comparison, ratio_cell, ratio_table, throughput, time_pairs

TIMES = Comparison("sampling", "cached", "uncached", "s", [(1.0, 2.0), (2.0, 3.0), (1.0, 4.0)], ideal=4.0)


def test_a_ratio_above_one_says_that_ours_is_better():
    assert TIMES.ratios() == [2.0, 1.5, 4.0]
    rates = Comparison("training", "ours", "theirs", "latents/s", throughput([(1.0, 2.0)], ours=6, other=4))
    assert rates.pairs == [(6.0, 2.0)]
    assert rates.ratios() == [3.0]


def test_a_cell_holds_median_spread_and_share_of_the_ideal():
    assert ratio_cell(TIMES) == "2.00 [1.50, 4.00], 50% of the ideal 4.00"
    assert ratio_cell(Comparison("reading", "ours", "theirs", "s", [(2.0, 1.0)])) == "0.50 [0.50, 0.50]"


def test_the_table_has_rows_that_lose_and_rows_without_figures():
    rows = [
        {"what": "reading", "ours": "exact", "other": "quick", "unit": "s", "pairs": [[2.0, 1.0], [4.0, 1.0]]},
        {"what": "reading", "ours": "exact", "other": "absent", "unit": "s", "pairs": [], "ideal": None},
    ]
    assert ratio_table({"a": {"command": "run a", "threads": 1, "rows": rows}}) == (
        "| what | ours | other | times better (below 1 ours loses): median [least, most] | command |\n"
        "|---|---|---|---|---|\n"
        "| reading | exact: 3 s | quick: 1 s | 0.38 [0.25, 0.50] | `run a` |\n"
        "| reading | exact | absent | not measured | `run a` |"
    )


def test_pairs_alternate_after_one_run_of_each():
    calls = []
    pairs = time_pairs(lambda: calls.append("ours"), lambda: calls.append("other"), 3)
    assert calls == ["ours", "other"] * 2 + ["other", "ours"] + ["ours", "other"]
    assert len(pairs) == 3


def test_each_value_of_a_pair_is_of_its_own_call():
    for ours, other in time_pairs(lambda: time.sleep(0.001), lambda: time.sleep(0.2), 2):
        assert 0.001 <= ours < 0.2 <= other


def test_no_pairs_are_refused():
    with pytest.raises(ValueError, match="^expected one pair or more, got 0: ask for 5"):
        time_pairs(list, list, 0)
