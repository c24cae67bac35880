"""What the transformer hands on: a context that need not be looked at again, and what its parts found out."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from v4s_lib.model.blocks import KeyValue
from v4s_lib.model.cloud import Cloud
from v4s_lib.model.places import Compared, PlacedFrames
from v4s_lib.model.sight import Seen


def join(context: Tensor, targets: Tensor, axis: int = 1) -> Tensor:
    """Each context (B, ...) before every one of its M targets (B*M, ...), along ``axis``."""
    return torch.cat([context.repeat_interleave(len(targets) // len(context), 0), targets], dim=axis)


@dataclass
class Stream:
    """A located context on its way into blocks in which it attends to the targets, too (``two_way``)."""

    states: Tensor  # (B, N, D) tokens
    modulation: Tensor  # (B, T, 6, D)
    rotary: tuple[Tensor, Tensor]  # each (B, 1, N, head_dim / 2)
    rays: Tensor  # (B, N, ...) of the tokens' poses

    def join(
        self, states: Tensor, modulation: Tensor, rotary: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """One sequence, the context before the targets' own (B*M, ...)."""
        turns = tuple(join(own, others, axis=2) for own, others in zip(self.rotary, rotary, strict=True))
        return join(self.states, states), join(self.modulation, modulation), turns

    def tell(self, states: Tensor, adapter: nn.Module) -> Tensor:
        """The context's tokens (B*M, N, D) of a joint sequence, told where they look."""
        told = adapter(self.rays).type_as(states)
        return states + told.repeat_interleave(len(states) // len(told), 0)


@dataclass
class ContextCache:
    """What a target's tokens need of a context that can be kept: computed once for all steps, targets and paths."""

    blocks: list[KeyValue | None]  # keys and values of every block; None where targets attend to none, or by ``stream``
    stream: Stream | None = None  # of a two-way context: keys and values end at the localizer, and this goes on from it
    cells: KeyValue | None = None  # a finder's keys, and where those cells look
    frames: PlacedFrames | None = None  # what sight saw, and where those frames stand
    cloud: Cloud | None = None  # what they show, for a painter
    older: Cloud | None = None  # what the other three frames of each latent show, likewise


@dataclass
class Findings:
    """What localizer, sight and finder predict; None where there is no such part or nothing to predict from."""

    context_numbers: Tensor | None = None  # (B, T', 4, 3, 3) the localizer's, without sight; see pose_numbers
    target_numbers: Tensor | None = None  # (B*M, T, 4, 3, 3) likewise: the start frame's, and the others' from there
    context_poses: Tensor | None = None  # (B, T', 4, 4, 4) c2w that the later blocks work with
    target_poses: Tensor | None = None  # (B*M, T, 4, 4, 4): the start's, and the way from there that is told or,
    # without one, the head's; with sight the camera stays
    found: Tensor | None = None  # (B*M, 1 + N) logits of a finder
    start_seen: Seen | None = None  # (B*M, 1, ...) what sight sees in the start frames
    start: Tensor | None = None  # (B*M, 1, 4, 4, 4) c2w of their four frames among the context's, by what they share
    views: Tensor | None = None  # (B*M, F, H, W, CHANNELS) what is known of the room from the frames to be painted
    shared: Tensor | None = None  # (B*M,) share of the start frame that sight finds in the context
    compared: Compared | None = None  # what sight saw, to teach it
