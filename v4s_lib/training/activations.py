"""The memory that a training sample takes beside weights and optimizer, for a plain Wan-shaped model. Formulas, no run.

Letters as in ``costs``: D width, F width of the feed-forward, L blocks, C and T tokens of the context and of one
target, M targets that share the context.

**Kept for the backward**, derived from ``ContextVideoBlock`` line by line, D values a token each. In fp32: the inputs
of three norms, the outputs of the two that are modulated, and the feed-forward's change. In the computing type: what
three norms hand on, queries, keys, values and result of the attention, the result once more for the output layer, the
attention's change, and to read: queries and result; then 2 F around the feed-forward's GELU. Each RMS norm of queries
and keys keeps two more fp32 values where it is composed of small operations (on a CPU), and one of the computing type
where it is one fused operation (CUDA). With checkpointing a block keeps what enters it, until its turn in the backward.

**The worst moment** is one of three. ``start``: the backward begins, in the last block of the targets. ``turn``, for
one_way: it has come to their first block. By then gradients have piled up that wait for the context's own backward: of
every block's context keys and values, and of every weight that the context uses too, for a weight's gradient is handed
on when all its uses have given their share, a whole model's in the computing type. ``context``: the context's last
block. At each, what a block's backward works on comes on top: three fp32 values a token where the last residual is
added, or, through the feed-forward, twice 2 F and 2 D less the fp32 change that is gone, and a weight's gradient.
"""

from v4s_lib.training.costs import FP32, Job, block_parameters, time_parameters


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


def _moving_tokens(job: Job) -> int:
    return job.targets * job.target_tokens


def _contexts(job: Job) -> int:
    """How often the context is in the sample."""
    return job.targets if job.way == "two_way" else 1


def _latents(job: Job) -> int:
    return _contexts(job) * job.context_latents + job.targets * job.target_latents


def _loss(job: Job, size: int) -> int:
    """Bytes kept by the last norm and the loss; gone when the blocks' backward begins."""
    return _moving_tokens(job) * (job.width * (2 * FP32 + size) + FP32 * job.patch)


def _beginning(job: Job, size: int) -> int:
    """Bytes kept to the end of the backward: rotary tables, and what embeddings are made of."""
    width = job.width
    rotary = 2 * FP32 * job.model["attention_head_dim"] * _latents(job) * job.tokens_a_latent  # twice, as Wan's
    data = size * (job.patch * (job.context_tokens + _moving_tokens(job)) + job.pose * _moving_tokens(job))
    time = _latents(job) * size * (3 * width + job.model["freq_dim"])
    words = job.targets * job.text_tokens * size * (job.model["text_dim"] + 3 * width)
    return rotary + data + time + words


def kept(job: Job, size: int = 2, fused: bool = True) -> int:
    """Bytes kept between forward and backward, without gradient checkpointing; arguments as block_activations."""
    context, targets = block_activations(job, size, fused)
    ends = _loss(job, size) + _beginning(job, size)
    return job.model["num_layers"] * (context + targets) - _unused(job, size, fused) + ends


def _unused(job: Job, size: int, fused: bool) -> int:
    """Bytes that a one_way context's last block does not keep: only its keys and values lead on."""
    if job.way == "two_way":
        return 0
    keys = (2 * FP32 + size + (size if fused else 2 * FP32)) * job.width + 3 * FP32
    return job.context_tokens * (_kept(job, size, fused, False) - keys)


def kept_with_checkpointing(job: Job, size: int = 2) -> int:
    """Bytes kept between forward and backward with every block checkpointed: the tokens that enter each block and,
    one_way, the keys and values of the context, which its targets share; once, what all blocks share.
    """
    entering = _contexts(job) * job.context_tokens + _moving_tokens(job)
    keys = 0 if job.way == "two_way" else 2 * job.context_tokens
    blocks = job.model["num_layers"] * size * job.width * (entering + keys)
    return blocks + _shared(job, size) + _loss(job, size) + _beginning(job, size)


def _copies(job: Job, size: int) -> int:
    """Bytes of a block's context keys and values, one_way, a copy for each target."""
    return 0 if job.way == "two_way" else 2 * size * job.width * job.targets * job.context_tokens


def _shared(job: Job, size: int) -> int:
    """Bytes of the modulation and the text, which all blocks share."""
    return size * job.width * (6 * _latents(job) + job.targets * job.text_tokens)


def _working(job: Job, size: int, tokens: int) -> int:
    """Bytes of the gradients on their way through a block of so many tokens."""
    width, ffn = job.width, job.model["ffn_dim"]
    feed_forward = tokens * (size * (2 * ffn + 2 * width) - FP32 * width) + size * width * ffn
    return max(3 * FP32 * width * tokens, feed_forward)


def _waiting_keys(job: Job, size: int) -> int:
    """Bytes of the gradients of a block's context keys and values; those of a single target's own hang on to them."""
    tokens = job.context_tokens + (job.target_tokens if job.targets == 1 else 0)
    return 2 * size * job.width * tokens


def _waiting_weights(job: Job, size: int) -> int:
    """Bytes of the gradients of the blocks' weights that a one_way context uses too; of its last block, those of keys
    and values.
    """
    keys = 2 * (job.width**2 + job.width) + job.width
    return size * ((job.model["num_layers"] - 1) * block_parameters(job, reads=False) + keys)


def peak(job: Job, checkpointing: bool, size: int = 2, fused: bool = True) -> int:
    """Bytes at the worst moment of forward and backward of a sample, beside weights and their summed gradients.

    Args:
        checkpointing: of every block.
        job, size, fused: see block_activations.
    """
    layers, moving = job.model["num_layers"], _moving_tokens(job)
    context, targets = block_activations(job, size, fused)
    held = kept_with_checkpointing(job, size) + targets if checkpointing else kept(job, size, fused)
    held -= _loss(job, size)
    if job.way == "two_way":
        return held + _working(job, size, moving + job.targets * job.context_tokens)
    start = held + _working(job, size, moving)
    beginning = _beginning(job, size) + _shared(job, size)
    entering = layers * size * job.width * job.context_tokens
    whole = entering if checkpointing else layers * context - _unused(job, size, fused)
    waiting = (layers - 1) * _waiting_keys(job, size) + _waiting_weights(job, size)
    turn = beginning + whole + waiting + _copies(job, size) + targets
    turn += max(_working(job, size, moving) - size * block_parameters(job, reads=False), _waiting_keys(job, size))
    again = context if checkpointing else 0
    first = size * (time_parameters(job) + (job.patch + 1) * job.width)  # of the embeddings
    return max(start, turn, beginning + whole + waiting + again + first + _working(job, size, job.context_tokens))
