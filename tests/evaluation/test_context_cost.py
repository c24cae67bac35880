"""What a context costs: known bytes, every length, provenance."""

import json

import numpy as np

from v4s_lib.evaluation import context_cost
from v4s_lib.evaluation.context_cost import LENGTHS, METRICS, main, measure, turn_ratio
from v4s_lib.evaluation.statistics import Interval
from v4s_lib.training.presets import SMOKE
from v4s_lib.training.weights import load_pipeline


def test_memory_grows_with_the_context_and_every_length_is_timed(monkeypatch):
    monkeypatch.setattr(context_cost, "REPEATS", 2)
    measured, ratios = measure(load_pipeline(SMOKE), SMOKE, (2, 20))
    rows = {(row["method"], row["metric"]): row for row in measured}
    assert ratios == {}  # claims ask of small alone
    assert {metric for _, metric in rows} == set(METRICS) and len(rows) == 6
    assert rows["20 latents", "peak_memory"]["mean"] > 3 * rows["2 latents", "peak_memory"]["mean"]
    for count, frames in ((2, 5), (20, 77)):
        whole, each = (rows[f"{count} latents", metric] for metric in METRICS[:2])
        assert 0 < whole["low"] <= whole["mean"] <= whole["high"] and whole["n"] == 2
        assert abs(each["mean"] * frames - whole["mean"]) < 1e-9


def test_a_ratio_is_of_what_was_measured_in_one_turn():
    """Twice as long in every turn, however long the turns were."""
    first = np.array([2.0, 20.0, 4.0])
    assert turn_ratio(first, np.array([1.0, 10.0, 2.0]), np.arange(3)) == Interval(2.0, 2.0, 2.0, 3)
    assert turn_ratio(first, np.array([1.0, 40.0, 1.0]), np.arange(3)) == Interval(2.0, 0.5, 4.0, 3)


def test_the_command_stores_rows_for_the_ledger(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(context_cost, "REPEATS", 1)
    assert main(["--preset", "smoke", "--out", str(tmp_path / "cost.json")]) == 0
    results = json.loads((tmp_path / "cost.json").read_text())
    assert results["preset"] == "smoke" and len(results["weights_sha256"]) == 64
    assert {row["method"] for row in results["rows"]} == {f"{count} latents" for count in LENGTHS}
    assert "| 100 latents |" in capsys.readouterr().out
    assert main(["--preset", "huge"]) == 2
