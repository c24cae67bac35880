"""Known verdicts from known results, and results and claims that are refused."""

import json
import math

import numpy as np
import pytest

from v4s_lib.evaluation import evidence
from v4s_lib.evaluation.claims import FOLDER, asked_ratios, load_claims
from v4s_lib.evaluation.judges import gate_interval
from v4s_lib.evaluation.ledger import (
    IN_PART,
    NOT_REPRODUCED,
    NOT_RUN,
    REPRODUCED,
    UNTESTED,
    Check,
    Checked,
    Entry,
    brief_table,
    describe,
    evaluate,
    judge_claim,
    ledger_table,
    on_every_seed,
    read_ledger,
)

CLAIM = {
    "id": "X1",
    "claim": "it works",
    "source": "nowhere",
    "original": "1",
    "measures": "something",
    "reproduced_when": "it is large",
}


@pytest.fixture
def folder(tmp_path):
    """Results that name no weights, with one row, one difference and one gate."""
    rows = [
        {"method": "ours", "metric": "score", "unit": "1", "mean": 0.6, "low": 0.5, "high": 0.7},
        {"method": "none", "metric": "score", "unit": "1", "mean": 0.2, "low": 0.1, "high": 0.3},
    ]
    results = {
        "commit": "one",
        "rows": rows,
        "gain": {"ours - none": {"mean": 0.4, "low": 0.3, "high": 0.5}},
        "gates": {"sd": {"other room": 0.97}},
    }
    (tmp_path / "some.json").write_text(json.dumps(results))
    return tmp_path


def check(**fields: object) -> dict:
    return {"results": "some", **fields}


@pytest.mark.parametrize(
    ("fields", "value", "holds"),
    [
        ({"method": "ours", "metric": "score", "at_least": 0.6}, 0.6, True),
        ({"method": "ours", "metric": "score", "at_most": 0.5}, 0.6, False),
        ({"method": "none", "metric": "score", "over": "ours", "at_most": 0.5}, 1 / 3, True),
        ({"method": "ours", "metric": "score", "over_metric": "score", "at_least": 1.5}, 1.0, False),
        ({"pair": "ours - none", "at_least": 0.35}, 0.4, True),
        ({"pair": "ours - none", "end": "low", "at_least": 0.35}, 0.3, False),
        ({"gate": "sd.other room", "at_least": 0.95}, 0.97, True),
    ],
)
def test_a_check_is_its_figure_against_its_bar(folder, fields, value, holds):
    checked = evaluate(check(**fields), folder)
    assert checked.value == pytest.approx(value) and checked.holds is holds
    words = describe(on_every_seed(check(**fields), folder))
    assert f"{value:.2f}" in words and ("yes" if holds else "no") in words


def test_a_ratio_has_its_interval_where_it_is_stored(folder):
    asked = check(method="none", metric="score", over="ours", at_most=0.5)
    assert evaluate(asked, folder).interval is None
    results = json.loads((folder / "some.json").read_text())
    results["ratio"] = {"score of none / ours": {"mean": 0.34, "low": 0.2, "high": 0.4}}
    (folder / "other.json").write_text(json.dumps(results))
    found = evaluate({**asked, "results": "other"}, folder)
    assert (found.what, found.value, found.interval) == ("score of none / ours", 0.34, (0.2, 0.4))


def test_ratios_that_claims_ask_for_are_stored_with_the_results():
    """C8 asks for the accuracy of 25 latents over that of 3; what results lack is left out."""
    arms = {"25 latents": [1.0, 0.5, 1.0], "3 latents": [0.5, 0.25, 0.5], "12 latents": [1.0, 1.0, 1.0]}
    found = asked_ratios("experiments/context", lambda method, _: np.array(arms[method]), np.arange(3))
    assert found == {"navigation_accuracy of 25 latents / 3 latents": {"mean": 2.0, "low": 2.0, "high": 2.0, "n": 3}}
    assert asked_ratios("navigation_small", lambda *_: None, np.arange(3)) == {}


