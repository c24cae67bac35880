"""How much memory a function needs at its peak: measured and, where there is not as much, found out without it.

On PyTorch's meta device a tensor has a shape and no memory, so that a model of any size can be run there, operation by
operation. What is alive is added up as it comes and goes. Tests hold the sum against the allocations of real runs.
"""

import weakref
from collections.abc import Callable
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


@torch.no_grad()
def peak_bytes(model: nn.Module, run: Callable[[], Any]) -> int:
    """The most that is alive on the meta device while ``run`` runs, bytes; the model's weights left out."""
    with FusedAttention(), Alive(model) as alive:
        run()
    return alive.most


def held_bytes(call: Callable[[], Any], device: torch.device) -> int:
    """Most bytes that a call holds at one time, beyond those before it, by torch's own allocator: it is run."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))


class FusedAttention(TorchFunctionMode):
    """Attention as a GPU computes it, without its scores in memory; the meta device would compose it of products."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is scaled_dot_product_attention:
            return torch.empty_like(args[0] if args else kwargs["query"])
        return function(*args, **(kwargs or {}))


class Alive(TorchDispatchMode):
    """Adds up the bytes of what operations make, for as long as it lives; ``most`` is the largest sum there was.

    Tensors on other devices than ``device`` are not counted, nor the weights of ``model`` and the gradients they have.
    """

    def __init__(self, model: nn.Module, device: str = "meta") -> None:
        super().__init__()
        self.now = self.most = 0
        self.device = device
        # A view has the storage of the tensor that it is of, and must not be counted again.
        gradients = [value.grad for value in model.parameters() if value.grad is not None]
        self.there = [value.untyped_storage() for value in (*model.parameters(), *model.buffers(), *gradients)]
        self.known = {id(storage) for storage in self.there}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, Tensor) and value.device.type == self.device:
                self._count(value.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        if id(storage) in self.known:
            return
        self.known.add(id(storage))
        self.now += storage.nbytes()
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._forget, id(storage), storage.nbytes())

    def _forget(self, storage: int, size: int) -> None:
        self.known.discard(storage)
        self.now -= size
