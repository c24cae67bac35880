"""The plan's formulas against counted operations and measured bytes, and the paper's setting from first principles."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from diffusers.training_utils import EMAModel
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.training.many import run
from tests.training.tiny_cache import SCALE
from tests.training.tiny_jobs import EVERY, WAYS, WITHIN, build, loss_of, rows_of_square
from v4s_lib.training import costs
from v4s_lib.training.costs import Job
from v4s_lib.training.full import BASE_LIKE, FULL, TINY, WAN_AUTOENCODER, WAN_TRANSFORMER, latents_of
from v4s_lib.training.full_loop import Job as TrainingJob
from v4s_lib.training.full_loop import finetune
from v4s_lib.training.plan import GPUS, Plan, count_parameters, main, make_plan

ROOT = Path(__file__).resolve().parents[2]


def count_flops(job: Job, rows: int, device: str = "cpu") -> tuple[int, int]:
    """Counted operations of forward, and of forward and backward; attention written out, so that it is counted."""
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):
        loss = loss_of(build(job, device), job, rows, device)
        forward = counter.get_total_flops()
        loss.backward()
    return forward, counter.get_total_flops()


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


def _count_a_step(job: TrainingJob, file: Path) -> None:
    """Write the operations of one step of training; attention written out, so that it is counted."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        finetune(job, stop_at=1, progress=False)
    file.write_text(str(counter.get_total_flops()))


@pytest.mark.skipif(sys.platform == "win32", reason="processes are forked as on Unix")
@WAYS
def test_the_plan_prices_the_step_that_is_trained(cache, tmp_path, way):
    """Seconds at full peak, times that peak; without checkpointing an eighth less is counted."""
    scale = replace(SCALE, tail_latents=0)  # targets without a box, as everything in the cache
    job = TrainingJob(scale, cache, tmp_path / "out", context_attention=way)
    run(_count_a_step, (job, tmp_path / "counted"))
    plan = make_plan(scale, way, 1, GPUS["h100"], utilisation=1.0)
    assert plan.step_seconds * GPUS["h100"].peak == pytest.approx(int((tmp_path / "counted").read_text()), rel=0.03)


def test_states_are_shared_out_and_time_shrinks():
    one, eight = (make_plan(FULL, "two_way", count, GPUS["h100"]) for count in (1, 8))
    assert one.states["weights"] == pytest.approx(8 * eight.states["weights"]) == 4 * 5_000_998_080
    assert not one.fits(True) and eight.fits(True) and not eight.fits(False)
    assert one.step_seconds == pytest.approx(8 * eight.step_seconds)
    operations = 64 * costs.training_flops(eight.job, checkpointing=True)
    assert eight.step_seconds == pytest.approx(operations / (8 * 989.4e12 * 0.4))
    assert eight.gpu_hours == pytest.approx(eight.step_seconds * 8 * 10_000 / 3600)


def test_the_document_says_what_the_plan_says():
    plan, one_way = (make_plan(FULL, way, 8, GPUS["h100"]) for way in ("two_way", "one_way"))
    tokens = plan.job.context_tokens + plan.job.target_tokens
    plain, checkpointed = (costs.training_flops(plan.job, on) / 1e12 for on in (False, True))
    text = " ".join((ROOT / "docs" / "full_scale.md").read_text(encoding="utf-8").split())
    assert (
        f"{tokens:,} tokens a sample, {checkpointed:.0f} TFLOP a training sample (a quarter of them for gradient "
        f"checkpointing, which `finetune` always uses), {plan.total() / 1e9:.0f} GB on each of eight GPUs with two-way "
        f"attention and {one_way.total() / 1e9:.0f} GB with one-way."
    ) in text
    assert 1 - plain / checkpointed == pytest.approx(0.25, abs=0.01)


def test_latents_of_a_minute():
    assert costs.latent_bytes(FULL, 1, 30) == 2 * 60 * 30 / 4 * 48 * 16 * 26 * 2  # each latent and its start


def test_the_command_prints_a_table(capsys):
    assert main(["--scale", "tiny", "--gpus", "2", "--gpu", "rtx4090", "--price", "0.5"]) == 0
    printed = capsys.readouterr().out
    assert "| quantity | two_way | one_way |" in printed and "| tokens of a context | 80 | 80 |" in printed
    plan: Plan = make_plan(TINY, "two_way", 2, GPUS["rtx4090"])
    assert f"{plan.wan_parameters:,}" in printed and plan.fits(False)
    repeated, once = (costs.training_flops(plan.job, on) / 1e12 for on in (True, False))
    assert f"| training step, a sample | {repeated:.4g} TFLOP |" in printed
    assert f"| the same, without checkpointing | {once:.4g} TFLOP |" in printed
    assert f"| in all, without checkpointing | {plan.total(False) / 1e9:.1f} GB (would fit) |" in printed


def test_time_is_with_checkpointing_even_where_it_would_fit_without():
    plan = make_plan(BASE_LIKE, "two_way", 1, GPUS["h200"])
    assert plan.fits(False) and plan.total() < plan.total(False)
    assert plan.step_seconds == pytest.approx(32 * costs.training_flops(plan.job, True) / (989.4e12 * 0.4))


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