def test_a_verdict_counts_the_checks_that_hold(folder):
    held = check(method="ours", metric="score", at_least=0.1)
    missed = check(method="ours", metric="score", at_least=0.9)
    for checks, verdict in (([held], REPRODUCED), ([held, missed], IN_PART), ([missed], NOT_REPRODUCED)):
        claim = {**CLAIM, "checks": checks, "command": "x"}
        assert judge_claim(claim, 1, folder).verdict == verdict
        assert judge_claim(claim, 2, folder).verdict == f"{verdict}, one training seed"
    gate = {**CLAIM, "checks": [check(gate="sd.other room", at_least=0.95)], "command": "x"}
    assert judge_claim(gate, 2, folder).verdict == REPRODUCED  # no training stands behind it


def test_results_of_weights_that_shipped_before_count_and_say_so(folder, monkeypatch):
    monkeypatch.setattr(evidence, "shipped_digests", lambda preset, task: {"weights_sha256": "now"})
    monkeypatch.setattr(evidence, "earlier_weights", lambda: frozenset(["before"]))
    claim = {**CLAIM, "checks": [check(method="ours", metric="score", at_least=0.1)], "command": "x"}
    results = json.loads((folder / "some.json").read_text()) | {"commit": "one", "preset": "small"}
    for digest, verdict in (("now", REPRODUCED), ("before", f"{REPRODUCED}, one training seed, of earlier weights")):
        other = folder / digest  # results are read once
        other.mkdir()
        (other / "some.json").write_text(json.dumps(results | {"weights_sha256": digest}))
        assert judge_claim(claim, 1 + (digest == "before"), other).verdict == verdict
    (folder / "some.json").write_text(json.dumps(results | {"weights_sha256": "never"}))
    with pytest.raises(ValueError, match="^expected some for weights now, got it for never: run its command again"):
        judge_claim(claim, 1, folder)


def second_seed(folder, score: float) -> None:
    """Results of another training seed beside those of the shipped weights."""
    results = json.loads((folder / "some.json").read_text())
    del results["gates"]
    (folder / "some.json").write_text(json.dumps(results))
    results["rows"][0]["mean"] = score
    (folder / "seed2").mkdir()
    (folder / "seed2/some.json").write_text(json.dumps(results))


def test_another_seed_must_be_made_by_the_command_too(folder):
    claim = {**CLAIM, "checks": [check(method="ours", metric="score", at_least=0.5)], "command": "x --episodes 8"}
    second_seed(folder, 0.55)
    judge_claim(claim, 2, folder)
    place = folder / "seed3"
    place.mkdir()
    (place / "some.json").write_text(json.dumps(json.loads((folder / "some.json").read_text()) | {"episodes": 4}))
    with pytest.raises(ValueError, match="^expected some as made by 'x --episodes 8', got it of .*: run the command"):
        judge_claim(claim, 2, folder)


def test_a_check_holds_if_it_does_on_every_seed(folder):
    claim = {**CLAIM, "checks": [check(method="ours", metric="score", at_least=0.5)], "command": "x"}
    second_seed(folder, 0.55)
    entry = judge_claim(claim, 2, folder)
    assert entry.verdict == REPRODUCED
    assert describe(entry.checks[0]) == "score of ours 0.60 [0.50, 0.70] and 0.55 [0.50, 0.70] (≥ 0.5: yes)"
    assert entry.checks[0].margin == pytest.approx(0.1)
    assert judge_claim(claim, 3, folder).verdict == f"{REPRODUCED}, 2 training seeds"


def test_a_figure_just_below_its_bar_is_not_rounded_onto_it():
    entry = Check([Checked("score of ours", 0.497, None, 0.5, True)], True, 1)
    assert describe(entry) == "score of ours 0.4970 (≥ 0.5: no)"
    entry = Check([Checked("gain", -0.0019, (-0.0151, -0.0019), 0.0, True)], True, 1)
    assert describe(entry) == "gain -0.0019 [-0.0151, -0.0019] (≥ 0: no)"
    assert describe(Check([Checked("gain", math.nan, None, 0.0, True)], True, 1)) == "gain – (≥ 0: no)"


