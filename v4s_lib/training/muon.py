"""Muon (Jordan 2024), for processors that have no bf16 instructions, too.

``torch.optim.Muon`` orthogonalises in bf16, one matrix after the other; where bf16 is emulated that takes seconds.
Source: https://kellerjordan.github.io/posts/muon/; update, rates and state are those of torch.
"""

import math
from collections import defaultdict

import torch
from torch import Tensor

from v4s_lib.training.processor import fast_bf16

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the Newton-Schulz iteration, by Jordan, as in torch
ITERATIONS = 5


class Muon(torch.optim.Muon):
    """``torch.optim.Muon`` with its default settings, but for the type it computes in.

    It takes all matrices of one shape at once. Learning rate, weight decay and momentum can be chosen.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One update; parameters without a gradient stay as they are."""
        for group in self.param_groups:
            alike = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike[parameter.shape].append(parameter)
            for shape, parameters in alike.items():
                updates = orthogonal(torch.stack([self._momentum(p, group["momentum"]) for p in parameters]))
                rate = group["lr"] * math.sqrt(max(1, shape[0] / shape[1]))
                for parameter, update in zip(parameters, updates, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-rate)

    def _momentum(self, parameter: Tensor, share: float) -> Tensor:
        """The gradient, led on by the running mean of the gradients (Nesterov), which is updated."""
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        mean = state["momentum_buffer"].lerp_(parameter.grad, 1 - share)
        return parameter.grad.lerp(mean, share)


def orthogonal(matrices: Tensor) -> Tensor:
    """Matrices (N, R, C) with the same singular vectors, about, and singular values all near 1."""
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    dtype = torch.bfloat16 if fast_bf16(x.device) else torch.float32
    x = (x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)).to(dtype)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).type_as(matrices)
