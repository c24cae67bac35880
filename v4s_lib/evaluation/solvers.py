"""Ways to follow the flow from noise to a video: schedulers of diffusers that the pipeline can be given.

The pipeline names the noise level of every step, evenly spaced from 1 down to 1/n, as the model was trained; of
diffusers' schedulers only Euler's takes them as they are. Here the others get the same levels, as exact numbers and not
rounded to whole timesteps, so that a table compares solvers and not schedules.
"""

import numpy as np
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    SchedulerMixin,
    UniPCMultistepScheduler,
)

SOLVERS = ("euler", "heun", "unipc", "dpmsolver")
HIGHEST = 1 - 1e-6  # noise level for which the multistep solvers still have a logarithm of what is left of the signal


class HeunScheduler(FlowMatchHeunDiscreteScheduler):
    """Heun's method; all but the last step ask the model twice."""

    def set_timesteps(self, sigmas: np.ndarray, device: torch.device | str | None = None) -> None:
        """Evenly spaced ``sigmas``, falling."""
        self.sigma_max, self.sigma_min = float(sigmas[0]), float(sigmas[-1])  # the rest is spaced between them
        super().set_timesteps(len(sigmas), device)


class UniPCScheduler(UniPCMultistepScheduler):
    """UniPC of second order (arXiv 2302.04867)."""

    def set_timesteps(self, sigmas: np.ndarray, device: torch.device | str | None = None) -> None:
        """Any falling ``sigmas``."""
        super().set_timesteps(len(sigmas), device)
        self.sigmas, self.timesteps = _schedule(sigmas, self.config.flow_shift, device)


class DPMSolverScheduler(DPMSolverMultistepScheduler):
    """DPM-Solver++ of second order (arXiv 2211.01095)."""

    def set_timesteps(self, sigmas: np.ndarray, device: torch.device | str | None = None) -> None:
        """Any falling ``sigmas``."""
        super().set_timesteps(len(sigmas), device)
        self.sigmas, self.timesteps = _schedule(sigmas, self.config.flow_shift, device)


def _schedule(sigmas: np.ndarray, shift: float, device: torch.device | str | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Shifted noise levels with 0 at the end (n + 1), and their timesteps (n,) in 0..1000."""
    shifted = np.minimum(shift * sigmas / (1 + (shift - 1) * sigmas), HIGHEST)
    levels = torch.tensor([*shifted, 0.0], dtype=torch.float32)
    return levels, (1000 * levels[:-1]).to(device)


def make_scheduler(solver: str, shift: float = 1.0) -> SchedulerMixin:
    """The scheduler of a solver, out of ``SOLVERS``; ``shift`` is a preset's, towards high noise."""
    if solver not in SOLVERS:
        raise ValueError(f"expected a solver out of {', '.join(SOLVERS)}, got {solver!r}: choose one of them")
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": shift}
    if solver == "unipc":
        return UniPCScheduler(**flow)
    if solver == "dpmsolver":
        return DPMSolverScheduler(**flow)
    return HeunScheduler(shift=shift) if solver == "heun" else FlowMatchEulerDiscreteScheduler(shift=shift)


def evaluations(solver: str, steps: int) -> int:
    """How often a model is asked in ``steps`` steps of a solver; it is what a sample costs."""
    return 2 * steps - 1 if solver == "heun" else steps