def test_a_seed_that_misses_is_a_miss(folder):
    claim = {**CLAIM, "checks": [check(method="ours", metric="score", at_least=0.5)], "command": "x"}
    second_seed(folder, 0.45)
    entry = judge_claim(claim, 2, folder)
    assert entry.verdict == NOT_REPRODUCED and describe(entry.checks[0]).endswith("(≥ 0.5: no)")


def test_results_may_say_how_many_trainings_they_hold(folder):
    second_seed(folder, 0.6)
    results = json.loads((folder / "some.json").read_text())
    results["rows"].append({"method": "ours", "metric": "training_seeds", "mean": 5.0, "low": None, "high": None})
    (folder / "some.json").write_text(json.dumps(results))
    assert on_every_seed(check(method="ours", metric="score", at_least=0), folder).trainings == 5


def test_no_training_stands_behind_the_ground_truth(folder):
    results = json.loads((folder / "some.json").read_text())
    results["rows"].append({"method": "ground_truth", "metric": "score", "mean": 1.0, "low": 0.9, "high": 1.0})
    (folder / "some.json").write_text(json.dumps(results))
    claim = {**CLAIM, "checks": [check(method="ground_truth", metric="score", at_least=0.9)], "command": "x"}
    assert judge_claim(claim, 2, folder).verdict == REPRODUCED


def test_a_seed_without_a_training_on_record_is_refused(folder):
    wrong = {"preset": "small", "commit": "one", "weights_sha256": "0" * 64, "rows": [], "gain": {}}
    (folder / "seed77").mkdir()
    (folder / "seed77/some.json").write_text(json.dumps(wrong))
    with pytest.raises(ValueError, match="^expected the training of seed77 in .*/seed77/run.json, got no file"):
        on_every_seed(check(method="ours", metric="score", at_least=0), folder)


def test_a_decisive_check_that_fails_decides(folder):
    held = check(method="ours", metric="score", at_least=0.1)
    missed = check(method="ours", metric="score", at_least=0.9, decisive=True)
    claim = {**CLAIM, "checks": [held, missed], "command": "x"}
    assert judge_claim(claim, 1, folder).verdict == NOT_REPRODUCED


def test_a_claim_of_which_something_was_not_asked_is_reproduced_in_part_at_most(folder):
    held = check(method="ours", metric="score", at_least=0.1, decisive=True)
    missed = check(method="ours", metric="score", at_least=0.9, decisive=True)
    for checks, verdict in (([held], IN_PART), ([held, missed], NOT_REPRODUCED)):
        entry = judge_claim({**CLAIM, "checks": checks, "command": "x", "not_asked": "a park"}, 1, folder)
        assert entry.verdict == verdict
        assert all("; not asked: a park | **" in table([entry]) for table in (ledger_table, brief_table))


def test_what_was_not_run_has_no_verdict(folder):
    claim = {**CLAIM, "checks": [{"results": "later", "pair": "a - b", "at_least": 1}], "command": "x"}
    assert judge_claim(claim, 1, folder).verdict == NOT_RUN


def test_nothing_is_compared_where_what_it_presupposes_does_not_hold(folder):
    """The figure that lacks is shown, and what it would take; where it holds, the checks decide."""
    checks = {"checks": [check(pair="ours - none", at_least=0.1)], "command": "x", "takes": "a week"}
    short, far = ({"only_if": check(method="none", metric="score", at_least=bar)} for bar in (0.1, 0.3))
    assert judge_claim(CLAIM | checks | short, 1, folder).verdict == REPRODUCED
    entry = judge_claim(CLAIM | checks | far, 1, folder)
    assert entry.verdict == UNTESTED
    assert (
        "score of none 0.20 [0.10, 0.30] (≥ 0.3: no); it takes a week | **not testable at this scale"
        in ledger_table([entry])
    )
    later = {"only_if": {"results": "later", "pair": "a - b", "at_least": 1}}
    assert judge_claim(CLAIM | checks | later, 1, folder).verdict == NOT_RUN


