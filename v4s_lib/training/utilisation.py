"""``python -m v4s_lib.training.utilisation --preset small``: what a training step's time goes into.

There are four kinds of steps: those that teach to locate, those that teach the finder of what words name, those that
draw and are told where frames stand, and those that work it out. The parts of a few of each are timed, the device
waited for after each: rooms are rendered, the loss is computed, its gradients, the update. A step's operations are
counted by torch, once, without compiling. The model FLOPs utilisation is those of loss and gradients, over the step's
whole time, as a share of a peak: of a large matrix product, measured in turns with the steps of each kind, at its best,
or of a kind of GPU (``--gpu h200``).
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm

from v4s_lib.command import command
from v4s_lib.data.provenance import current_commit
from v4s_lib.training.loop import Run
from v4s_lib.training.plan import GPUS, get_gpu
from v4s_lib.training.presets import PRESETS, Preset, get_preset
from v4s_lib.training.processor import fast_attention, make_accelerator, precision

PARTS = ("rooms", "loss", "gradients", "update")
SIDE = {"cpu": 2048, "cuda": 8192}  # of the matrices whose product is timed: large enough to reach the peak
KINDS = ("locate", "find", "draw, told where", "draw")
WARM = 2  # steps that are not counted: the first compiles


@dataclass(frozen=True)
class Utilisation:
    """Of one kind of step: medians."""

    kind: str  # of KINDS
    seconds: dict[str, float]  # of each part
    flops: float  # of loss and gradients
    peak: float  # FLOP a second, of a matrix product

    def share(self, peak: float) -> float:
        """Model FLOPs utilisation, 0..1, of a processor that could do ``peak`` FLOP a second."""
        return self.flops / sum(self.seconds.values()) / peak


def wait(device: torch.device) -> None:
    """Until the device has done all that it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(device: torch.device, call: Callable, *inputs: object) -> tuple[float, Any]:
    """Seconds of a call and of what it leaves to the device, and what it returns."""
    wait(device)
    begin = time.perf_counter()
    result = call(*inputs)
    wait(device)
    return time.perf_counter() - begin, result


def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP a second of one large matrix product."""
    side = SIDE[device.type]
    matrix = torch.ones(side, side, device=device, dtype=dtype)
    return 2 * side**3 / timed(device, torch.mm, matrix, matrix)[0]


def operations(call: Callable[[], object]) -> int:
    """Floating point operations of a call's matrix products, convolutions and attention.

    Attention is written out, for torch does not count a CPU's fused kernel.
    """
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def count_flops(preset: Preset, kind: str) -> float:
    """Operations of one step's loss and gradients."""
    run = _begin(replace(preset, compile=False), kind, 1)
    sample = run.rooms()
    return float(operations(lambda: run.accelerator.backward(run.loss(sample))))


def measure(preset: Preset, kind: str, steps: int) -> Utilisation:
    """Time ``steps`` steps of one kind."""
    flops, run = count_flops(preset, kind), _begin(preset, kind, WARM + steps)
    device = run.accelerator.device
    dtype = torch.bfloat16 if run.accelerator.mixed_precision == "bf16" else torch.float32
    seconds: dict[str, list[float]] = {part: [] for part in PARTS}
    peaks = []
    with fast_attention(run.accelerator):
        for number in tqdm(range(WARM + steps), desc=kind):
            taken = {}
            taken["rooms"], sample = timed(device, run.rooms)
            taken["loss"], loss = timed(device, run.loss, sample)
            taken["gradients"], _ = timed(device, run.accelerator.backward, loss)
            taken["update"], _ = timed(device, run.update)
            if number >= WARM:
                peaks.append(product_rate(device, dtype))
                for part, value in taken.items():
                    seconds[part].append(value)
    medians = {part: statistics.median(values) for part, values in seconds.items()}
    return Utilisation(kind, medians, flops, statistics.median(peaks))


def _begin(preset: Preset, kind: str, steps: int) -> Run:
    """A run before its first steps of a kind, of which all that draw are; it writes nothing."""
    told = float(kind == "draw, told where")
    if kind == "locate":
        preset = replace(preset, locate_steps=max(preset.locate_steps, steps))
    if kind == "find":
        preset = replace(preset, find_steps=max(preset.find_steps, steps))
    preset = replace(preset, steps=max(preset.steps, preset.draws_from + steps), told_poses=(told, told))
    with TemporaryDirectory() as folder:
        run = Run(preset, Path(folder), 0, make_accelerator(precision(preset.mixed_precision)), None)
    run.step = {"locate": 0, "find": preset.locate_steps}.get(kind, preset.draws_from)
    return run


def kinds_of(preset: Preset) -> list[str]:
    """The kinds of steps that a preset takes."""
    return [kind for kind in KINDS if kind != "find" or preset.find_steps]


def all_minutes(preset: Preset, rows: list[Utilisation]) -> float:
    """Of all steps of a preset at this pace, without validation."""
    taken = {row.kind: sum(row.seconds.values()) for row in rows}
    told = sum(preset.told_poses) / 2  # of the steps that draw, as their share goes from the first to the second
    draw = told * taken["draw, told where"] + (1 - told) * taken["draw"]
    find = preset.find_steps * taken.get("find", 0.0)
    return (preset.locate_steps * taken["locate"] + find + (preset.steps - preset.draws_from) * draw) / 60


def table(found: dict[str, Any]) -> str:
    """In Markdown, of the figures as they are stored: a line for each kind of step."""
    of = "a large matrix product" if found["gpu"] is None else f"the peak of {found['gpu']}"
    lines = [
        f"| step | seconds | {' | '.join(PARTS)} | GFLOP | share of {of} |",
        "|---|" + "---|" * (len(PARTS) + 3),
    ]
    for row in found["rows"]:
        total = sum(row["seconds"].values())
        shares = " | ".join(f"{row['seconds'][part] / total:.0%}" for part in PARTS)
        lines.append(f"| {row['kind']} | {total:.3g} | {shares} | {row['flops'] / 1e9:.3g} | {row['share']:.0%} |")
    whole = f"All {found['all_steps']:,} steps: {found['minutes']:.0f} minutes, with validation and compiling left out."
    return "\n".join([*lines, "", whole])


@command("nothing was written; run the same command again")
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m v4s_lib.training.utilisation", description=__doc__)
    parser.add_argument("--preset", default="small", help=f"one of {', '.join(PRESETS)} (default: small)")
    parser.add_argument("--steps", type=int, default=5, help="that are timed, of each kind (default: 5)")
    parser.add_argument("--gpu", help=f"peak to compare with: one of {', '.join(GPUS)} (default: a matrix product's)")
    parser.add_argument("--json", type=Path, help="file for the figures and where they come from")
    args = parser.parse_args(arguments)
    preset = get_preset(args.preset)
    if args.steps < 1:
        raise ValueError(f"expected 1 step or more, got {args.steps}: ask for some")
    peak = None if args.gpu is None else get_gpu(args.gpu).peak
    rows = [measure(preset, kind, args.steps) for kind in kinds_of(preset)]
    peak = peak or max(row.peak for row in rows)  # what the processor could do at its best
    facts = {"preset": preset.name, "steps": args.steps, "commit": current_commit(), "torch": torch.__version__}
    facts |= {"threads": torch.get_num_threads(), "gpu": args.gpu}
    facts |= {"all_steps": preset.steps, "minutes": all_minutes(preset, rows)}
    facts["rows"] = [asdict(row) | {"share": row.share(peak)} for row in rows]
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(facts, indent=1) + "\n")
    print(table(facts))


if __name__ == "__main__":
    sys.exit(main())
