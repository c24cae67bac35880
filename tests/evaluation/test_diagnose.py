"""The diagnosis measures what it says, at `smoke` and on poses whose errors are known."""

import math

import pytest
import torch

from v4s_lib.data.grounding import grounding_episode
from v4s_lib.data.navigation import navigation_episode
from v4s_lib.data.targets import middle
from v4s_lib.data.windows import grouped_frames
from v4s_lib.evaluation.baselines import posed
from v4s_lib.evaluation.diagnose import (
    diagnose_navigation,
    diagnose_plan,
    main,
    measure_plan,
    predict,
    unheard,
)
from v4s_lib.model.transformer import ContextVideoTransformer
from v4s_lib.training.presets import get_preset
from v4s_lib.training.weights import load_pipeline
from v4s_lib.worlds.cameras import degrees_off, turning

SMOKE = get_preset("smoke")


@pytest.fixture
def pipeline():
    return load_pipeline("smoke")


def test_errors_are_of_the_poses_that_are_gone_by(pipeline):
    """Told where its frames stand, but for a start frame 0.3 m beside and a context turned by 20 degrees."""
    episode = navigation_episode("validation", 0, SMOKE.task)
    found = predict(pipeline, episode, SMOKE)
    context = found["to_axes"] @ episode.scan_c2w[found["frames"]]
    context[..., :3, :3] = context[..., :3, :3] @ turning(torch.tensor([0.0, math.radians(20), 0.0]))
    start = found["to_axes"] @ episode.target_c2w[0]
    start[0, 3] += 0.3
    with posed(pipeline.transformer, (context[None], start.expand(1, *found["target"].shape))):
        measures = diagnose_navigation(pipeline, SMOKE, 0)
    assert measures["start, rotation (deg)"] < 0.1
    assert measures["start, translation (m)"] == pytest.approx(0.3, abs=1e-4)
    assert measures["context, rotation (deg)"] == pytest.approx(20, abs=0.1)
    assert measures["context, translation (m)"] < 1e-4


def test_shapes_and_the_start_frame(pipeline):
    episode = navigation_episode("validation", 0, SMOKE.task)
    found = predict(pipeline, episode, SMOKE)
    assert found["clip"].shape == episode.target.rgb.shape
    torch.testing.assert_close(found["clip"][0], episode.target.rgb[0], atol=1e-5, rtol=0)
    assert found["context"].shape == (4, 4, 4, 4) and found["target"].shape == (4, 4, 4, 4)
    last = found["to_axes"] @ episode.scan_c2w[found["frames"][-1, -1]]
    torch.testing.assert_close(last, torch.eye(4), atol=1e-5, rtol=0)


def test_a_seed_draws_the_context_that_the_pipeline_draws(pipeline):
    episode = navigation_episode("validation", 0, SMOKE.task)
    output = pipeline(
        episode.scan.rgb,
        episode.target.rgb[:1],
        episode.target_c2w[None],
        num_context_latents=SMOKE.task.context_latents,
        num_inference_steps=1,
        generator=torch.Generator().manual_seed(3),
    )
    assert torch.equal(predict(pipeline, episode, SMOKE, seed=3)["frames"], grouped_frames(output.context_index))


def test_unheard_the_context_is_attended_to_by_no_block(pipeline):
    """As a model with the same weights that was built so; afterwards it is as before."""
    episode = navigation_episode("validation", 0, SMOKE.task)
    with torch.no_grad():
        for parameter in pipeline.transformer.parameters():  # nothing is left at zero
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    heard = predict(pipeline, episode, SMOKE)["clip"]
    deaf = load_pipeline("smoke")
    deaf.transformer = ContextVideoTransformer(**SMOKE.model | {"context_blocks": []}).eval()
    deaf.transformer.load_state_dict(pipeline.transformer.state_dict())
    with unheard(pipeline.transformer):
        clip = predict(pipeline, episode, SMOKE)["clip"]
    torch.testing.assert_close(clip, predict(deaf, episode, SMOKE)["clip"], atol=1e-5, rtol=0)
    assert (clip - heard).abs().max() > 1e-3
    torch.testing.assert_close(predict(pipeline, episode, SMOKE)["clip"], heard, atol=1e-5, rtol=0)


def test_a_plan_is_measured_against_the_object(pipeline):
    """A plan that ends half a turn from the start is off by what the start's back is; one that stays by what it is."""
    episode = grounding_episode("validation", 1, SMOKE.task)
    off = degrees_off(episode.target_c2w[0], middle(episode.item))
    assert off > 45  # the start frame does not show it
    for last, expected in ((torch.eye(4), off), (torch.diag(torch.tensor([-1.0, 1, -1, 1])), 180 - off)):
        measures = measure_plan(last, episode)
        assert measures["start frame off the object (deg)"] == pytest.approx(off)
        assert measures["plan, last frame off the object (deg)"] == pytest.approx(expected, abs=1e-2)
    assert degrees_off(torch.eye(4), torch.tensor([0.0, 0, 3])) == pytest.approx(0, abs=1e-3)
    assert degrees_off(torch.eye(4), torch.tensor([2.0, 0, 2])) == pytest.approx(45, abs=1e-3)


def test_the_plan_that_is_measured_is_the_pipelines(pipeline):
    episode = grounding_episode("validation", 1, SMOKE.task)
    output = pipeline(
        episode.scan.rgb,
        episode.target_frames[:1],
        instruction=episode.instruction,
        num_frames=len(episode.target_frames),
        num_context_latents=SMOKE.task.context_latents,
        num_inference_steps=1,
    )
    assert diagnose_plan(pipeline, SMOKE, 1) == measure_plan(output.camera_path[0, -1, -1], episode)


def test_the_command_prints_a_table_and_refuses_an_unknown_preset(capsys):
    assert main(["--preset", "smoke", "--rooms", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| measure | mean | median |" and len(lines) == 2 + 10
    assert main(["--preset", "huge"]) == 2
    assert capsys.readouterr().err.startswith("expected a preset out of")
    assert main(["--rooms", "0"]) == 2
    assert capsys.readouterr().err == "expected rooms of 1 or more, got 0: ask for more\n"
