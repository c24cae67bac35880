"""Flow matching on the target latents: what the model is shown, what it is asked, how wrong it was.

A target latent x and noise e are mixed to x_t = (1 - sigma) x + sigma e. The start latent stays clean, the context is
clean or, for the unconditional branch, noise. Source of the objective: PAPER.md §2; weights and rates are our choice.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from v4s_lib.model.codec import FRAMES_PER_LATENT, to_pixels
from v4s_lib.model.localizer import Told, pose_numbers
from v4s_lib.model.outputs import Findings
from v4s_lib.model.text import PADDING
from v4s_lib.training.consistency import consistency_loss
from v4s_lib.training.places import places_loss
from v4s_lib.training.structure import structural_similarity


@dataclass(frozen=True)
class LossConfig:
    sigma_mean: float = 1.0  # of the logit-normal from which sigma is drawn; > 0 favours high noise
    min_sigma: float = 0.3  # the error of clean latents is divided by max(sigma, min_sigma)**2
    drop_context: float = 0.1  # share of contexts replaced by noise; half of their instructions are dropped too
    other_context: float = 0.1  # share of contexts that are of another room, in which nothing is to be found
    drop_instruction: float = 0.1  # share of targets whose words and path alone are dropped
    localization: float = 1.0  # weight of the squared error of a localizer's head, where the model has one
    finding: float = 0.1  # weight of the finder's divergence, where the model has one
    structure: float = 0.1  # weight of what painted frames lack in structure, see structure.py
    paint_frames: int = 4  # of a clip, that a painter paints; more of them cost more than they teach
    consistency: float = 0.0  # weight of the geometric consistency of predicted frames (claim C3)
    use_context: bool = True  # False trains the first-frame-only baseline: no context tokens at all


@dataclass
class Sample:
    """Latents of S contexts with M targets each, as the transformer takes them."""

    context_latents: Tensor  # (S, C, P, h, w)
    context_time_index: Tensor  # (S, P)
    target_latents: Tensor  # (S*M, C, T, h, w), clean
    target_time_index: Tensor  # (S*M, T)
    camera_path: Tensor  # (S*M, T, 4, 4, 4) relative to the start frame
    has_path: Tensor  # (S*M,) whether a model without sight is told it; otherwise it has to plan one
    shown: Tensor  # (S*M, N) share of each context cell that shows the named object; teaches a finder, nothing else
    words: Tensor  # (S*M, L) of the instructions
    context_poses: Tensor  # (S, P, 4, 4, 4) relative to the last context frame, in training alone
    start_pose: Tensor  # (S*M, 4, 4) of the start frame, likewise
    context_depth: Tensor  # (S, P, H, W) metres, in each context latent's last frame; teaches sight, nothing else
    target_depth: Tensor  # (S*M, T, H, W) metres, in each target latent's last frame; teaches sight and consistency

    @property
    def start_depth(self) -> Tensor:
        """(S*M, H, W) metres, in the start frame."""
        return self.target_depth[:, 0]

    def target_poses(self, no_context: Tensor) -> Tensor:
        """Where the targets' frames stand (S*M, T, 4, 4, 4): in the context's axes or, without one, the start's.

        ``no_context`` (S,) says which contexts are none.
        """
        none = no_context.repeat_interleave(len(self.start_pose) // len(no_context))
        start = torch.where(none[:, None, None], torch.eye(4, device=none.device), self.start_pose)
        with torch.autocast(start.device.type, enabled=False):
            return start[:, None, None] @ self.camera_path


@dataclass
class Things:
    """S contexts, and M things that are named in each, most of which it shows."""

    context_latents: Tensor  # (S, C, P, h, w)
    words: Tensor  # (S*M, L)
    shown: Tensor  # (S*M, N) as in ``Sample``


def _part(model, name: str):
    """A part of the model, also of one inside DDP; None for a model, or a function, without."""
    return getattr(getattr(model, "module", model), name, None)


@contextlib.contextmanager
def teacher_forcing(model, told: Told) -> Iterator[None]:
    """For as long as it lasts, the later blocks are told true poses, or a path, in place of what was worked out.

    It still predicts, and can be taught. This acts from outside: the model has no argument for context poses.
    """
    localizer = _part(model, "localizer")
    if localizer is None:
        yield
        return
    localizer.told = told
    try:
        yield
    finally:
        localizer.told = Told()


def localization_loss(
    findings: Findings, sample: Sample, no_context: Tensor, no_path: Tensor, elsewhere: Tensor | None = None
) -> Tensor:
    """Mean squared error of what a localizer's head predicts: where context and start stand, and planned paths.

    Args:
        findings: what is predicted; no context has no poses.
        sample: what is true.
        no_context: (S,) which contexts are noise: they stand nowhere, and their targets in the start frame's axes.
        no_path: (S*M,) which targets have to plan; the others' moving poses follow from their path and do not count.
        elsewhere: (S,) which contexts are of another room than their targets, which stand nowhere in it.
    """
    path = torch.cat([sample.target_poses(no_context)[:, :1], sample.camera_path[:, 1:]], dim=1)
    truth = pose_numbers(path)
    error = (findings.target_numbers - truth).square().mean(dim=(2, 3, 4))
    if elsewhere is not None:
        error = error * ~elsewhere.repeat_interleave(len(error) // len(elsewhere))[:, None]
    loss = (error[:, 1:].mean(dim=1) * no_path).mean() + error[:, 0].mean()
    if findings.context_numbers is not None:
        error = (findings.context_numbers - pose_numbers(sample.context_poses)).square().mean(dim=(1, 2, 3, 4))
        loss = loss + (error * ~no_context).mean()
    return loss


def finding_loss(logits: Tensor, shown: Tensor, counted: Tensor) -> Tensor:
    """How far a finder's choice (B, 1 + N) is from the cells that show the named object: a KL divergence.

    ``shown`` (B, N) are shares of cells; where none shows it, "nothing" is to be chosen. ``counted`` (B,) are the
    targets whose words and context the model was given.
    """
    total = shown.sum(dim=1, keepdim=True)
    wanted = torch.cat([(total == 0).float(), shown / total.clamp(min=1e-6)], dim=1)
    error = torch.nn.functional.kl_div(logits.log_softmax(dim=1), wanted, reduction="none").sum(dim=1)
    return (error * counted).sum() / counted.sum().clamp(min=1)


def locating_loss(model, sample: Sample, config: LossConfig) -> Tensor:
    """The loss of the steps that teach sight and finder alone; targets are start frames."""
    settings = _part(model, "config")
    findings = model(
        sample.target_latents,
        torch.zeros(len(sample.target_latents), device=sample.target_latents.device),
        sample.target_time_index,
        sample.context_latents,
        sample.context_time_index,
        words=sample.words if settings.vocabulary else None,
        only_seen=True,
    )
    context = (sample.context_depth, sample.context_poses[:, :, -1])
    start = (sample.start_depth[:, None], sample.start_pose[:, None])
    loss = places_loss(findings.compared, context, start, settings.horizontal_fov)
    if findings.found is not None:
        heard = torch.ones(len(sample.shown), dtype=torch.bool, device=sample.shown.device)
        loss = loss + config.finding * finding_loss(findings.found, sample.shown, heard)
    return loss


def naming_loss(model, things: Things) -> Tensor:
    """The loss of the steps that teach the finder alone; what words mean stays as it was learnt with sight."""
    with torch.no_grad():
        text = _part(model, "word_embedding")(things.words)
    findings = model(
        None,
        None,
        None,
        things.context_latents,
        encoder_hidden_states=text,
        only_seen=True,
    )
    return finding_loss(findings.found, things.shown, torch.ones_like(things.shown[:, 0], dtype=torch.bool))


def other_contexts(sample: Sample, elsewhere: Tensor) -> dict[str, Tensor]:
    """The fields of a sample that belong to its contexts, with the next one's ``elsewhere`` (S,).

    Its clock is set to that of the context it stands for, so that nothing but what it shows tells that it is another.
    """
    starts = sample.target_time_index.unflatten(0, (len(elsewhere), -1))[:, 0, :1]
    sample = replace(sample, context_time_index=sample.context_time_index - starts)
    fields = {}
    for name in ("context_latents", "context_time_index", "context_poses", "context_depth"):
        value = getattr(sample, name)
        fields[name] = torch.where(elsewhere.view(-1, *[1] * (value.ndim - 1)), value.roll(-1, dims=0), value)
    fields["context_time_index"] = fields["context_time_index"] + starts
    return fields


def flow_matching_loss(
    model, sample: Sample, config: LossConfig, generator: torch.Generator, true_poses: float = 0.0
) -> Tensor:
    """Mean weighted squared error of the predicted clean latents, over the noisy latents.

    Noise is drawn where it is used, for there is much of it: a GPU's is another than a CPU's. With the chance
    ``true_poses`` nothing is worked out, and the blocks after the localizer are told true poses.
    """
    target, context = sample.target_latents, sample.context_latents
    count, device, moving = len(target), target.device, FRAMES_PER_LATENT * (target.shape[2] - 1)

    reads = _part(model, "word_embedding") is not None

    def uniform(size: int) -> Tensor:
        return torch.rand(size, generator=generator).to(device)

    own = generator if device.type == "cpu" else torch.Generator(device).manual_seed(generator.initial_seed())

    def normal(shape: torch.Size) -> Tensor:
        return torch.randn(shape, generator=own, device=device)

    sigma = torch.sigmoid(normal(torch.Size([count])) + config.sigma_mean)
    noise = normal(target.shape)
    no_context = uniform(len(context)) < config.drop_context
    elsewhere = (uniform(len(context)) < config.other_context) & ~no_context & (len(context) > 1)
    elsewhere &= config.use_context
    sample = replace(sample, **other_contexts(sample, elsewhere))
    context = sample.context_latents
    context = torch.where(no_context[:, None, None, None, None], normal(context.shape), context)
    condition = {
        "context_latents": context,
        "context_time_index": sample.context_time_index,
        "context_timestep": 1000.0 * no_context,
    }
    lost = no_context.repeat_interleave(count // len(context)) & (uniform(count) < 0.5)
    dropped = lost | (uniform(count) < config.drop_instruction)
    # A model with sight is told a path in sampling, too, where words alone are given: the way to what it has found.
    no_path = dropped | (~sample.has_path & (_part(model, "sight") is None))
    plans = no_path & ~dropped & (_part(model, "localizer") is not None)
    # A head plans before the first step, so from noise alone: with less of it, the clip would give the path away.
    sigma = torch.where(plans, torch.ones_like(sigma), sigma)[:, None, None, None, None]
    noisy = torch.cat([target[:, :, :1], ((1 - sigma) * target + sigma * noise)[:, :, 1:]], dim=2)
    truth = uniform(1).item() < true_poses
    no_context = no_context if config.use_context else torch.ones_like(no_context)
    # Without sight, drawing is learnt along the path that the clip takes, while a head learns to plan one beside it.
    told = Told(path=sample.camera_path, led=no_path & ~dropped)
    if truth:
        told = Told(sample.context_poses, sample.target_poses(no_context))
    painted = torch.randperm(moving, generator=generator)[: config.paint_frames].tolist()
    with teacher_forcing(model, told):
        output, findings = model(
            noisy,
            1000 * sigma.flatten(),
            sample.target_time_index,
            **(condition if config.use_context else {}),
            words=torch.where(dropped[:, None], PADDING, sample.words) if reads else None,
            camera_path=sample.camera_path,
            camera_mask=~no_path,
            return_findings=True,
            paint_frames=painted,
        )
    error = (output.float() - target)[:, :, 1:] / sigma.clamp(min=config.min_sigma)
    loss = error.square().mean()
    painter = _part(model, "painter")
    if painter is not None:
        clips = (
            to_pixels(value[:, :, 1:].float(), painter.patch).flatten(1, 2) / 2 + 0.5 for value in (output, target)
        )
        loss = loss + config.structure * (1 - structural_similarity(*(clip[:, painted] for clip in clips))).mean()
    if config.consistency:
        truth = (target, sample.target_depth, sample.camera_path[:, :, -1])
        fov = _part(model, "config").horizontal_fov
        loss = loss + config.consistency * consistency_loss(output, *truth, ~no_path, fov)
    if findings.target_numbers is not None:
        loss = loss + config.localization * localization_loss(findings, sample, no_context, no_path, elsewhere)
    if findings.found is not None:
        heard = ~(dropped | no_context.repeat_interleave(count // len(context)))
        shown = sample.shown * ~elsewhere.repeat_interleave(count // len(context))[:, None]
        loss = loss + config.finding * finding_loss(findings.found, shown, heard)
    return loss
