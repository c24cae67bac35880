"""Trained arms are found, scored on the same rooms, and compared room by room with their reference."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from v4s_lib.evaluation import evidence
from v4s_lib.evaluation.claims import load_claims
from v4s_lib.evaluation.diagnose import main as diagnose
from v4s_lib.evaluation.ledger import evaluate, on_every_seed
from v4s_lib.evaluation.navigation import episode_clips
from v4s_lib.evaluation.results import load_models
from v4s_lib.evaluation.trained import HANDHELD, arm_gains, arms_table, compare, find_runs, main, score_run
from v4s_lib.evaluation.trained_scores import MEASURES, kept_shares, scored_preset
from v4s_lib.model.weights import weights_digest
from v4s_lib.training.__main__ import main as train
from v4s_lib.training.arms import ARMS, arm_preset, get_arm
from v4s_lib.training.presets import PRESETS, SMALL, SMOKE
from v4s_lib.training.weights import load_pipeline

ROOMS = [10.0, 20.0, 15.0, 12.0]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Two arms of two steps at scale ``smoke``, both from the same untrained weights, and one without a reference."""
    folder = tmp_path_factory.mktemp("arms")
    load_pipeline(SMOKE).transformer.save_pretrained(folder / "init")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "smoke", replace(SMOKE, validation_rooms=1))
        for arm in ("reference", "no_box", "plain_two_way"):
            start = [] if arm.startswith("plain") else ["--init", str(folder / "init")]
            asked = ["--preset", "smoke", "--arm", arm, *start, "--steps", "2", "--seed", "3"]
            assert train([*asked, "--out", str(folder / f"{arm}-seed3")]) == 0
    return folder


def result(arm: str, seed: int, values: list[float], **changes: object) -> dict:
    shared = {"changes": "", "preset": "small", "split": "test", "seed": 0, "episodes": len(values)}
    shared |= {
        "start": "located",
        "sight_sha256": "seen",
        "targets_seen": 100,
        "weights_sha256": f"{arm}{seed}",
        "measure": "navigation",
    } | changes
    scored = {"ours": {"psnr_recall": values, "psnr": values}}
    scored["no_context"] = {"psnr_recall": [value - 3 for value in values]}
    return {"arm": arm, "training_seed": seed, "per_episode": scored, **shared}


def test_rooms_are_compared_in_pairs_over_the_seeds_that_both_have():
    """Rooms differ by 10 dB, seeds by 1 dB, arms by exactly 2 dB: the difference knows no interval."""
    references = [result("reference", seed, [value + seed for value in ROOMS]) for seed in (1, 2, 3)]
    arms = [result("no_box", seed, [value + seed - 2 for value in ROOMS]) for seed in (2, 3, 4)]
    found = compare(arms, references)
    gain = found["gain"]["no_box - reference, psnr_recall"]
    assert (gain["mean"], gain["low"], gain["high"], gain["n"]) == (-2, -2, -2, 8)
    assert found["gain"]["no_box - no_box without context, psnr_recall"]["high"] == 3
    assert "no_box - no_box without context, psnr" not in found["gain"]
    rows = {(row["method"], row["metric"]): row["mean"] for row in found["rows"]}
    assert rows["no_box", "training_seeds"] == 2
    assert rows["reference", "psnr_recall"] == pytest.approx(np.mean(ROOMS) + 2.5)
    assert sorted(found["weights"]) == ["no_box-seed2", "no_box-seed3", "reference-seed2", "reference-seed3"]


def test_each_seed_has_its_own_difference():
    """What trainings differ by (-2 and +1 dB) is in no interval over rooms, which all lose as much."""
    references = [result("reference", seed, ROOMS) for seed in (1, 2)]
    arms = [result("no_box", seed, [value + apart for value in ROOMS]) for seed, apart in ((1, -2), (2, 1))]
    gain = compare(arms, references)["gain"]["no_box - reference, psnr_recall"]
    assert (gain["mean"], gain["low"], gain["high"]) == (-0.5, -0.5, -0.5)
    assert [seed["mean"] for seed in gain["by_seed"]] == [seed["high"] for seed in gain["by_seed"]] == [-2, 1]


