"""Figures that ship: a sample of rooms, scored again with the weights that ship; all that is made of scored rooms.

``make reproduce`` scores more.
"""

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from v4s_lib.evaluation import trained
from v4s_lib.evaluation.arms import EXPERIMENTS as WAYS
from v4s_lib.evaluation.evidence import is_earlier, stored
from v4s_lib.evaluation.experiments import FOLDER, file_name, score_arm, summarise
from v4s_lib.evaluation.judges import gate_interval, judged_right
from v4s_lib.evaluation.reproduce import check_weights, compare
from v4s_lib.evaluation.results import EXPERIMENTS, Models, load_models, load_results
from v4s_lib.evaluation.statistics import make_row
from v4s_lib.training.arms import get_arm
from v4s_lib.training.presets import get_preset

SMALL = get_preset("small")
ROOM = 5


@pytest.fixture(scope="module")
def models() -> Models:
    return load_models(SMALL)


@pytest.mark.parametrize("task", EXPERIMENTS)
def test_a_room_of_each_table_has_its_stored_figures(models, task):
    found = load_results(f"{task}_small")
    check_weights(found, models)
    compare(found, models, SMALL, live=1)


@pytest.mark.parametrize(
    ("experiment", "name"),
    [
        ("guidance", "joint 1.5"),
        ("grounding_guidance", "joint 1.5"),
        ("context", "25 latents"),
        ("long_scan", "25 latents"),
        ("grounding_context", "25 latents"),
        ("handheld", "handheld"),
        ("worlds", "park"),
    ],
)
def test_a_room_of_each_experiment_has_its_stored_figures(models, experiment, name):
    arm = next(arm for arm in WAYS[experiment] if arm.name == name)
    found = stored(file_name(experiment, arm), FOLDER)
    if is_earlier(found):
        pytest.skip("these figures are of weights that do not ship any more, as the ledger says")
    scores = score_arm(models.ours, SMALL, arm, found["split"], ROOM, found["seed"])
    tolerance = {"psnr_recall": 0.05, "psnr": 0.05, "sd": 0.02}  # of the others, shares of a few frames, none
    for metric, values in found["per_episode"].items():
        assert scores[metric] == pytest.approx(values[ROOM], abs=tolerance.get(metric, 1e-6)), metric


def same(stored: Any, made: Any) -> bool:
    """Whether two results are equal but for the last digits of their numbers."""
    if isinstance(stored, dict):
        return stored.keys() == made.keys() and all(same(stored[name], made[name]) for name in stored)
    if isinstance(stored, list):
        return len(stored) == len(made) and all(map(same, stored, made))
    return stored == (pytest.approx(made, abs=1e-9) if isinstance(made, float) else made)


@pytest.mark.parametrize("file", sorted(trained.FOLDER.glob("*.json")), ids=lambda file: file.stem)
def test_an_arm_s_figures_are_those_of_its_scored_rooms(file):
    """Means, intervals and differences are worked out again from every room of every training seed."""
    stored = json.loads(file.read_text())
    scored = trained.stored_results(trained.FOLDER / "scored", stored["measure"], stored["split"], stored["episodes"])
    made = trained.compare(scored[stored["arm"]], scored[get_arm(stored["arm"]).reference])
    assert same(stored, json.loads(json.dumps(made)))


@pytest.mark.parametrize("name", WAYS)
def test_an_experiment_s_figures_are_those_of_its_arms(name):
    unsaid = {"inference_steps": None}  # by results from before it was kept
    results = [unsaid | json.loads((FOLDER / f"{file_name(name, arm)}.json").read_text()) for arm in WAYS[name]]
    for arm, result in zip(WAYS[name], results, strict=True):
        assert result["arm"] == asdict(arm)  # what is stored was sampled as the code says now
        for row in result["rows"]:
            values = np.array(result["per_episode"][row["metric"]], float)
            made = make_row(row["method"], row["metric"], row["unit"], values, np.arange(len(values)))
            assert same(row, made.to_json() | {"failed": row["failed"]})  # frames, which a room's mean does not tell
    made = summarise(results, "if_sd02" if WAYS[name][0].seeks else "psnr_recall")
    assert same(unsaid | json.loads((FOLDER / f"{name}.json").read_text()), json.loads(json.dumps(made)))


def test_the_gates_are_the_shares_of_their_rooms_and_lie_in_their_intervals():
    found = load_results("judges")
    for judge, values in (("sd", found["gates"]["distances"]), ("if", found["gates"]["scores"])):
        for frames, share in found["gates"][judge].items():
            right = judged_right(judge, frames, np.array(values[frames]), found["limits"]["least_score"])
            low, high = gate_interval(found, judge, frames)
            assert right.mean() == share and low <= share <= high
