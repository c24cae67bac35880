"""The sum of what is alive, for tensors of known sizes."""

import torch
from torch import nn

from v4s_lib.training.memory import peak_bytes


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
