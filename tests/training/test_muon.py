"""Muon: the update of torch's own, whatever it computes in."""

import torch

from v4s_lib.training.muon import Muon, orthogonal

SHAPES = [(24, 24), (24, 96), (96, 24), (24, 24)]


def test_it_updates_as_torch_does():
    """Three steps, with momentum and decay; torch computes in bf16, so within one part in fifty of the largest."""
    generator = torch.Generator().manual_seed(0)
    ours, theirs = ([torch.nn.Parameter(torch.ones(shape)) for shape in SHAPES] for _ in range(2))
    settings = {"lr": 0.02, "weight_decay": 0.1}
    optimizers = Muon(ours, **settings), torch.optim.Muon(theirs, **settings)
    for _ in range(3):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn(one.shape, generator=generator)
            other.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for one, other in zip(ours, theirs, strict=True):
        moved = (other - 1).abs().max().item()
        torch.testing.assert_close(one, other, atol=0.02 * moved, rtol=0)
    saved, loaded = optimizers[1].state_dict(), Muon(ours, **settings)
    loaded.load_state_dict(saved)  # a run that torch's own began goes on
    state = loaded.state[ours[1]]["momentum_buffer"]
    torch.testing.assert_close(state, optimizers[1].state[theirs[1]]["momentum_buffer"])


def test_parameters_without_gradient_stay():
    parameters = [torch.nn.Parameter(torch.ones(4, 6)) for _ in range(2)]
    parameters[0].grad = torch.eye(4, 6)
    Muon(parameters, lr=0.1, weight_decay=0.0).step()
    assert torch.equal(parameters[1], torch.ones(4, 6))
    assert not torch.equal(parameters[0], torch.ones(4, 6))


def test_singular_values_come_near_to_one():
    generator = torch.Generator().manual_seed(0)
    for shape in SHAPES:
        values = torch.linalg.svdvals(orthogonal(torch.randn(3, *shape, generator=generator)))
        assert 0.2 < values.min() and values.median() > 0.6 and values.max() < 1.3
