"""Flow matching on the target latents: what the model is shown, what it is asked, how wrong it was.

A target latent x and noise e are mixed to x_t = (1 - sigma) x + sigma e. The start latent stays clean, the context is
clean or, for the unconditional branch, noise. Source of the objective: PAPER.md §2; weights and rates are our choice.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from v4s_lib.model.localizer import pose_numbers


@dataclass(frozen=True)
class LossConfig:
    sigma_mean: float = 1.0  # of the logit-normal from which sigma is drawn; > 0 favours high noise
    min_sigma: float = 0.3  # the error of clean latents is divided by max(sigma, min_sigma)**2
    drop_context: float = 0.1  # share of contexts replaced by noise, with their targets' paths dropped
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


def flow_matching_loss(model, sample: Sample, config: LossConfig, generator: torch.Generator) -> Tensor:
    """Mean weighted squared error of the predicted clean latents, over the noisy latents.

    Noise is drawn on the CPU in float32 and moved, so that every device sees the same.
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
    no_path = no_context.repeat_interleave(count // len(context)) | (uniform(count) < config.drop_instruction)
    output, context_poses, start_pose = model(
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
        known = (~no_context).float()
        error = (context_poses - pose_numbers(sample.context_poses)).square().mean(dim=(1, 2, 3, 4))
        start_error = (start_pose - pose_numbers(sample.start_pose)).square().mean(dim=(1, 2))
        error = error + start_error.unflatten(0, (len(known), -1)).mean(dim=1)
        loss = loss + config.localization * (error * known).mean()
    return loss
