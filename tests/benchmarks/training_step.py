"""A training step of the plain one-way model against the same step around diffusers' own Wan transformer.

Both have the width, the layers, the data, the optimizer and the precision of preset ``small``, or on a GPU ``base``,
without the parts that the paper does not have. The stock model has no context of its own: context and target are one
sequence, clean latents with timestep 0, so every target of a context carries the context again. Rooms are not rendered
here.
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn

from v4s_lib.evaluation.ratios import Comparison, throughput, time_pairs
from v4s_lib.model.transformer import ContextVideoTransformer
from v4s_lib.training.loop import make_optimizer
from v4s_lib.training.presets import BASE, SMALL, SMOKE, Preset
from v4s_lib.training.processor import fast_attention, fast_bf16, make_accelerator
from v4s_lib.training.utilisation import wait

WORDS = 8  # of an instruction

Predict = Callable[[nn.Module, "Batch", Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Batch:
    """S contexts with M targets each, random, always the same."""

    context: Tensor  # (S, C, P, h, w)
    target: Tensor  # (S*M, C, T, h, w), the first latent is given
    text: Tensor  # (S*M, L, text_dim)


def make_batch(preset: Preset, targets: int, device: torch.device) -> Batch:
    """As many targets as a step of the preset has, ``targets`` of them a context."""
    task, channels = preset.task, preset.model["in_channels"]
    rows, columns = preset.model["position_size"]
    count = preset.contexts * task.targets
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    return Batch(
        draw(count // targets, channels, task.context_latents, rows, columns),
        draw(count, channels, task.target_latents + task.tail_latents, rows, columns),
        draw(count, WORDS, preset.model["text_dim"]),
    )


def make_model(preset: Preset, stock: bool) -> nn.Module:
    """The preset's sizes in the stock class or, with one-way attention and nothing else, in ours."""
    names = ("patch_size", "num_attention_heads", "attention_head_dim", "in_channels", "text_dim", "freq_dim")
    sizes = {name: preset.model[name] for name in (*names, "ffn_dim", "num_layers")}
    torch.manual_seed(0)
    if stock:
        return WanTransformer3DModel(**sizes, out_channels=sizes["in_channels"])
    return ContextVideoTransformer(**sizes, context_attention="one_way")


def predict_ours(model: nn.Module, batch: Batch, noisy: Tensor, timestep: Tensor) -> Tensor:
    times = torch.arange(batch.context.shape[2] + 4 + noisy.shape[2], device=noisy.device)
    index = times[: batch.context.shape[2]].expand(len(batch.context), -1)
    target_index = times[-noisy.shape[2] :].expand(len(noisy), -1)
    return model(noisy, timestep, target_index, batch.context, index, encoder_hidden_states=batch.text)


def predict_stock(model: nn.Module, batch: Batch, noisy: Tensor, timestep: Tensor) -> Tensor:
    given = batch.context.shape[2] + 1  # latents that are clean: the context's and the start's
    context = batch.context.repeat_interleave(len(noisy) // len(batch.context), 0)
    joined = torch.cat([context, noisy], dim=2)
    times = timestep[:, None].repeat(1, joined.shape[2])
    times[:, :given] = 0
    times = times.repeat_interleave(joined[0, 0, 0].numel(), dim=1)  # one for each token
    return model(joined, times, batch.text, return_dict=False)[0][:, :, given - 1 :]


def make_step(
    preset: Preset, predict: Predict, targets: int, compiled: bool, precision: str, device: torch.device
) -> Callable[[], None]:
    """One optimizer step, of our model or of the stock one; the device is waited for."""
    model, batch = make_model(preset, predict is predict_stock).to(device), make_batch(preset, targets, device)
    optimizer = make_optimizer(model, preset)
    if compiled:
        model.compile_repeated_blocks()
    generator = torch.Generator(device).manual_seed(1)
    accelerator = make_accelerator("bf16" if precision == "bf16" else "no")

    def step() -> None:
        sigma = torch.rand(len(batch.target), generator=generator, device=device)
        mix = sigma[:, None, None, None, None]
        noise = torch.randn(batch.target.shape, generator=generator, device=device)
        noisy = torch.cat([batch.target[:, :, :1], ((1 - mix) * batch.target + mix * noise)[:, :, 1:]], dim=2)
        with fast_attention(accelerator):  # as in training, for either
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                output = predict(model, batch, noisy, 1000 * sigma)
            (output.float() - batch.target)[:, :, 1:].square().mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        wait(device)

    return step


def can_do(way: str, device: torch.device) -> bool:
    """Whether it is done there in training: bf16 is not where it would be emulated, compiling needs a compiler."""
    if way.startswith("compiled") and device.type == "cpu" and shutil.which("g++") is None:
        return False
    return not way.endswith("bf16") or fast_bf16(device)


def compare(pairs: int, quick: bool, device: torch.device) -> Iterator[Comparison]:
    """The rows; ``quick`` takes preset smoke and compiles nothing."""
    preset = SMOKE if quick else BASE if device.type == "cuda" else SMALL
    targets = preset.task.targets
    moving = preset.contexts * targets * (preset.task.target_latents - 1 + preset.task.tail_latents)
    shared, alone = f"one-way, {targets} targets a context", "one-way, 1 target"
    for way in ["eager, float32"] if quick else ["eager, float32", "compiled, float32", "compiled, bf16"]:
        what = f"training, preset {preset.name}, noisy target latents a second, {way}"
        pairings = ((shared, "stock Wan"), (shared, alone), (alone, "stock Wan"))
        if not can_do(way, device):
            yield from (Comparison(what, *names, "latents/s", []) for names in pairings)
            continue
        torch.compiler.reset()  # or the many models of one class use up what dynamo keeps of it
        how = {"compiled": way.startswith("compiled"), "precision": way.split()[-1], "device": device}
        make = partial(make_step, preset, **how)
        steps = {
            shared: make(predict_ours, targets),
            alone: make(predict_ours, 1),
            "stock Wan": make(predict_stock, targets),
        }
        for ours, other in pairings:
            measured = throughput(time_pairs(steps[ours], steps[other], pairs), moving, moving)
            yield Comparison(what, ours, other, "latents/s", measured)
