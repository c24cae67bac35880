"""The plan's formulas against counted operations and measured bytes, and the paper's setting from first principles."""

import re
import weakref
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from v4s_lib.model.transformer import ContextVideoTransformer
from v4s_lib.training import costs
from v4s_lib.training.costs import Job
from v4s_lib.training.full import BASE_LIKE, FULL, TINY, WAN_AUTOENCODER, WAN_TRANSFORMER, latents_of
from v4s_lib.training.plan import GPUS, Plan, count_parameters, main, make_plan

ROOT = Path(__file__).resolve().parents[2]
WITHIN = {"rel": 0.03}  # the largest difference seen is half of it; 0.1 would be good enough for a plan
WAYS = pytest.mark.parametrize("way", ["two_way", "one_way"])


def plain(heads: int, layers: int, ffn: int, pose: str | None = "c2w_12") -> dict:
    sizes = {"num_attention_heads": heads, "attention_head_dim": 24, "in_channels": 4, "out_channels": 4}
    sizes |= {"text_dim": 16, "freq_dim": 32, "ffn_dim": ffn, "num_layers": layers, "pose_encoding": pose}
    return WAN_TRANSFORMER | sizes


# Model, context latents, target latents, tokens a latent, text tokens, targets.
SIZES = {
    "short": (plain(2, 1, 96), 2, 3, 16, 7, 1),
    "long context": (plain(2, 3, 160), 12, 3, 16, 7, 1),
    "wide": (plain(4, 2, 448), 5, 4, 4, 20, 1),
    "shared context": (plain(2, 2, 96, "ray_map"), 6, 3, 9, 5, 3),
}
EVERY = pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)


def build(job: Job, device: str = "cpu", dtype: torch.dtype = torch.float32) -> ContextVideoTransformer:
    torch.manual_seed(0)
    with torch.device(device):
        model = ContextVideoTransformer(**job.model, context_attention=job.way)
    for parameter in model.parameters():  # as .to(dtype), without its warning
        parameter.data = parameter.data.to(dtype)
    return model


def loss_of(model: ContextVideoTransformer, job: Job, rows: int, device: str = "cpu") -> Tensor:
    """A forward pass on zeros; ``rows`` of tokens a latent."""
    place = {"device": device, "dtype": model.proj_out.weight.dtype}
    _, high, wide = job.model["patch_size"]
    size = (rows * high, job.tokens_a_latent // rows * wide)
    channels, targets = job.model["in_channels"], job.targets
    has_pose = job.pose > 0
    output = model(
        torch.zeros(targets, channels, job.target_latents, *size, **place),
        torch.full((targets,), 500.0, device=device),
        torch.arange(job.target_latents).expand(targets, -1) + 300,
        torch.zeros(1, channels, job.context_latents, *size, **place),
        torch.arange(job.context_latents)[None],
        encoder_hidden_states=torch.zeros(targets, job.text_tokens, job.model["text_dim"], **place),
        camera_path=torch.zeros(targets, job.target_latents, 4, 4, 4, **place) if has_pose else None,
    )
    return output.float().square().mean()


def rows_of_square(job: Job) -> int:
    return int(job.tokens_a_latent**0.5)


def count_flops(job: Job, rows: int, device: str = "cpu") -> tuple[int, int]:
    """Counted operations of forward, and of forward and backward; attention written out, so that it is counted."""
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):
        loss = loss_of(build(job, device), job, rows, device)
        forward = counter.get_total_flops()
        loss.backward()
    return forward, counter.get_total_flops()


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


# The paper's setting, from first principles.


