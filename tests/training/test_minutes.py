"""Equal minutes: what counts as training time, what an arm changes, and a run that is stopped and gone on with."""

import json
from dataclasses import replace

import pytest

from v4s_lib.model.transformer import ContextVideoTransformer
from v4s_lib.training import minutes
from v4s_lib.training.minutes import ARMS, FORMS, METRIC, curve, main, minutes_trained, table
from v4s_lib.training.presets import PRESETS, SMALL, SMOKE

LOG = [
    {"step": 1, "seconds": 50.0, "loss": 1.0},  # compiles: not counted
    {"step": 2, "seconds": 56.0, "loss": 1.0},
    {"step": 2, "seconds": 86.0, METRIC: 12.0},  # validation: not counted
    {"step": 3, "seconds": 92.0, "loss": 1.0},
    {"step": 4, "seconds": 40.0, "loss": 1.0},  # a new process
    {"step": 5, "seconds": 52.0, "loss": 1.0},
    {"step": 5, "seconds": 99.0, METRIC: 13.0},
]


def test_minutes_count_steps_alone():
    assert minutes_trained(LOG) == pytest.approx([0, 0.1, 0.1, 0.2, 0.2, 0.4, 0.4])
    assert curve(LOG) == [{"step": 2, "minutes": 0.1, METRIC: 12.0}, {"step": 5, "minutes": 0.4, METRIC: 13.0}]


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
@pytest.mark.parametrize("name", ARMS)
def test_an_arm_is_another_preset_that_can_be_trained(name, preset):
    arm = ARMS[name](preset)
    assert (arm == preset) is (name == "preset")
    assert arm.contexts % arm.reuse == 0
    assert arm.task.targets <= arm.pool_targets


def test_arms_change_what_they_say():
    targets = {name: arm(SMALL).contexts * arm(SMALL).task.targets for name, arm in ARMS.items()}
    own = SMALL.contexts * SMALL.task.targets
    other = {"half the batch": own // 2, "half the batch and plain error": own // 2, "twice the batch": 2 * own}
    assert targets == {name: other.get(name, own) for name in ARMS}
    own = ARMS["a context for each target"](SMALL)
    assert (own.contexts, own.task.targets) == (16, 1)
    assert own.contexts // own.reuse * own.pool_targets == SMALL.contexts // SMALL.reuse * SMALL.pool_targets


def test_the_table_subtracts_the_first_arm():
    ends = {"preset": 13.0, "other": 12.5}
    arms = {
        name: {"steps": 10, "targets": 3200, "curve": [{"minutes": 1.0, METRIC: 11.0}, {"minutes": 2.0, METRIC: end}]}
        for name, end in ends.items()
    }
    assert table(arms).splitlines()[2:] == [
        "| preset | 10 | 3,200 | 11.00 after 1.0, 13.00 after 2.0 | +0.00 |",
        "| other | 10 | 3,200 | 11.00 after 1.0, 12.50 after 2.0 | -0.50 |",
    ]


def test_arms_are_compared_when_the_shortest_ends():
    """An arm that had more minutes is read between its validations."""
    curves = {"preset": [(1.0, 10.0), (2.0, 12.0)], "longer": [(1.0, 11.0), (3.0, 15.0)]}
    arms = {
        name: {"steps": 1, "targets": 1, "curve": [{"minutes": spent, METRIC: score} for spent, score in curve]}
        for name, curve in curves.items()
    }
    head, _, first, longer = table(arms).splitlines()
    assert "minus the first, after 2.0 (dB)" in head
    assert first.endswith("| +0.00 |") and longer.endswith("| +1.00 |")


def test_without_the_painter_an_arm_is_the_preset_with_one_change_too():
    form = FORMS["unpainted"](SMALL)
    assert form.model == SMALL.model | {"paint": False} and replace(form, model=SMALL.model) == SMALL
    arms = [arm(form) for arm in ARMS.values()]
    assert arms[0] == form and all(arms.count(arm) == 1 for arm in arms)


def test_arms_train_from_the_same_weights_and_a_stopped_run_goes_on(tmp_path, monkeypatch, capsys, seldom_validated):
    monkeypatch.setattr(minutes, "SPEED_STEPS", 2)
    init, out = tmp_path / "init", tmp_path / "out"
    ContextVideoTransformer(**SMOKE.model).save_pretrained(init)
    asked = ["--preset", "smoke", "--init", str(init), "--minutes", "0.005", "--every", "1", "--out", str(out)]
    assert main([*asked, "--arms", "a rate of 1e-3"]) == 0
    first = json.loads((out / "minutes.json").read_text())["arms"]["a rate of 1e-3, seed 0"]
    assert first["steps"] == len(first["curve"]) == first["curve"][-1]["step"]
    assert first["targets"] == 4 * first["steps"]

    assert main([*asked, "--arms", "a rate of 1e-3", "half the batch"]) == 0
    assert main([*asked, "--arms", "half the batch", "--seed", "1"]) == 0
    arms = json.loads((out / "minutes.json").read_text())["arms"]
    assert list(arms) == ["a rate of 1e-3, seed 0", "half the batch, seed 0", "half the batch, seed 1"]
    assert arms["a rate of 1e-3, seed 0"] == first  # read, not trained again
    assert arms["half the batch, seed 0"]["targets"] == 2 * arms["half the batch, seed 0"]["steps"]
    assert "| half the batch, seed 1 |" in capsys.readouterr().out
    assert main([*asked, "--minutes", "1"]) == 2
    assert "the same minutes, got another: name another --out" in capsys.readouterr().err
    assert main([*asked, "--of", "unpainted"]) == 2
    assert "the same of, got another: name another --out" in capsys.readouterr().err
    assert main([*asked, "--arms", "preset", "--of", "unpainted", "--out", str(tmp_path / "other")]) == 0
    weights = ContextVideoTransformer.from_pretrained(tmp_path / "other" / "preset-seed0" / "weights")
    assert weights.painter is None


def test_no_minutes_are_refused(tmp_path, capsys):
    assert main(["--init", str(tmp_path), "--minutes", "0", "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith("expected minutes above 0 and 1 or more steps")
    assert not (tmp_path / "out").exists()
