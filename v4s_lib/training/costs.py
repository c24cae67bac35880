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

**Activations**: what autograd keeps for the backward, derived from ``ContextVideoBlock`` line by line, D values a token
each. In fp32: the inputs of three norms, the outputs of the two that are modulated, and the feed-forward's change. In
the computing type: what three norms hand on, queries, keys, values and result of the attention, the result once more
for the output layer, the attention's change, and to read: queries and result; then 2 F around the feed-forward's GELU.
Each RMS norm of queries and keys keeps two more fp32 values where it is composed of small operations (on a CPU), and
one of the computing type where it is one fused operation (CUDA). The working memory of operations is not counted.
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


def block_parameters(job: Job) -> int:
    """Two attentions (four linear layers, two RMS norms each), the norm before reading, feed-forward, modulation."""
    width, ffn = job.width, job.model["ffn_dim"]
    attention = 4 * (width**2 + width) + 2 * width
    return 2 * attention + 2 * width + (2 * width * ffn + ffn + width) + 6 * width


def parameters(job: Job) -> tuple[int, int]:
    """How many there are in Wan's parts, and how many in those that Wan has not."""
    width, layers, model = job.width, job.model["num_layers"], job.model
    time = (model["freq_dim"] + 1) * width + (width + 1) * width + 6 * (width + 1) * width
    text = (model["text_dim"] + 1) * width + (width + 1) * width
    ends = (job.patch + 1) * width + (width + 1) * job.patch + 2 * width
    new = 4 * width + (layers * (job.pose + 1) * width if job.pose else 0)
    return layers * block_parameters(job) + time + text + ends, new


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


def _kept(job: Job, size: int, fused: bool, reads: bool) -> int:
    """Bytes that a block keeps for one token, its own keys and values included, without what depends on L or T."""
    width, heads = job.width, job.model["num_attention_heads"]
    norms = 3 if reads else 2  # of queries and keys
    full, low, numbers = 5 + reads, 8 + 3 * reads, 2 * (2 + reads) + norms + heads * (1 + reads)
    full, low = (full, low + norms) if fused else (full + 2 * norms, low)
    return (FP32 * full + size * low) * width + 2 * size * job.model["ffn_dim"] + FP32 * numbers


def block_activations(job: Job, size: int = 2, fused: bool = True) -> tuple[int, int]:
    """Bytes that one block keeps for the backward: for a one_way context, and for the targets of a sample.

    Args:
        job: model and sample.
        size: bytes of a value of the computing type: 2 is bf16, 4 is fp32.
        fused: RMS norms are one operation (CUDA), or composed of several (CPU).
    """
    width, text = job.width, job.text_tokens
    normed = size if fused else 2 * FP32
    words = text * width * (normed + 2 * size)  # keys before their norm, keys, values
    modulation = 8 * FP32 * width  # a latent: six values, and two of them plus one
    if job.way == "two_way":
        latents = job.context_latents + job.target_latents
        tokens = job.context_tokens + job.target_tokens
        return 0, job.targets * (tokens * _kept(job, size, fused, True) + words + latents * modulation)
    # The context's own keys and values serve its attention to itself; each target holds a copy, joined to its own.
    both = 2 * size * width * (job.context_tokens + job.target_tokens)
    own = job.target_tokens * (_kept(job, size, fused, True) - 2 * size * width)
    target = own + both + words + job.target_latents * modulation
    context = job.context_tokens * _kept(job, size, fused, False) + job.context_latents * modulation
    return context, job.targets * target


def _ends_activations(job: Job, size: int) -> int:
    """Bytes kept outside the blocks: rotary tables, the last norm and the loss, what embeddings are made of."""
    width, joint = job.width, job.way == "two_way"
    contexts = job.targets if joint else 1
    latents = contexts * job.context_latents + job.targets * job.target_latents
    moving = job.targets * job.target_tokens
    rotary = 2 * FP32 * job.model["attention_head_dim"] * latents * job.tokens_a_latent  # each angle twice, as Wan's
    last = moving * (width * (2 * FP32 + size) + FP32 * job.patch)
    data = size * (job.patch * (job.context_tokens + moving) + job.pose * moving)
    time = latents * size * (3 * width + job.model["freq_dim"])
    words = job.targets * job.text_tokens * size * (job.model["text_dim"] + 3 * width)
    return rotary + last + data + time + words


def activations(job: Job, size: int = 2, fused: bool = True) -> int:
    """Bytes kept for the backward of a sample, without gradient checkpointing; arguments as block_activations."""
    unused = 0
    if job.way == "one_way":  # of the context's last block only what leads to keys and values is kept
        kept = _kept(job, size, fused, False)
        keys = (2 * FP32 + size + (size if fused else 2 * FP32)) * job.width + 3 * FP32
        unused = job.context_tokens * (kept - keys)
    return job.model["num_layers"] * sum(block_activations(job, size, fused)) - unused + _ends_activations(job, size)


def checkpointed_activations(job: Job, size: int = 2, fused: bool = True) -> int:
    """Bytes at the worst moment with every block checkpointed: what enters each block, and one block in full."""
    return kept_with_checkpointing(job, size) + max(block_activations(job, size, fused))


def kept_with_checkpointing(job: Job, size: int = 2) -> int:
    """Bytes kept between forward and backward: the tokens that enter each block and, one_way, the keys and values
    of the context, a copy for each target; once, what all blocks share (modulation, text).
    """
    width, joint = job.width, job.way == "two_way"
    contexts = job.targets if joint else 1
    tokens = contexts * job.context_tokens + job.targets * job.target_tokens
    copies = 0 if joint else 2 * job.targets * job.context_tokens
    latents = contexts * job.context_latents + job.targets * job.target_latents
    shared = size * width * (6 * latents + job.targets * job.text_tokens)
    return job.model["num_layers"] * size * width * (tokens + copies) + shared + _ends_activations(job, size)


def state_bytes(count: int) -> dict[str, int]:
    """Bytes of what training holds for ``count`` parameters: fp32 weights, gradients, Adam's two moments, average."""
    return {"weights": FP32 * count, "gradients": FP32 * count, "moments": 2 * FP32 * count, "average": FP32 * count}


def latent_bytes(scale: FullScale, minutes: float, frames_per_second: float, size: int = 2) -> float:
    """Bytes of the cached latents of a data set of so many minutes, in bf16, with the start frame of each alone."""
    rows, columns = scale.latent_size
    latents = minutes * 60 * frames_per_second / 4
    return 2 * latents * scale.model["in_channels"] * rows * columns * size
