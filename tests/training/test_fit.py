"""The loop for small networks: it finds a line, and says how well."""

import pytest
import torch
from torch.nn.functional import mse_loss

from v4s_lib.training.fit import fit


def test_a_line_is_found():
    """From points of y = 3x - 1 a linear layer learns its slope and offset; the loss said is that of the end."""
    torch.manual_seed(0)
    line = torch.nn.Linear(1, 1)

    def loss() -> torch.Tensor:
        x = torch.rand(32, 1) * 2 - 1
        return mse_loss(line(x), 3 * x - 1)

    at_first = fit(line, loss, 1, 1e-1, progress=False)
    at_last = fit(line, loss, 300, 1e-1, progress=False)
    assert line.weight.item() == pytest.approx(3, abs=0.05) and line.bias.item() == pytest.approx(-1, abs=0.05)
    assert at_last < 1e-2 < at_first
