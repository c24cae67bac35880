"""The memory of a sample: formulas against what real forward and backward passes hold, and at their worst moment."""

import weakref

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.training.tiny_jobs import EVERY, WAYS, WITHIN, build, loss_of, rows_of_square
from v4s_lib.model import blocks
from v4s_lib.training import activations, costs
from v4s_lib.training.costs import Job
from v4s_lib.training.full import BASE_LIKE, FULL
from v4s_lib.training.memory import Alive


class Held:
    """What autograd holds for the backward; detached, or a result that is held would hold itself for ever."""

    def __init__(self, value: Tensor) -> None:
        self.value = value.detach()


def checkpoint_block(block: nn.Module) -> None:
    """Gradient checkpointing of one block; all tensors that enter are named, so that none is held unseen."""
    forward = block.forward

    def run(states, modulation, cosines, sines, text, key, value) -> tuple[Tensor, Tensor, Tensor]:
        context = None if key is None else (key, value)
        states, own = forward(states, modulation, (cosines, sines), text, context)
        return states, *own

    def checkpointed(states, modulation, rotary, text=None, context=None, rotate_values=False):
        entering = (states, modulation, *rotary, text, *(context or (None, None)))
        states, key, value = checkpoint(run, *entering, use_reentrant=False)
        return states, (key, value)

    block.forward = checkpointed


def measure_activations(job: Job, dtype: torch.dtype, checkpointing: bool = False) -> int:
    """Bytes of the different storages that are held once the forward pass is over, parameters and buffers left out."""
    model = build(job, dtype=dtype)
    if checkpointing:
        for block in model.blocks:
            checkpoint_block(block)
    known = {value.untyped_storage().data_ptr() for value in [*model.parameters(), *model.buffers()]}
    held = weakref.WeakSet()

    def pack(value: Tensor) -> Held:
        holder = Held(value)
        held.add(holder)
        return holder

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda holder: holder.value):
        loss = loss_of(model, job, rows_of_square(job))
        storages = {h.value.untyped_storage().data_ptr(): h.value.untyped_storage().nbytes() for h in held}
    assert loss.requires_grad  # and so the graph is still there
    return sum(size for place, size in storages.items() if place not in known)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@WAYS
@EVERY
def test_activations(sizes, way, dtype):
    job = Job(sizes[0], way, *sizes[1:])
    measured = measure_activations(job, dtype)
    assert activations.kept(job, dtype.itemsize, fused=False) == pytest.approx(measured, **WITHIN)


@WAYS
@EVERY
def test_activations_with_checkpointing(sizes, way):
    job = Job(sizes[0], way, *sizes[1:])
    measured = measure_activations(job, torch.bfloat16, checkpointing=True)
    assert activations.kept_with_checkpointing(job, 2) == pytest.approx(measured, **WITHIN)


def measure_peak(job: Job, checkpointing: bool, device: str = "cpu") -> int:
    """Bytes at the worst moment of a real forward and backward in bf16, weights and their gradients left out."""
    model = build(job, device, torch.bfloat16)
    if checkpointing:
        model.enable_gradient_checkpointing()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    with Alive(model, device) as alive:
        loss_of(model, job, rows=8 if device == "meta" else rows_of_square(job), device=device).backward()
    return alive.most


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@WAYS
@EVERY
def test_the_worst_moment(sizes, way, checkpointing):
    """Over forward and backward: by the end of the targets' backward, gradients wait for that of a one_way context."""
    job = Job(sizes[0] | {"num_layers": 12}, way, *sizes[1:])
    expected = activations.peak(job, checkpointing, 2, fused=False)
    assert expected == pytest.approx(measure_peak(job, checkpointing), rel=0.06)


class Fused(torch.autograd.Function):
    """Attention without its scores, as a GPU's: what it makes and keeps, without values."""

    @staticmethod
    def forward(ctx, query, key, value):
        result = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, result)
        return result

    @staticmethod
    def backward(ctx, gradient):
        return tuple(torch.empty_like(entered) for entered in ctx.saved_tensors[:3])


@WAYS
def test_the_worst_moment_of_the_5b_model(way, monkeypatch):
    """At the paper's sizes, with checkpointing, on tensors without memory; there the RMS norms are not fused."""
    for place in (nn.functional, blocks):
        monkeypatch.setattr(
            place, "scaled_dot_product_attention", lambda query, key, value, **_: Fused.apply(query, key, value)
        )
    job = costs.job_of(FULL, way)
    measured = measure_peak(job, True, "meta")
    assert activations.peak(job, True, 2, fused=False) == pytest.approx(measured, rel=0.06)
    assert activations.peak(job, True) == pytest.approx(measured, rel=0.08)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@WAYS
def test_the_worst_moment_on_a_gpu(way, checkpointing):
    """A model of one GPU's size, in bf16; what the allocator counts is a little more, for it rounds sizes up."""
    job = costs.job_of(BASE_LIKE, way)
    model = build(job, "cuda", torch.bfloat16)
    if checkpointing:
        model.enable_gradient_checkpointing()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    loss_of(model, job, 4, "cuda").backward()  # libraries take their workspaces once
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    loss_of(model, job, 4, "cuda").backward()
    measured = torch.cuda.max_memory_allocated() - before
    assert activations.peak(job, checkpointing) == pytest.approx(measured, rel=0.1)
