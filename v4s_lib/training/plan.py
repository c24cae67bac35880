"""What a run at full scale needs, computed before it is paid for.

``python -m v4s_lib.training.plan --scale full --gpus 8 --gpu h100`` prints it; nothing is trained. The formulas and
their derivation are in ``costs``; tests hold them against counted operations and measured bytes at tiny sizes. What
enters besides, and is no formula: the share of the peak that is reached (``--utilisation``) and the price
(``--price``), both to be replaced by your own measurements.

**Memory of one GPU.** All weights are trained, launched with ``fsdp2.yaml``; copies (``ddp.yaml``) and adapters
(``--lora``) are not planned. Weights, gradients, Adam's moments and the average are fp32 and shared out over all GPUs.
Computing is in bf16: of two blocks, one in use and one on its way, the whole weights are there, and of one the
gradients ("gathered blocks"). That follows from how FSDP2 works; no measurement stands behind it. Activations, and the
gradients on their way, are those of one sample at the worst moment (see ``activations``). ``finetune`` always uses
gradient checkpointing, so that is what is planned; what would be without it is told beside it. A tenth of the memory is
left for the working memory of operations, what is gathered outside of blocks, buffers of the network and fragments.

**Time.** Operations of a step / (GPUs x peak x utilisation). Utilisation is of the operations that are executed, those
that checkpointing repeats included; a test counts them in a step of ``finetune``. Encoding to latents, validation and
loading are not in it.
"""

import argparse
import sys
from dataclasses import dataclass, replace

import torch

from v4s_lib.command import command
from v4s_lib.model.transformer import ContextVideoTransformer
from v4s_lib.training import activations, costs
from v4s_lib.training.full import SCALES, FullScale, get_scale

RESERVE = 0.1  # of a GPU's memory; our choice
GB, TERA = 1e9, 1e12


@dataclass(frozen=True)
class Gpu:
    """Vendor's numbers; tera-operations a second are dense bf16 matrix products, accumulated in fp32."""

    name: str
    peak: float  # operations a second
    memory: float  # bytes; a vendor's GB taken as 10^9


# NVIDIA's data sheets: H200 and H100 (SXM; 1,979 with sparsity, half of it dense), A100 80GB (SXM), and the Ada
# architecture's white paper for the RTX 4090.
GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("h200", 989.4 * TERA, 141 * GB),
        Gpu("h100", 989.4 * TERA, 80 * GB),
        Gpu("a100-80", 312.0 * TERA, 80 * GB),
        Gpu("rtx4090", 165.2 * TERA, 24 * GB),
    )
}


@dataclass(frozen=True)
class Plan:
    """What a run needs; bytes are of one GPU, operations of one sample."""

    job: costs.Job
    wan_parameters: int
    new_parameters: int
    states: dict[str, float]
    blocks: float  # bytes of the gathered blocks
    activations: float  # without checkpointing, which no training does
    checkpointed: float
    memory: float  # bytes of the GPU
    step_seconds: float
    gpu_hours: float

    def total(self, checkpointing: bool = True) -> float:
        """Bytes in all, as ``finetune`` trains or without checkpointing."""
        return sum(self.states.values()) + self.blocks + (self.checkpointed if checkpointing else self.activations)

    def fits(self, checkpointing: bool = True) -> bool:
        """Whether that leaves the reserve free."""
        return self.total(checkpointing) <= (1 - RESERVE) * self.memory


def count_parameters(job: costs.Job) -> int:
    """Parameters of the real model, built without memory."""
    with torch.device("meta"):
        model = ContextVideoTransformer(**job.model, context_attention=job.way)
    return sum(parameter.numel() for parameter in model.parameters())


def get_gpu(name: str) -> Gpu:
    """The GPU of that name."""
    if name not in GPUS:
        raise ValueError(f"expected a GPU out of {', '.join(GPUS)}, got {name!r}: choose the one nearest to yours")
    return GPUS[name]


def make_plan(scale: FullScale, way: str, gpus: int, gpu: Gpu, utilisation: float = 0.4) -> Plan:
    """Plan a training run.

    Args:
        scale: the setting; its ``batch`` targets a step are shared out evenly, a sample at a time.
        way: context attention, "two_way" or "one_way".
        gpus: how many.
        gpu: of which kind.
        utilisation: share of the peak that is reached, in 0..1.
    """
    job = costs.job_of(scale, way)
    if gpus < 1 or scale.batch % (gpus * scale.targets):
        raise ValueError(
            f"expected GPUs times targets a context to divide the batch of {scale.batch}, "
            f"got {gpus} x {scale.targets}: take other numbers"
        )
    if not 0 < utilisation <= 1:
        raise ValueError(f"expected a utilisation above 0, up to 1, got {utilisation}: give a share of the peak")
    wan, new = costs.parameters(job)
    states = {name: count / gpus for name, count in costs.state_bytes(wan + new).items()}
    # A single GPU shares nothing out, but in FSDP its bf16 copies are gathered in the same way. Reasoned, not measured.
    blocks = 3 * 2 * costs.block_parameters(job)
    peaks = (activations.peak(job, False), activations.peak(job, True))
    step = costs.training_flops(job, checkpointing=True) * scale.batch / scale.targets
    seconds = step / (gpus * gpu.peak * utilisation)
    hours = seconds * scale.steps * gpus / 3600
    return Plan(job, wan, new, states, blocks, *peaks, gpu.memory, seconds, hours)


