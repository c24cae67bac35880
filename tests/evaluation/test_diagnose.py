"""The diagnosis measures what it says, at `smoke` and on poses whose errors are known."""

import pytest
import torch

from v4s_lib.data.navigation import navigation_episode
from v4s_lib.evaluation.diagnose import _off, diagnose_navigation, diagnose_plan, main, predict
from v4s_lib.model.localizer import pose_numbers
from v4s_lib.training.presets import get_preset
from v4s_lib.training.weights import load_pipeline

SMOKE = get_preset("smoke")


@pytest.fixture
def pipeline():
    return load_pipeline("smoke")


def test_a_head_that_knows_the_start_has_no_error_there(pipeline):
    """A constant head that says where the start frame stands is right about it and wrong about the context.

    Sight is told that nothing is alike, so that it corrects nothing; pixels still move a frame a little. An untrained
    finder would find something in the navigation sentence, too, and have the plan made level.
    """
    pipeline.transformer.finder = None
    episode = navigation_episode("validation", 0, SMOKE.task)
    found = predict(pipeline, episode, None, SMOKE)
    head = pipeline.transformer.localizer.pose
    with torch.no_grad():
        pipeline.transformer.sight.nothing.fill_(50.0)
        head.weight.zero_()
        head.bias.copy_(pose_numbers(found["to_axes"] @ episode.target_c2w[0]).flatten().repeat(4))
    measures = diagnose_navigation(pipeline, SMOKE, 0)
    assert measures["start, rotation (deg)"] < 1 and measures["start, translation (m)"] < 0.05
    assert measures["context, rotation (deg)"] > 5


def test_shapes_and_the_start_frame(pipeline):
    episode = navigation_episode("validation", 0, SMOKE.task)
    found = predict(pipeline, episode, None, SMOKE)
    assert found["clip"].shape == episode.target.rgb.shape
    torch.testing.assert_close(found["clip"][0], episode.target.rgb[0], atol=1e-5, rtol=0)
    assert found["context"].shape == (4, 4, 4, 4) and found["target"].shape == (4, 4, 4, 4)
    last = found["to_axes"] @ episode.scan_c2w[found["frames"][-1, -1]]
    torch.testing.assert_close(last, torch.eye(4), atol=1e-5, rtol=0)


def test_a_plan_is_measured_against_the_object(pipeline):
    measures = diagnose_plan(pipeline, SMOKE, 1)
    assert measures["start frame off the object (deg)"] > 45  # it does not show it
    assert 0 <= measures["plan, last frame off the object (deg)"] <= 180
    assert _off(torch.eye(4), torch.tensor([0.0, 0, 3])) == pytest.approx(0, abs=1e-3)
    assert _off(torch.eye(4), torch.tensor([2.0, 0, 2])) == pytest.approx(45, abs=1e-3)


def test_the_command_prints_a_table_and_refuses_an_unknown_preset(capsys):
    assert main(["--preset", "smoke", "--rooms", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| measure | mean | median |" and len(lines) == 2 + 9
    assert main(["--preset", "huge"]) == 2
    assert capsys.readouterr().err.startswith("expected a preset out of")