def test_a_claim_of_arms_has_to_hold_for_every_seed(tmp_path):
    """A mean of +1 dB over two trainings, of which one loses 1 dB, reproduces nothing."""
    anyhow = {"start": None, "sight_sha256": None}  # of no weights that ship
    anyhow |= {"commit": "one", "training_commit": "one", "targets_seen": 200 * 8 * 2}
    references = [result("reference", seed, ROOMS, **anyhow) for seed in (1, 2)]
    for apart, holds in (((3, -1), False), ((3, 1), True)):
        arms = [
            result("no_box", seed, [value + more for value in ROOMS], **anyhow)
            for seed, more in zip((1, 2), apart, strict=True)
        ]
        folder = tmp_path / str(holds)
        (folder / "scored").mkdir(parents=True)
        for scored in references + arms:
            run = f"{scored['arm']}-seed{scored['training_seed']}"
            (folder / "scored" / f"{run}-navigation.json").write_text(json.dumps(scored))
        (folder / "no_box.json").write_text(json.dumps(compare(arms, references)))
        check = {"results": "no_box", "pair": "no_box - reference, psnr_recall", "end": "low", "at_least": 0.5}
        found = on_every_seed(check, folder)
        assert [seed.value for seed in found.seeds] == list(apart)
        assert found.holds == holds and found.trainings == 2


def test_arms_that_see_otherwise_than_the_shipped_weights_are_no_evidence(tmp_path):
    references = [result("reference", 1, ROOMS)]
    (tmp_path / "reference.json").write_text(json.dumps(compare(references, references)))
    check = {"results": "reference", "pair": "reference - reference without context, psnr_recall", "at_least": 0.5}
    with pytest.raises(
        ValueError, match="^expected reference of arms with the sight of the shipped weights, got some with"
    ):
        evaluate(check, tmp_path)


def test_a_reference_is_compared_with_itself_without_context_alone():
    references = [result("reference", seed, [value + seed for value in ROOMS]) for seed in (1, 2)]
    found = compare(references, references)
    assert list(found["gain"]) == ["reference - reference without context, psnr_recall"]
    assert found["gain"]["reference - reference without context, psnr_recall"]["low"] == 3
    assert sorted(found["weights"]) == ["reference-seed1", "reference-seed2"]


def test_arms_that_saw_unequal_numbers_of_targets_are_not_compared():
    with pytest.raises(ValueError, match="^expected arms that saw as many targets, got {'no_box-seed1': 50, 'ref"):
        compare([result("no_box", 1, ROOMS, targets_seen=50)], [result("reference", 1, ROOMS)])


def test_arms_that_started_from_other_weights_are_not_compared():
    with pytest.raises(ValueError, match="^expected no_box and reference to start from the same weights with every s"):
        compare([result("no_box", 1, ROOMS, start="others")], [result("reference", 1, ROOMS)])
    with pytest.raises(ValueError, match="^expected no_box and reference to start from the same weights with every s"):
        both = [[result(arm, 1, ROOMS), result(arm, 2, ROOMS, start="others")] for arm in ("no_box", "reference")]
        compare(*both)


def line(phone: float, usual: float, without: float) -> dict:
    values = {"handheld_ours": phone, "handheld_no_context": without, "ours": usual, "no_context": without}
    return {"methods": {method: {"psnr_recall": value} for method, value in values.items()}}


def test_retention_is_the_mean_of_its_linear_parts():
    """Gains of 4 and 2 dB, of which 2 and 1 are kept: a half in each room; and nothing can be kept of nothing."""
    assert kept_shares([line(12, 14, 10), line(16, 17, 15)]) == pytest.approx([0.5, 0.5])
    uneven = kept_shares([line(12, 14, 10), line(15, 17, 15), line(math.nan, 14, 10)])
    assert np.nanmean(uneven) == pytest.approx(2 / 6) and np.isnan(uneven[2])
    assert np.isnan(kept_shares([line(12, 10, 10), line(15, 15, 15)])).all()


def test_every_arm_meets_the_rooms_of_its_scale():
    for name, own in (("gap_16", {}), ("no_box", {"tail_latents": 0}), ("contiguous", {"contiguous": True})):
        preset = scored_preset(arm_preset(name, SMALL))
        assert preset.task == replace(SMALL.task, **own)


def test_arms_are_found_by_their_folders(runs, tmp_path):
    assert find_runs(runs, []) == {"reference": [3], "no_box": [3], "plain_two_way": [3]}
    assert find_runs(runs, ["no_box"]) == find_runs(runs, ["no_box"], [2, 3]) == {"no_box": [3]}
    with pytest.raises(FileNotFoundError, match="^expected trained arms in .*, got none: train some with --seeds"):
        find_runs(tmp_path, [])
    with pytest.raises(FileNotFoundError, match="^expected trained arms"):
        find_runs(runs, [], [4])


def test_a_folder_with_another_arm_than_its_name_is_refused(runs, tmp_path):
    (tmp_path / "gap_0-seed3").symlink_to(runs / "reference-seed3")
    with pytest.raises(ValueError, match="^expected in .*gap_0-seed3 the task.gap of arm gap_0, got another"):
        score_run(tmp_path / "gap_0-seed3", "navigation", "validation", 1, tmp_path)


