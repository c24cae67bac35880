"""The loop that teaches a small network which needs no curriculum, no checkpoints and no average of its weights."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm


def fit(network: nn.Module, loss_of: Callable[[], Tensor], steps: int, rate: float, progress: bool = True) -> float:
    """Lower the loss of a fresh batch in every step; returns its mean over the last tenth of the steps.

    Args:
        network: taught in place.
        loss_of: draws a batch and gives its loss, a scalar.
        steps: of AdamW, along one cycle of its rate.
        rate: the highest of the cycle.
        progress: whether to show a bar, named after the network.
    """
    optimizer = torch.optim.AdamW(network.parameters(), rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=max(2, steps))
    losses = []
    for _ in (bar := tqdm(range(steps), disable=not progress, desc=type(network).__name__)):
        loss = loss_of()
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        bar.set_postfix(loss=f"{losses[-1]:.3f}")
    last = losses[-max(1, steps // 10) :]
    return sum(last) / max(1, len(last))