def test_tokens_of_the_papers_setting():
    assert latents_of(337) == 85 and 84 * 4 == 336  # frame 0 alone is a latent, 84 latents hold four frames
    assert latents_of(161) == 41 and latents_of(161 + 20) == 46 == FULL.target_latents
    assert FULL.context_latents == 84
    assert (416 // 16 // 2) * (256 // 16 // 2) == 13 * 8 == 104 == FULL.tokens_a_latent
    job = costs.job_of(FULL, "two_way")
    assert (job.context_tokens, job.target_tokens) == (84 * 104, 46 * 104) == (8736, 4784)
    assert job.context_tokens + job.target_tokens == 13_520  # PAPER.md: about 13.5k


def test_the_autoencoder_of_that_configuration_gives_latents_of_that_size():
    with torch.device("meta"), torch.no_grad():
        encoder = AutoencoderKLWan(**WAN_AUTOENCODER)
        latents = encoder.encode(torch.zeros(1, 3, 9, FULL.height, FULL.width)).latent_dist.mean
    assert latents.shape == (1, FULL.model["in_channels"], latents_of(9), *FULL.latent_size)


@WAYS
def test_parameters_of_the_5b_model(way):
    with torch.device("meta"):
        stock = sum(p.numel() for p in WanTransformer3DModel(**WAN_TRANSFORMER).parameters())
    job = costs.job_of(FULL, way)
    assert stock == 4_999_787_712
    # New: four roles, and in each of 30 blocks a layer from 12 numbers to the width of 3072.
    assert costs.parameters(job) == (stock, 4 * 3072 + 30 * 13 * 3072)
    assert count_parameters(job) == sum(costs.parameters(job))


@WAYS
def test_operations_of_the_5b_model(way):
    """Counted on tensors without memory, at the paper's sizes."""
    job = costs.job_of(FULL, way)
    forward, both = count_flops(job, rows=8, device="meta")
    assert costs.forward_flops(job) == pytest.approx(forward, rel=0.01)
    assert costs.training_flops(job) == pytest.approx(both, rel=0.01)


def test_stand_ins():
    assert sum(costs.parameters(costs.job_of(BASE_LIKE, "two_way"))) <= 16_000_000
    for scale in (BASE_LIKE, TINY):
        job = costs.job_of(scale, "one_way")
        assert count_parameters(job) == sum(costs.parameters(job))


# Formulas against measurements.


@WAYS
@EVERY
def test_operations(sizes, way):
    job = Job(sizes[0], way, *sizes[1:])
    forward, both = count_flops(job, rows_of_square(job))
    assert costs.forward_flops(job) == pytest.approx(forward, **WITHIN)
    assert costs.training_flops(job) == pytest.approx(both, **WITHIN)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@WAYS
@EVERY
def test_activations(sizes, way, dtype):
    job = Job(sizes[0], way, *sizes[1:])
    measured = measure_activations(job, dtype)
    assert costs.activations(job, dtype.itemsize, fused=False) == pytest.approx(measured, **WITHIN)


@WAYS
@EVERY
def test_activations_with_checkpointing(sizes, way):
    job = Job(sizes[0], way, *sizes[1:])
    measured = measure_activations(job, torch.bfloat16, checkpointing=True)
    assert costs.kept_with_checkpointing(job, 2) == pytest.approx(measured, **WITHIN)


@WAYS
@EVERY
def test_parameters_and_states(sizes, way):
    """Weights, gradients, moments and average of a real step of AdamW."""
    job = Job(sizes[0], way, *sizes[1:])
    model = build(job)
    optimizer, average = torch.optim.AdamW(model.parameters()), EMAModel(model.parameters())
    loss_of(model, job, rows_of_square(job)).backward()
    optimizer.step()
    moments = [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    measured = {
        "weights": list(model.parameters()),
        "gradients": [p.grad for p in model.parameters() if p.grad is not None],
        "moments": moments,
        "average": average.shadow_params,
    }
    expected = costs.state_bytes(sum(costs.parameters(job)))
    assert count_parameters(job) == sum(costs.parameters(job))
    for name, values in measured.items():
        assert expected[name] == pytest.approx(sum(v.nbytes for v in values), **WITHIN), name


def test_a_step_of_sampling_reuses_a_one_way_context():
    job = costs.job_of(TINY, "one_way")
    once, ten = (costs.sampling_flops(job, steps, guided=False) for steps in (1, 10))
    assert once == costs.forward_flops(job) and ten < 10 * once
    assert costs.sampling_flops(costs.job_of(TINY, "two_way"), 10, guided=True) == 20 * costs.forward_flops(
        costs.job_of(TINY, "two_way")
    )


# The plan and its command.


def test_states_are_shared_out_and_time_shrinks():
    one, eight = (make_plan(FULL, "two_way", count, GPUS["h100"]) for count in (1, 8))
    assert one.states["weights"] == pytest.approx(8 * eight.states["weights"]) == 4 * 5_000_998_080
    assert not one.fits(True) and eight.fits(True) and not eight.fits(False) and eight.checkpointing
    assert one.step_seconds == pytest.approx(8 * eight.step_seconds)
    operations = 64 * costs.training_flops(eight.job, checkpointing=True)
    assert eight.step_seconds == pytest.approx(operations / (8 * 989.4e12 * 0.4))
    assert eight.gpu_hours == pytest.approx(eight.step_seconds * 8 * 10_000 / 3600)


def test_the_document_says_what_the_plan_says():
    plan = make_plan(FULL, "two_way", 8, GPUS["h100"])
    tokens = plan.job.context_tokens + plan.job.target_tokens
    plain, checkpointed = (costs.training_flops(plan.job, on) / 1e12 for on in (False, True))
    text = " ".join((ROOT / "docs" / "full_scale.md").read_text(encoding="utf-8").split())
    assert (
        f"{tokens:,} tokens a sample, {plain:.0f} TFLOP a training sample ({checkpointed:.0f} with gradient "
        f"checkpointing), {plan.total(plan.checkpointing) / 1e9:.0f} GB on each of eight GPUs."
    ) in text


def test_latents_of_a_minute():
    assert costs.latent_bytes(FULL, 1, 30) == 2 * 60 * 30 / 4 * 48 * 16 * 26 * 2  # each latent and its start


def test_the_command_prints_a_table(capsys):
    assert main(["--scale", "tiny", "--gpus", "2", "--gpu", "rtx4090", "--price", "0.5"]) == 0
    printed = capsys.readouterr().out
    assert "| quantity | two_way | one_way |" in printed and "| tokens of a context | 80 | 80 |" in printed
    plan: Plan = make_plan(TINY, "two_way", 2, GPUS["rtx4090"])
    assert f"{plan.wan_parameters:,}" in printed and "not needed" in printed


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--scale", "huge"], "expected a scale out of full, base-like, tiny, got 'huge': choose one of them"),
        (["--gpu", "abacus"], "expected a GPU out of .*, got 'abacus': choose the one nearest to yours"),
        (["--gpus", "7"], "expected GPUs times .* to divide the batch of 64, got 7 x 1: take other numbers"),
        (["--gpus", "0"], "expected GPUs times .* to divide the batch of 64, got 0 x 1: take other numbers"),
        (["--targets", "0"], "expected 1 target a context or more, got 0: ask for some"),
        (["--utilisation", "1.5"], "expected a utilisation above 0, up to 1, got 1.5: give a share of the peak"),
        (["--price", "-1"], "expected price and minutes of 0 or more .*, got -1.0, 1000.0 and 30.0: give such numbers"),
    ],
)
def test_bad_input_gives_one_sentence(arguments, sentence, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.fullmatch(sentence, error.strip())


def test_videos_and_models_that_cannot_be_counted():
    with pytest.raises(ValueError, match="^expected a video of 4k\\+1 frames, got 336: leave out"):
        latents_of(336)
    with pytest.raises(ValueError, match="^expected a plain model, got one with localize_after: plan without"):
        Job(WAN_TRANSFORMER | {"localize_after": 2}, "one_way", 1, 1, 1, 1)
    with pytest.raises(ValueError, match="^expected context attention two_way or one_way, got 'both': choose"):
        Job(WAN_TRANSFORMER, "both", 1, 1, 1, 1)