def test_nothing_over_nothing_holds_no_bar(folder):
    results = json.loads((folder / "some.json").read_text())
    for row in results["rows"]:
        row["mean"] = 0.0
    results["gain"]["ours - none"]["mean"] = None  # a number that is not there
    (folder / "zero.json").write_text(json.dumps(results))
    fields = {"results": "zero", "method": "none", "metric": "score", "over": "ours"}
    assert not evaluate({**fields, "at_most": 0.5}, folder).holds
    assert not evaluate({**fields, "at_least": 0.5}, folder).holds
    assert not evaluate({"results": "zero", "pair": "ours - none", "at_least": -9.0}, folder).holds


def test_a_ratio_over_what_may_be_nothing_is_unknown(folder):
    """As ``ratio_of_means`` stores it; so is one over a figure that is not there, or is no share of anything."""
    results = json.loads((folder / "some.json").read_text())
    fields = {"method": "ours", "metric": "score", "over": "none"}
    unknown = {"mean": None, "low": None, "high": None}
    for name, changes in (("kept", {"ratio": {"score of ours / none": unknown}}), ("zero", {}), ("missing", {})):
        rows = [*results["rows"]]
        if name != "kept":
            rows[1] = rows[1] | {"mean": 0.0 if name == "zero" else None}
        (folder / f"{name}.json").write_text(json.dumps(results | {"rows": rows} | changes))
        for bar in ({"at_least": 0.0}, {"at_most": 1e9}):
            checked = evaluate({"results": name, **fields, **bar}, folder)
            assert math.isnan(checked.value) and not checked.holds


def test_what_is_unknown_misses_most():
    known, unknown = (Check([Checked("x", value, None, 1.0, True)], False, 1) for value in (-9.0, math.nan))
    for checks in ([known, unknown], [unknown, known]):
        assert Entry(CLAIM, NOT_REPRODUCED, checks).worst is unknown
    decisive = Check([Checked("x", 0.9, None, 1.0, True)], True, 1)
    assert Entry(CLAIM, NOT_REPRODUCED, [known, unknown, decisive]).worst is decisive


def test_a_ratio_has_to_hold_on_every_training_seed(folder):
    ends = [{"mean": mean, "low": mean, "high": mean} for mean in (0.97, 0.99, 0.94)]
    content = json.loads((folder / "some.json").read_text()) | {
        "ratio": {"score of ours / none": ends[0] | {"by_seed": ends}}
    }
    (folder / "arms.json").write_text(json.dumps(content))
    fields = {"results": "arms", "method": "ours", "metric": "score", "over": "none"}
    assert [one.value for one in on_every_seed({**fields, "at_least": 0.95}, folder).seeds] == [0.97, 0.99, 0.94]
    assert not on_every_seed({**fields, "at_least": 0.95}, folder).holds
    assert on_every_seed({**fields, "at_least": 0.94}, folder).holds


def test_a_gate_that_all_rooms_pass_has_an_interval_with_a_width():
    """Wilson's, of 128 of 128: from n / (n + z^2) on."""
    found = {"gates": {"distances": {"grey": [1.0] * 128}}, "limits": {"least_score": 0.5}}
    low, high = gate_interval(found, "sd", "grey")
    assert high == 1 and low == pytest.approx(128 / (128 + 1.959964**2), abs=1e-6)


def test_results_of_other_weights_are_refused(folder):
    facts = {"preset": "small", "task": "navigation", "commit": "one", "weights_sha256": "0" * 64}
    wrong = facts | {"rows": [], "gain": {}}
    (folder / "wrong.json").write_text(json.dumps(wrong))
    with pytest.raises(ValueError, match=r"^expected wrong for weights [0-9a-f]{12}, got it for 000000000000: run"):
        evaluate({"results": "wrong", "pair": "a - b", "at_least": 0}, folder)


def test_a_check_names_what_is_there(folder):
    with pytest.raises(ValueError, match="^expected 'a - b' in the results some, got ours - none"):
        evaluate(check(pair="a - b", at_least=0), folder)
    with pytest.raises(ValueError, match="^expected speed of ours in the results, got none"):
        evaluate(check(method="ours", metric="speed", at_least=0), folder)


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("id: N1", "id: first", "claims.0.id"),
        ("    proved_by: tests/model", "    wants: tests/model", "claims.29"),
        ("at_least: 3.0}", "at_least: much}", "at_least"),
        ("end: low", "end: middle", "end"),
        ("    takes: &longer_drawing a model", "    command: &longer_drawing a model", "claims"),
    ],
)
def test_a_broken_claim_is_named(old, new, place):
    text = (FOLDER / "claims.yaml").read_text()
    assert old in text
    with pytest.raises(ValueError, match=f"^expected claims as in schema.json, got at .*{place}"):
        load_claims(text.replace(old, new, 1))


