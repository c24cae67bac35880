"""The sum of what is alive, for tensors of known sizes."""

import pytest
import torch
from torch import nn

from v4s_lib.training.memory import held_bytes, peak_bytes


def test_sums_of_known_tensors():
    """Two of 400 bytes and a sum of 400; the first is gone when the fourth comes; a view is nothing new."""

    def run() -> torch.Tensor:
        first, second = (torch.zeros(100, device="meta") for _ in range(2))
        third = first.view(10, 10).t() + second.view(10, 10)
        del first
        return third + 1

    assert peak_bytes(nn.Identity(), run) == 1200
    weights = nn.Linear(10, 10, device="meta")
    assert peak_bytes(weights, lambda: weights.weight.t()) == 0
    assert peak_bytes(nn.Identity(), lambda: torch.zeros(1000)) == 0  # waits on the CPU
    queries = torch.empty(1, 2, 1000, 8, device="meta")
    attention = nn.functional.scaled_dot_product_attention
    assert peak_bytes(nn.Identity(), lambda: attention(queries, queries, value=queries)) == 2 * 1000 * 8 * 4


@pytest.mark.parametrize(("together", "tensors"), [(False, 1), (True, 3)])
def test_what_is_held_at_one_time_is_measured(together, tensors):
    """Three tensors of 4 MiB, one after the other or together."""

    def run() -> list[torch.Tensor]:
        kept = []
        for _ in range(3):
            value = torch.zeros(2**20)
            if together:
                kept.append(value)
            del value
        return kept

    assert held_bytes(run, torch.device("cpu")) == pytest.approx(tensors * 4 * 2**20, rel=0.01)


def test_a_sum_holds_its_parts_while_it_is_made():
    """Two tensors of 4 MiB and their sum, then, without them, one of 8 MiB: 12 MiB."""

    def run() -> torch.Tensor:
        total = torch.zeros(2**20) + torch.ones(2**20)
        del total
        return torch.zeros(2**21)

    assert abs(held_bytes(run, torch.device("cpu")) - 12 * 2**20) < 4096
