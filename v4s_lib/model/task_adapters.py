"""An option (claim C2): small adapters for each task on one shared base, chosen by what the instruction asks for.

Source: the review names "lightweight task-specific adapters"; low rank, added to the tokens before each block, is ours.
"""

import torch
from torch import Tensor, nn

from v4s_lib.worlds.objects import KINDS

TASKS = 2  # to follow a path, and to seek an object


class TaskAdapter(nn.Module):
    """A change of low rank to a target's tokens, another one for each task; zero at first.

    Args:
        dim: width of the tokens.
        rank: of the change.
    """

    def __init__(self, dim: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(TASKS, dim, rank) / dim**0.5)
        self.up = nn.Parameter(torch.zeros(TASKS, rank, dim))

    def forward(self, states: Tensor, seeks: Tensor) -> Tensor:
        """Tokens (B, N, D), changed for their task; ``seeks`` (B,) says which targets seek an object."""
        task = seeks.long()
        return states + (states.float() @ self.down[task] @ self.up[task]).type_as(states)


def seeks_object(words: Tensor | None, vocabulary: list[str], states: Tensor) -> Tensor:
    """Which of the targets with tokens ``states`` (B, N, D) are asked for an object.

    ``words`` (B, L) are indices into the vocabulary, counted from 1; without words, and for the null text, none is.
    """
    if words is None:
        return torch.zeros(len(states), dtype=torch.bool, device=states.device)
    things = [number for number, word in enumerate(vocabulary, start=1) if word in KINDS]
    return torch.isin(words, torch.tensor(things, device=words.device)).any(dim=1)