def test_no_claim_stands_twice():
    text = (FOLDER / "claims.yaml").read_text()
    with pytest.raises(ValueError, match="^expected every claim once, got N1 twice"):
        load_claims(text.replace("id: N2", "id: N1"))


def test_the_ledger_that_ships_covers_every_claim():
    """Both tables of the paper, its ablations, and C1 to C13 of the review; every check finds its figure."""
    entries = read_ledger()
    names = [entry.claim["id"] for entry in entries]
    assert {f"C{number}" for number in range(1, 14)} <= set(names)
    asked = {"N": 5, "G": 4, "A": 6, "D": 2}
    assert {f"{kind}{number}" for kind, most in asked.items() for number in range(1, most + 1)} <= set(names)
    table = ledger_table(entries)
    assert all(f"| {name} |" in table for name in names)
    assert len({line.count("|") for line in table.splitlines()}) == 1
    measured = [entry for entry in entries if "checks" in entry.claim]
    assert sum("| notebook 0" in line for line in table.splitlines()) == len(measured) == len(entries) - 1
    for name, notebook in {"N1": "05", "G1": "06", "A1": "02", "A2": "07", "C7": "08", "C8": "08", "C10": "09"}.items():
        assert f"| notebook {notebook} |" in next(line for line in table.splitlines() if f"| {name} |" in line)
    assert all(entry.claim["source"] in table and entry.claim["reproduced_when"] in table for entry in entries)


def test_every_proof_is_there():
    root = FOLDER.parents[1]
    for claim in load_claims()["claims"]:
        assert all((root / file).is_file() for file in claim.get("proved_by", "").split(", ") if file)


@pytest.mark.parametrize(
    ("name", "rows", "verdict"),
    [
        ("D1", {("park", "retention"): 0.5, ("park", "accuracy_retention"): 0.5}, REPRODUCED),
        ("D1", {("park", "retention"): 0.5, ("park", "accuracy_retention"): 0.49}, IN_PART),
        ("D1", {("park", "retention"): 0.49, ("park", "accuracy_retention"): 0.5}, NOT_REPRODUCED),
        ("C7", {(f"{n} latents", "time_per_frame"): t for n, t in ((3, 3.0), (25, 1.0), (100, 0.9))}, REPRODUCED),
        ("C7", {(f"{n} latents", "time_per_frame"): t for n, t in ((3, 3.0), (25, 1.0), (100, 1.2))}, NOT_REPRODUCED),
        ("C7", {(f"{n} latents", "time_per_frame"): t for n, t in ((3, 1.0), (25, 1.3), (100, 1.2))}, NOT_REPRODUCED),
        ("C8", {(f"{n} latents", "navigation_accuracy"): share for n, share in ((3, 0.4), (25, 0.48))}, IN_PART),
        ("C8", {(f"{n} latents", "navigation_accuracy"): share for n, share in ((3, 0.4), (25, 0.46))}, NOT_REPRODUCED),
    ],
)
def test_claims_of_length_and_domain_are_judged_by_their_bars(tmp_path, name, rows, verdict):
    """Half of both gains stays; time grows no faster than the context; 17.5% more frames are followed."""
    found = [{"method": m, "metric": metric, "mean": v, "low": v, "high": v} for (m, metric), v in rows.items()]
    (tmp_path / "experiments").mkdir()
    for file in ("worlds", "context_cost", "context"):
        (tmp_path / "experiments" / f"{file}.json").write_text(json.dumps({"commit": "one", "rows": found, "gain": {}}))
    claim = next(claim for claim in load_claims()["claims"] if claim["id"] == name)
    assert judge_claim(claim, 1, tmp_path).verdict == verdict
