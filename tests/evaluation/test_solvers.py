"""Solvers on flows whose end is known, and in the pipeline."""

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from v4s_lib.data.navigation import navigation_episode
from v4s_lib.evaluation.solvers import SOLVERS, evaluations, make_scheduler
from v4s_lib.training.presets import SMOKE
from v4s_lib.training.weights import load_pipeline

SPREAD = 0.5  # of Gaussian data; the flow takes noise x to SPREAD * x


def levels(steps: int) -> np.ndarray:
    """As the pipeline spaces them."""
    return np.linspace(1.0, 1 / steps, steps)


def follow(solver: str, steps: int, velocity, shift: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """From noise (1, 5) to the end, as the pipeline does it; returns both."""
    noise = torch.randn(1, 5, generator=torch.Generator().manual_seed(0))
    scheduler, latents = make_scheduler(solver, shift), noise
    scheduler.set_timesteps(sigmas=levels(steps), device="cpu")
    for step, timestep in enumerate(scheduler.timesteps):
        change = velocity(latents, scheduler.sigmas[step].item())
        latents = scheduler.step(change, timestep, latents, return_dict=False)[0]
    return noise, latents


def gaussian(latents: torch.Tensor, sigma: float) -> torch.Tensor:
    """The true velocity where the data are Gaussian around 0."""
    variance = (1 - sigma) ** 2 * SPREAD**2 + sigma**2
    return (sigma - (1 - sigma) * SPREAD**2) / variance * latents


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_straight_flow_is_followed_exactly(solver, steps):
    """All data in one point: the clean sample is the same whatever the noise."""
    point = torch.arange(5.0)[None]
    _, end = follow(solver, steps, lambda latents, sigma: (latents - point) / sigma)
    torch.testing.assert_close(end, point, atol=1e-4, rtol=0)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_curved_flow_is_followed_the_better_the_more_steps(solver):
    errors = []
    for steps in (5, 20, 80):
        noise, end = follow(solver, steps, gaussian)
        errors.append((end - SPREAD * noise).abs().max().item())
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[2] < 0.03


def test_solvers_of_second_order_are_nearer_than_euler():
    far = {}
    for solver in SOLVERS:
        noise, end = follow(solver, 20, gaussian)
        far[solver] = (end - SPREAD * noise).abs().max().item()
    assert max(far[solver] for solver in SOLVERS if solver != "euler") < far["euler"] / 3


@pytest.mark.parametrize("shift", [1.0, 5.0])
@pytest.mark.parametrize("steps", [1, 3, 10])
def test_all_solvers_ask_at_the_noise_levels_of_euler(steps, shift):
    expected = make_scheduler("euler", shift)
    expected.set_timesteps(sigmas=levels(steps), device="cpu")
    for solver in SOLVERS:
        scheduler = make_scheduler(solver, shift)
        scheduler.set_timesteps(sigmas=levels(steps), device="cpu")
        assert len(scheduler.timesteps) == evaluations(solver, steps)
        asked = scheduler.sigmas[: len(scheduler.timesteps)]
        torch.testing.assert_close(asked.unique(), expected.sigmas[:-1].unique(), atol=2e-6, rtol=0)
        torch.testing.assert_close(scheduler.timesteps, 1000 * asked)


def test_the_pipeline_samples_with_every_solver_and_with_euler_as_before():
    pipeline, episode = load_pipeline("smoke"), navigation_episode("validation", 0, SMOKE.task)

    def sample(steps: int) -> torch.Tensor:
        start, path = episode.target.rgb[:1], episode.target_c2w[None]
        return pipeline(episode.scan.rgb, start, path, num_context_latents=4, num_inference_steps=steps).frames

    own = pipeline.scheduler
    assert type(own) is type(make_scheduler("euler")) is FlowMatchEulerDiscreteScheduler
    before = {steps: sample(steps) for steps in (1, 2, 3)}
    for solver in SOLVERS:
        pipeline.scheduler = make_scheduler(solver, SMOKE.shift)
        for steps in (1, 2, 3, 10):
            frames = sample(steps)
            assert torch.isfinite(frames).all() and frames.shape == before[1].shape
            if solver == "euler" and steps in before:
                assert torch.equal(frames, before[steps])
            if solver != "euler" and steps == 1:  # one step from noise is the same for all
                torch.testing.assert_close(frames, before[1], atol=1e-3, rtol=0)
            if solver != "euler" and steps == 3:
                assert not torch.allclose(frames, before[3], atol=1e-5)


def test_an_unknown_solver_is_refused():
    with pytest.raises(ValueError, match="^expected a solver out of euler, heun, .* got 'magic': choose"):
        make_scheduler("magic")
