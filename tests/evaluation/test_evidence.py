"""Which stored results count: those that a claim's command makes, with today's weights, presets and arms."""

import json

import pytest

from v4s_lib.data.provenance import CHANGED
from v4s_lib.evaluation import evidence
from v4s_lib.evaluation.evidence import stored

MADE = {"episodes": 64, "preset": "small", "split": "test", "rows": [{"metric": "training_seeds", "mean": 3.0}]}


@pytest.mark.parametrize(
    ("command", "changes", "taken"),
    [
        ("trained --arms reference other --seeds 1 2 3 --episodes 64", {}, True),
        ("trained --arms reference --seeds 1 --episodes 64", {}, False),
        ("trained --seeds 1 2 3", {}, False),
        ("trained --seeds 1 2 3", {"episodes": 128}, True),
        ("experiments some --episodes 8", {"rows": []}, False),
        ("experiments some; experiments other --episodes 64", {"rows": []}, True),
        ("experiments some --episodes 64", {"rows": [], "split": "validation"}, False),
        ("experiments some --preset smoke --episodes 64", {"rows": []}, False),
        ("calibrate", {"rows": [], "episodes": 128}, True),
        ("calibrate", {"rows": [], "episodes": 128, "gates": {"rooms": 256}}, True),
        ("calibrate", {"rows": [], "episodes": 128, "gates": {"rooms": 8}}, False),
        ("calibrate --rooms 8", {"rows": [], "episodes": 128, "gates": {"rooms": 8}}, True),
        ("calibrate", {"rows": [], "episodes": 128, "gates": {"rooms": 256, "preset": "base"}}, False),
    ],
)
def test_results_must_be_what_the_claims_command_makes(command, changes, taken):
    content = MADE | changes
    if taken:
        evidence.check_command(content, "some", command)
    else:
        with pytest.raises(ValueError, match=f"^expected some as made by '{command}', got it of "):
            evidence.check_command(content, "some", command)


def test_results_sampled_otherwise_than_their_preset_are_refused(tmp_path):
    for name, steps in (("some", 3), ("other", 7)):
        (tmp_path / f"{name}.json").write_text(
            json.dumps({"commit": "one", "preset": "small", "inference_steps": steps})
        )
    assert stored("some", tmp_path)["inference_steps"] == 3
    with pytest.raises(ValueError, match="^expected other sampled with inference_steps 3, got 7: run its command"):
        stored("other", tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights_sha256": "another"}, "unfit to compare the no_box-seed1 that is stored, got another"),
        ({"commit": "another"}, "unfit scored by one commit, got 2"),
        ({"commit": "unknown"}, "the commit that made no_box-seed1, got none: run its command again"),
        ({"training_commit": f"one{CHANGED}"}, "the commit that made the training no_box-seed1, got one-changed: run"),
        ({"targets_seen": 1}, "the no_box-seed1 to have seen 800 targets, got 1: train it again"),
    ],
)
def test_arms_are_compared_as_they_are_stored(tmp_path, changes, message):
    runs = {"reference-seed1": "a", "no_box-seed1": "b"}
    content = {"arm": "no_box", "measure": "navigation", "preset": "smoke", "weights": runs, "rows": []}
    facts = {"commit": "one", "training_commit": "one", "targets_seen": 200 * 2 * 2}
    scored = {run: facts | {"arm": run[:-6], "weights_sha256": digest} for run, digest in runs.items()}
    (tmp_path / "scored").mkdir()
    for run, single in scored.items():
        (tmp_path / "scored" / f"{run}-navigation.json").write_text(json.dumps(single))
    for name in ("fit", "unfit"):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    assert stored("fit", tmp_path)["arm"] == "no_box"
    (tmp_path / "scored" / "no_box-seed1-navigation.json").write_text(json.dumps(scored["no_box-seed1"] | changes))
    with pytest.raises(ValueError, match=f"^expected {message}"):
        stored("unfit", tmp_path)
    (tmp_path / "scored" / "no_box-seed1-navigation.json").unlink()
    with pytest.raises(ValueError, match="^expected the no_box-seed1 that unfit compares in .*, got no file: score it"):
        stored("unfit", tmp_path)


@pytest.mark.parametrize("bound", [{"weights_sha256": "", "preset": "smoke"}, {"gates": {}}])
@pytest.mark.parametrize(("commit", "got"), [({}, "none"), ({"commit": f"one{CHANGED}"}, f"one{CHANGED}")])
def test_results_without_a_commit_are_refused(tmp_path, bound, commit, got):
    (tmp_path / "some.json").write_text(json.dumps(bound | commit))
    with pytest.raises(ValueError, match=f"^expected the commit that made some, got {got}: run its command again"):
        stored("some", tmp_path)


def test_judges_with_another_reader_are_refused(tmp_path):
    content = {"commit": "one", "limits": {"reader_sha256": evidence.shipped_reader()}}
    (tmp_path / "own.json").write_text(json.dumps(content))
    (tmp_path / "other.json").write_text(json.dumps(content | {"limits": {"reader_sha256": "another"}}))
    assert stored("own", tmp_path) == content
    with pytest.raises(ValueError, match="^expected other of the shipped reader, got it of another: run its command"):
        stored("other", tmp_path)


def test_arms_that_began_with_other_weights_are_refused_unless_those_have_shipped(tmp_path, monkeypatch):
    monkeypatch.setattr(evidence, "earlier_weights", lambda: frozenset(["before"]))
    now = evidence.shipped_start("small")
    for start in (now, "before", "never"):
        (tmp_path / f"{start}.json").write_text(json.dumps({"commit": "one", "preset": "small", "start": start}))
    assert [evidence.is_earlier(stored(start, tmp_path)) for start in (now, "before")] == [False, True]
    with pytest.raises(
        ValueError, match="^expected never of arms that began with the shipped weights, got never: train"
    ):
        stored("never", tmp_path)