def test_a_model_without_a_localizer_is_told_no_poses_and_has_none_to_diagnose(runs, capsys):
    weights = runs / "plain_two_way-seed3" / "weights"
    _, clips, _, _ = episode_clips(load_models(SMOKE, weights), SMOKE, "validation", 0, 0, samples=1)
    assert {"ours", "no_context"} <= clips.keys() and "posed" not in clips
    assert diagnose(["--preset", "smoke", "--rooms", "1", "--weights", str(weights)]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("expected a model with a localizer, got ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--episodes", "0"], "expected episodes of 1 or more, got 0: ask for more"),
        (["--seeds", "1", "-1"], "expected seeds of 0 or more, got -1: ask for more"),
        (["--preset", "base", "--seeds", "1"], "expected calibrated limits in "),
        (["--preset", "base", "--measures", "handheld"], "expected trained arms in"),
    ],
)
def test_what_cannot_be_scored_is_refused_before_anything_is_trained(arguments, message, tmp_path, capsys):
    assert main([*arguments, "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(message) and len(error.splitlines()) == 1 and not list(tmp_path.iterdir())


def test_the_command_scores_resumes_and_compares(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(evidence, "CHANGED", "never")  # what waits to be committed here is no matter
    out, store = tmp_path / "out", tmp_path / "store"
    asked = ["--runs", str(runs), "--split", "validation", "--out", str(out), "--store", str(store)]
    assert main([*asked, "--episodes", "1"]) == 0
    (first,) = store.glob("no_box-*.jsonl")
    kept = json.loads(first.read_text())
    kept["methods"]["ours"]["psnr"] = 5.0
    first.write_text(json.dumps(kept) + "\n")
    assert main([*asked, "--episodes", "2"]) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "no_box-navigation.json",
        "reference-navigation.json",
        "scored",
    ]
    own = json.loads((out / "scored" / "no_box-seed3-navigation.json").read_text())
    assert own["per_episode"]["ours"]["psnr"][0] == 5.0 and len(own["per_episode"]["ours"]["psnr"]) == 2
    assert (own["targets_seen"], own["training_seed"], len(own["weights_sha256"])) == (2 * 2 * 2, 3, 64)
    assert "| no_box | clips end without the box tail | navigation | psnr_recall |" in capsys.readouterr().out
    check = {"results": "no_box-navigation", "pair": "no_box - reference, psnr", "at_least": -100.0}
    with pytest.raises(ValueError, match="^expected the no_box-seed3 to have seen 800 targets, got 8: train it again"):
        evaluate(check, out)  # an arm has 200 steps
    for name in ("reference", "no_box"):
        monkeypatch.setitem(ARMS, name, replace(get_arm(name), steps=2))
    assert evaluate(check, out).holds
    assert main([*asked, "--arms", "gap_0"]) == 2


def test_one_command_trains_what_is_missing_and_compares(runs, tmp_path, capsys, monkeypatch):
    """Stopped after a step it goes on from there; asked again it trains nothing."""
    monkeypatch.setitem(PRESETS, "smoke", replace(SMOKE, validation_rooms=1))
    own, out = tmp_path / "runs", tmp_path / "out"
    asked = ["--preset", "smoke", "--arms", "reference", "no_box", "--seeds", "3", "--steps", "2", "--runs", str(own)]
    asked += ["--init", str(runs / "init"), "--split", "validation", "--episodes", "1", "--out", str(out)]
    asked += ["--store", str(tmp_path / "store")]
    assert main([*asked, "--minutes", "-1"]) == 2
    assert capsys.readouterr().err.startswith("expected to train for more than 0 minutes, got -1")
    assert main([*asked, "--minutes", "1e-4"]) == 0
    assert "not trained yet: reference-seed3, no_box-seed3; run the same command" in capsys.readouterr().err
    assert len((own / "reference-seed3" / "log.jsonl").read_text().splitlines()) >= 1 and not out.exists()
    assert main(asked) == 0
    found = json.loads((out / "no_box-navigation.json").read_text())
    assert set(found["targets_seen"].values()) == {2 * 2 * 2}
    for arm in ("reference", "no_box"):
        digest = json.loads((out / "scored" / f"{arm}-seed3-navigation.json").read_text())["weights_sha256"]
        trained = load_pipeline(arm_preset(arm, SMOKE, 2), runs / f"{arm}-seed3" / "weights")
        assert weights_digest(trained.transformer) == digest  # as trained alone, in one go
    written = [path.stat().st_mtime_ns for path in own.rglob("*.safetensors")]
    assert main(asked) == 0
    assert [path.stat().st_mtime_ns for path in own.rglob("*.safetensors")] == written


def test_an_arm_is_compared_with_a_reference_of_which_the_figures_alone_are_left(runs, tmp_path):
    out = tmp_path / "out"
    asked = ["--split", "validation", "--out", str(out), "--store", str(tmp_path / "store"), "--episodes", "1"]
    assert main(["--runs", str(runs), "--arms", "reference", *asked]) == 0
    (tmp_path / "left").mkdir()
    (tmp_path / "left" / "no_box-seed3").symlink_to(runs / "no_box-seed3")
    assert not (out / "no_box-navigation.json").exists()
    assert main(["--runs", str(tmp_path / "left"), *asked]) == 0
    found = json.loads((out / "no_box-navigation.json").read_text())
    assert sorted(found["weights"]) == ["no_box-seed3", "reference-seed3"]


@pytest.mark.parametrize(
    ("measure", "metrics"),
    [
        ("navigation", ["psnr_recall", "navigation_accuracy", "sd"]),
        ("handheld", ["psnr_recall", "retention", "handheld_psnr_recall"]),
    ],
)
def test_each_measure_has_its_metrics(runs, tmp_path, measure, metrics):
    scored = score_run(runs / "no_box-seed3", measure, "validation", 1, tmp_path, progress=False)
    assert set(metrics) <= set(scored["per_episode"]["ours"])
    assert ("handheld_no_context" in scored["per_episode"]) == (measure == "handheld")


def test_a_clip_without_a_box_is_judged_by_its_last_moving_frame(runs, tmp_path):
    scored = score_run(runs / "no_box-seed3", "grounding", "validation", 1, tmp_path, progress=False)
    assert set(scored["per_episode"]["ours"]) == {"if_sd02", "if_sd01", "if", "sd"}


def test_every_check_of_the_ledger_asks_for_a_trained_arm_and_its_measure():
    """Claims that rest on trained arms name files and pairs that the command writes."""
    claims = load_claims()["claims"]
    pairs = [(claim, check) for claim in claims for check in claim.get("checks", [])]
    asked = [(claim["command"].split(";"), check) for claim, check in pairs if check["results"].startswith("arms/")]
    assert len(asked) >= 10
    for check in (claim["only_if"] for claim in claims if "only_if" in claim):
        name, measure = check["results"].removeprefix("arms/").rsplit("-", 1)
        reference = get_arm(name).reference
        assert check["pair"] == f"{reference} - {reference} without context, psnr_recall"
        assert measure in ("navigation", "handheld")
    for commands, check in asked:
        name, measure = check["results"].removeprefix("arms/").rsplit("-", 1)
        reference, units = get_arm(name).reference, MEASURES[measure][1] | HANDHELD | {"training_seeds": "1"}
        pair, metric = check["pair"].rsplit(", ", 1) if "pair" in check else (f"{name} - {reference}", check["metric"])
        assert pair in (f"{name} - {reference}", f"{name} - {name} without context") and metric in units
        assert check.get("method", name) in (name, reference)
        lines = [line.split() for line in commands]
        scoring = [words for words in lines if {name, reference, "--seeds", "--episodes"} <= set(words)]
        assert any(measure in (words if "--measures" in words else ["navigation"]) for words in scoring)


def test_the_table_says_what_is_stored(tmp_path):
    references = [result("reference", 1, [10.0, 20.0])]
    (tmp_path / "no_box-navigation.json").write_text(
        json.dumps(compare([result("no_box", 1, [11.0, 21.0])], references))
    )
    (tmp_path / "reference-navigation.json").write_text(json.dumps(compare(references, references)))
    lines, mean = arms_table(tmp_path).splitlines()[2:], "16.00 [11.00, 21.00]"
    own, changes = "+3.00 [+3.00, +3.00] | 2 |", get_arm("no_box").changes
    assert lines[0].endswith(f"as it is | navigation | psnr_recall | 15.00 [10.00, 20.00] | – | {own}")
    assert lines[2] == f"| no_box | {changes} | navigation | psnr_recall | {mean} | +1.00 [+1.00, +1.00] | {own}"
    assert lines[3].endswith(f"| psnr | {mean} | +1.00 [+1.00, +1.00] | – | 2 |") and len(lines) == 4


def test_the_table_has_the_differences_of_several_seeds(tmp_path):
    references = [result("reference", seed, [10.0, 20.0]) for seed in (1, 2)]
    arms = [result("no_box", seed, [10.0 + apart, 20.0 + apart]) for seed, apart in ((1, -2), (2, 1))]
    (tmp_path / "no_box-navigation.json").write_text(json.dumps(compare(arms, references)))
    gain = arm_gains("navigation", "psnr_recall", tmp_path)["no_box - reference"]
    assert [seed["mean"] for seed in gain["by_seed"]] == [-2, 1] and gain["mean"] == -0.5
    assert arm_gains("grounding", "if_sd02", tmp_path) == {}
    line = arms_table(tmp_path).splitlines()[2]
    assert "| -0.50 [-0.50, -0.50] (-2.00, +1.00) | +3.00 [+3.00, +3.00] (+3.00, +3.00) | 4 |" in line
