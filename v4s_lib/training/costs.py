"""What one sample costs a plain Wan-shaped model: parameters, floating-point operations, bytes. Formulas, no run.

A sample is one context and the ``targets`` M that share it. Letters: D width, F width of the feed-forward, L blocks,
C and T tokens of the context and of one target, X text tokens. Products of matrices alone are counted, a multiplication
and an addition as two operations.

**A block**, for n tokens that attend to m: queries, keys, values and output take 8 n D^2, scores and mixing 4 n m D,
the feed-forward 4 n D F. Reading X words takes 4 n D^2 for queries and output, 4 X D^2 for keys and values, and 4 n X D
for scores and mixing.

**two_way**: M sequences of n = m = C + T that read, in L blocks. **one_way**: once n = m = C without text, then M times
n = T, m = C + T with text.

**Backward**: each product A B asks for two more, for the gradients of A and of B, so twice the forward. But for the
first layers, whose inputs are data (once), and the last one_way context block, of which targets use keys and values
only. **Gradient checkpointing** runs the blocks' forward a second time. That a fused attention computes its scores once
more in the backward is not counted.
"""

from dataclasses import dataclass
from math import prod
from typing import Any

from v4s_lib.model.pose import POSE_FEATURES
from v4s_lib.training.full import FullScale

FP32 = 4  # bytes
PARTS = ("vocabulary", "position_size", "localize_after", "see_places", "find_words")


@dataclass(frozen=True)
class Job:
    """A plain model and one sample."""

    model: dict[str, Any]  # arguments of ContextVideoTransformer
    way: str  # context_attention
    context_latents: int
    target_latents: int
    tokens_a_latent: int
    text_tokens: int
    targets: int = 1  # that share the context

    def __post_init__(self) -> None:
        parts = [name for name in PARTS if self.model.get(name) is not None]
        if parts:
            raise ValueError(f"expected a plain model, got one with {', '.join(parts)}: plan without those parts")
        if self.way not in ("two_way", "one_way"):
            raise ValueError(f"expected context attention two_way or one_way, got {self.way!r}: choose one of them")
        if self.targets < 1:
            raise ValueError(f"expected 1 target a context or more, got {self.targets}: ask for some")

    @property
    def width(self) -> int:
        return self.model["num_attention_heads"] * self.model["attention_head_dim"]

    @property
    def patch(self) -> int:
        """Values of a latent that one token holds."""
        return self.model["in_channels"] * prod(self.model["patch_size"])

    @property
    def pose(self) -> int:
        """Features of a token's pose, 0 for a model without."""
        return POSE_FEATURES.get(self.model.get("pose_encoding"), 0)

    @property
    def context_tokens(self) -> int:
        return self.context_latents * self.tokens_a_latent

    @property
    def target_tokens(self) -> int:
        """Of one target."""
        return self.target_latents * self.tokens_a_latent


def job_of(scale: FullScale, way: str) -> Job:
    """One sample of a setting."""
    sizes = (scale.context_latents, scale.target_latents, scale.tokens_a_latent, scale.text_tokens, scale.targets)
    return Job(scale.model, way, *sizes)


def _attention_parameters(job: Job) -> int:
    """Four linear layers, two RMS norms."""
    return 4 * (job.width**2 + job.width) + 2 * job.width


def block_parameters(job: Job, reads: bool = True) -> int:
    """An attention, feed-forward and modulation; with what reads also another attention and the norm before it."""
    width, ffn = job.width, job.model["ffn_dim"]
    own = _attention_parameters(job) + (2 * width * ffn + ffn + width) + 6 * width
    return own + (_attention_parameters(job) + 2 * width if reads else 0)


def time_parameters(job: Job) -> int:
    """Of the layers that make a latent's modulation out of its timestep."""
    width = job.width
    return (job.model["freq_dim"] + 1) * width + (width + 1) * width + 6 * (width + 1) * width


def parameters(job: Job) -> tuple[int, int]:
    """How many there are in Wan's parts, and how many in those that Wan has not."""
    width, layers, model = job.width, job.model["num_layers"], job.model
    text = (model["text_dim"] + 1) * width + (width + 1) * width
    ends = (job.patch + 1) * width + (width + 1) * job.patch + 2 * width
    new = 4 * width + (layers * (job.pose + 1) * width if job.pose else 0)
    return layers * block_parameters(job) + time_parameters(job) + text + ends, new


def _block_flops(job: Job, queries: int, keys: int, text: int) -> int:
    width = job.width
    own = 8 * queries * width**2 + 4 * queries * keys * width + 4 * queries * width * job.model["ffn_dim"]
    reading = 4 * (queries + text) * width**2 + 4 * queries * text * width if text else 0
    return own + reading


def blocks_flops(job: Job) -> tuple[int, int]:
    """Forward through all blocks: of a one_way context, and of all targets (with the context's, where it is joint)."""
    layers, context, target = job.model["num_layers"], job.context_tokens, job.target_tokens
    if job.way == "two_way":
        tokens = context + target
        return 0, layers * job.targets * _block_flops(job, tokens, tokens, job.text_tokens)
    targets = layers * job.targets * _block_flops(job, target, context + target, job.text_tokens)
    return layers * _block_flops(job, context, context, 0), targets


def _ends_flops(job: Job) -> tuple[int, int]:
    """Forward before and after the blocks: layers that see data, and the others."""
    width, model, joint = job.width, job.model, job.way == "two_way"
    contexts = job.targets if joint else 1
    tokens = job.context_tokens + job.targets * job.target_tokens  # a context is embedded once for its targets
    latents = contexts * job.context_latents + job.targets * job.target_latents
    words = job.targets * job.text_tokens
    moving = job.targets * job.target_tokens
    data = 2 * width * (tokens * job.patch + latents * model["freq_dim"] + words * model["text_dim"])
    data += 2 * width * moving * job.pose * model["num_layers"]
    others = 2 * width * (7 * latents * width + words * width + moving * job.patch)
    return data, others


def forward_flops(job: Job) -> int:
    """Operations of one forward pass of a sample."""
    return sum(blocks_flops(job)) + sum(_ends_flops(job))


def training_flops(job: Job, checkpointing: bool = False) -> int:
    """Operations of forward and backward of a sample."""
    blocks, (data, others) = sum(blocks_flops(job)), _ends_flops(job)
    unused = 0
    if job.way == "one_way":
        context = job.context_tokens
        unused = _block_flops(job, context, context, 0) - 4 * context * job.width**2
    return 3 * blocks - 2 * unused + 2 * data + 3 * others + (blocks if checkpointing else 0)


def sampling_flops(job: Job, steps: int, guided: bool) -> int:
    """Operations of one generated video; a one_way context is encoded once a branch, not once a step."""
    branches = 2 if guided else 1
    single = Job(job.model, job.way, job.context_latents, job.target_latents, job.tokens_a_latent, job.text_tokens)
    context = blocks_flops(single)[0]
    return branches * (context + steps * (forward_flops(single) - context))


def state_bytes(count: int) -> dict[str, int]:
    """Bytes of what training holds for ``count`` parameters: fp32 weights, gradients, Adam's two moments, average."""
    return {"weights": FP32 * count, "gradients": FP32 * count, "moments": 2 * FP32 * count, "average": FP32 * count}


def latent_bytes(scale: FullScale, minutes: float, frames_per_second: float, size: int = 2) -> float:
    """Bytes of the cached latents of a data set of so many minutes, in bf16, with the start frame of each alone."""
    rows, columns = scale.latent_size
    latents = minutes * 60 * frames_per_second / 4
    return 2 * latents * scale.model["in_channels"] * rows * columns * size
