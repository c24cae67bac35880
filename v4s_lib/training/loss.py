"""Flow matching on the target latents: what the model is shown, what it is asked, how wrong it was.

A target latent x and noise e are mixed to x_t = (1 - sigma) x + sigma e. The start latent stays clean, the context is
clean or, for the unconditional branch, noise. Source of the objective: PAPER.md §2; weights and rates are our choice.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from v4s_lib.model.localizer import pose_numbers


@dataclass(frozen=True)
class LossConfig:
    sigma_mean: float = 1.0  # of the logit-normal from which sigma is drawn; > 0 favours high noise
    min_sigma: float = 0.3  # the error of clean latents is divided by max(sigma, min_sigma)**2
    drop_context: float = 0.1  # share of contexts replaced by noise; half of their targets' paths are dropped too
    drop_instruction: float = 0.1  # share of targets whose path alone is dropped
    localization: float = 1.0  # weight of the localizer's squared error, where the model has one
    use_context: bool = True  # False trains the first-frame-only baseline: no context tokens at all


@dataclass
class Sample:
    """Latents of S contexts with M targets each, as the transformer takes them."""

    context_latents: Tensor  # (S, C, P, h, w)
    context_time_index: Tensor  # (S, P)
    target_latents: Tensor  # (S*M, C, T, h, w), clean
    target_time_index: Tensor  # (S*M, T)
    camera_path: Tensor  # (S*M, T, 4, 4, 4) relative to the start frame
    context_poses: Tensor  # (S, P, 4, 4, 4) relative to the last context frame; teaches a localizer, nothing else
    start_pose: Tensor  # (S*M, 4, 4) of the start frame, likewise


@contextlib.contextmanager
def teacher_forcing(model, sample: Sample, known: Tensor) -> Iterator[None]:
    """Where ``known`` (S,), the blocks after the localizer are told true poses in place of its own.

    It acts from outside, in training: the model itself has no argument for context poses.
    """
    localizer = getattr(getattr(model, "module", model), "localizer", None)  # .module: the model inside DDP
    if localizer is None:
        yield
        return
    truth = iter((sample.context_poses, sample.start_pose[:, None, None]))  # in the order in which they are told

    def swap(module, arguments, told: Tensor | None) -> Tensor | None:
        if told is None:  # no context, nothing to tell
            return None
        mask = known.repeat_interleave(len(told) // len(known))[:, None, None, None, None]
        return torch.where(mask, pose_numbers(next(truth)).expand_as(told), told)

    handle = localizer.told.register_forward_hook(swap)
    try:
        yield
    finally:
        handle.remove()


def localization_loss(context_poses: Tensor, start_poses: Tensor, sample: Sample, counted: Tensor) -> Tensor:
    """Mean squared error of the localizer's predictions over the contexts (S,) that are ``counted``."""
    error = (context_poses - pose_numbers(sample.context_poses)).square().mean(dim=(1, 2, 3, 4))
    start_error = (start_poses[:, 0, -1] - pose_numbers(sample.start_pose)).square().mean(dim=(1, 2))
    error = error + start_error.unflatten(0, (len(error), -1)).mean(dim=1)
    return (error * counted).mean()


def flow_matching_loss(
    model, sample: Sample, config: LossConfig, generator: torch.Generator, true_poses: float = 0.0
) -> Tensor:
    """Mean weighted squared error of the predicted clean latents, over the noisy latents.

    Noise is drawn on the CPU in float32 and moved, so that every device sees the same. In a share ``true_poses`` of
    the contexts the blocks after the localizer are given true poses in place of predicted ones.
    """
    target, context = sample.target_latents, sample.context_latents
    count, device = len(target), target.device

    def uniform(size: int) -> Tensor:
        return torch.rand(size, generator=generator).to(device)

    def normal(shape: torch.Size) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    sigma = torch.sigmoid(normal(torch.Size([count])) + config.sigma_mean)[:, None, None, None, None]
    noisy = torch.cat([target[:, :, :1], ((1 - sigma) * target + sigma * normal(target.shape))[:, :, 1:]], dim=2)
    no_context = uniform(len(context)) < config.drop_context
    context = torch.where(no_context[:, None, None, None, None], normal(context.shape), context)
    condition = {
        "context_latents": context,
        "context_time_index": sample.context_time_index,
        "context_timestep": 1000.0 * no_context,
    }
    lost = no_context.repeat_interleave(count // len(context)) & (uniform(count) < 0.5)
    no_path = lost | (uniform(count) < config.drop_instruction)
    with teacher_forcing(model, sample, uniform(len(context)) < true_poses):
        output, context_poses, start_poses = model(
            noisy,
            1000 * sigma.flatten(),
            sample.target_time_index,
            **(condition if config.use_context else {}),
            camera_path=sample.camera_path,
            camera_mask=~no_path,
            return_poses=True,
        )
    error = (output.float() - target)[:, :, 1:] / sigma.clamp(min=config.min_sigma)
    loss = error.square().mean()
    if context_poses is not None:
        loss = loss + config.localization * localization_loss(context_poses, start_poses, sample, ~no_context)
    return loss
