"""A sample of the figures that ship, computed again with the weights that ship; ``make reproduce`` does more."""

import pytest

from v4s_lib.evaluation.arms import EXPERIMENTS as WAYS
from v4s_lib.evaluation.evidence import is_earlier, stored
from v4s_lib.evaluation.experiments import FOLDER, file_name, score_arm
from v4s_lib.evaluation.reproduce import check_weights, compare
from v4s_lib.evaluation.results import EXPERIMENTS, Models, load_models, load_results
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
    tolerance = {"psnr_recall": 0.05, "psnr": 0.05}  # of the others, shares of a few frames, none
    for metric, values in found["per_episode"].items():
        assert scores[metric] == pytest.approx(values[ROOM], abs=tolerance.get(metric, 1e-6)), metric