def rows_of(plan: Plan, scale: FullScale, price: float) -> dict[str, str]:
    """The table's rows for one plan: quantity to value."""
    job = plan.job
    sampling = costs.sampling_flops(job, scale.inference_steps, scale.guidance_scale != 1)
    possible, hours = plan.fits(), plan.gpu_hours
    would = "would fit" if plan.fits(False) else "would not fit"
    return {
        "parameters of Wan's parts": f"{plan.wan_parameters:,}",
        "parameters of new parts": f"{plan.new_parameters:,}",
        "parameters of the model, built without memory": f"{count_parameters(job):,}",
        "tokens of a context": f"{job.context_tokens:,}",
        "tokens of a target": f"{job.target_tokens:,}",
        "forward, a sample": f"{costs.forward_flops(job) / TERA:,.4g} TFLOP",
        "training step, a sample": f"{costs.training_flops(job, True) / TERA:,.4g} TFLOP",
        "the same, without checkpointing": f"{costs.training_flops(job) / TERA:,.4g} TFLOP",
        f"a generated video, {scale.inference_steps} steps": f"{sampling / 1e15:,.4g} PFLOP",
        "weights, fp32": f"{plan.states['weights'] / GB:,.2f} GB",
        "gradients, fp32": f"{plan.states['gradients'] / GB:,.2f} GB",
        "Adam's moments, fp32": f"{plan.states['moments'] / GB:,.2f} GB",
        "average of the weights, fp32": f"{plan.states['average'] / GB:,.2f} GB",
        "gathered blocks, bf16": f"{plan.blocks / GB:,.2f} GB",
        "activations": f"{plan.checkpointed / GB:,.2f} GB",
        "activations, without checkpointing": f"{plan.activations / GB:,.2f} GB",
        "in all": f"{plan.total() / GB:,.1f} GB ({'fits' if possible else 'does not fit'})",
        "in all, without checkpointing": f"{plan.total(False) / GB:,.1f} GB ({would})",
        f"a step of {scale.batch} targets": f"{plan.step_seconds:,.3g} s" if possible else "-",
        f"{scale.steps:,} steps": f"{hours:,.1f} GPU hours" if possible else "-",
        "price": f"{hours * price:,.0f}" if possible else "-",
    }


def table(scale: FullScale, gpus: int, gpu: Gpu, utilisation: float, price: float, minutes: float, rate: float) -> str:
    """The plan as Markdown, one column for each kind of context attention."""
    if price < 0 or minutes < 0 or rate <= 0:
        raise ValueError(
            f"expected price and minutes of 0 or more and frames a second above 0, got {price}, {minutes} and {rate}: "
            "give such numbers"
        )
    plans = {way: make_plan(scale, way, gpus, gpu, utilisation) for way in ("two_way", "one_way")}
    columns = [rows_of(plan, scale, price) for plan in plans.values()]
    storage = costs.latent_bytes(scale, minutes, rate)
    lines = [
        f"{scale.name}: {scale.width}x{scale.height} pixels, {scale.context_latents} context latents, "
        f"{scale.target_latents} target latents of {scale.tokens_a_latent} tokens; "
        f"targets that share a context: {scale.targets}",
        f"{gpus} x {gpu.name}: {gpu.peak / TERA:,.4g} TFLOP/s peak, {gpu.memory / GB:,.0f} GB each; "
        f"utilisation {utilisation:g}; {price:g} a GPU hour; with gradient checkpointing, as finetune trains",
        "",
        f"| quantity | {' | '.join(plans)} |",
        "|---|---|---|",
        *(f"| {name} | {' | '.join(column[name] for column in columns)} |" for name in columns[0]),
        "",
        f"Latents of {minutes:g} minutes of video at {rate:g} frames a second, with the start frame of each alone, in "
        f"bf16: {storage / GB:,.3g} GB.",
    ]
    return "\n".join(lines)


@command("run the same command again")
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m v4s_lib.training.plan", description=__doc__.splitlines()[0])
    parser.add_argument("--scale", default="full", help=f"one of {', '.join(SCALES)} (default: full)")
    parser.add_argument("--gpus", type=int, default=8, help="how many (default: 8)")
    parser.add_argument("--gpu", default="h100", help=f"one of {', '.join(GPUS)} (default: h100)")
    parser.add_argument(
        "--targets",
        type=int,
        help="targets that share a context (default: the scale's). finetune trains one target a context so far: more "
        "shows what that would buy",
    )
    parser.add_argument("--steps", type=int, help="optimizer steps (default: the scale's)")
    parser.add_argument(
        "--utilisation", type=float, default=0.4, help="share of the peak that is reached (default: 0.4, our choice)"
    )
    parser.add_argument(
        "--price", type=float, default=3.0, help="of a GPU hour, in your currency (default: 3, our choice)"
    )
    parser.add_argument("--minutes", type=float, default=1000.0, help="of video to cache as latents (default: 1000)")
    parser.add_argument("--frames-per-second", type=float, default=30.0, help="of that video (default: 30)")
    args = parser.parse_args(arguments)
    scale = get_scale(args.scale)
    changes = {name: value for name in ("targets", "steps") if (value := getattr(args, name)) is not None}
    scale, gpu = replace(scale, **changes), get_gpu(args.gpu)
    print(table(scale, args.gpus, gpu, args.utilisation, args.price, args.minutes, args.frames_per_second))


if __name__ == "__main__":
    sys.exit(main())
