"""The training loop: rooms in, weights out. Notebook 03 and ``python -m v4s_lib.training`` call ``train``."""

import contextlib
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm.auto import tqdm

from v4s_lib.model.transformer import ContextVideoTransformer
from v4s_lib.training.checkpoints import latest_checkpoint, save_checkpoint
from v4s_lib.training.data import RoomStream, step_seed
from v4s_lib.training.loss import flow_matching_loss
from v4s_lib.training.presets import Preset
from v4s_lib.training.validation import Validation

CONTRACT = ("model", "task", "patch_size", "steps", "contexts", "reuse", "loss")  # what a resumed run must share


def make_optimizers(model: nn.Module, preset: Preset) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for all other parameters."""
    matrices = [p for n, p in model.named_parameters() if n.startswith("blocks.") and p.ndim == 2]
    taken = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in taken]
    return [
        torch.optim.Muon(matrices, lr=preset.muon_lr, weight_decay=preset.weight_decay),
        torch.optim.AdamW(others, lr=preset.adamw_lr, betas=(0.9, 0.98), weight_decay=preset.weight_decay),
    ]


def learning_rate(step: int, preset: Preset) -> float:
    """Factor of both learning rates: linear warm-up, constant, linear cool-down. By step, never by clock."""
    left = (preset.steps - step) / max(1, preset.cooldown * preset.steps)
    return min(1.0, (step + 1) / max(1, preset.warmup), left)


def train(
    preset: Preset,
    out_dir: Path,
    seed: int = 0,
    resume: bool = True,
    stop_at: int | None = None,
    init: Path | None = None,
    progress: bool = True,
) -> Path:
    """Train a preset; a run that was stopped goes on from its newest checkpoint to the same losses.

    Args:
        preset: what to train.
        out_dir: folder for ``log.jsonl``, pictures, checkpoints and, at the end, the weights in ``weights/``.
        seed: of the initial weights, the rooms and the noise.
        resume: go on from the newest checkpoint in ``out_dir``.
        stop_at: stop (and save) after this many steps in all; None trains to ``preset.steps``.
        init: folder of a trained transformer to start from.
        progress: show a progress bar.

    Returns:
        the folder of the averaged (EMA) weights.
    """
    accelerator = Accelerator(mixed_precision=preset.mixed_precision)
    run = _Run(preset, out_dir, seed, accelerator, init)
    if resume:
        run.resume()
    last = min(preset.steps, stop_at or preset.steps)
    bar = tqdm(range(run.step, last), initial=run.step, total=last, disable=not progress, desc=f"train {preset.name}")
    try:
        with _fast_attention(accelerator):
            for _ in bar:
                bar.set_postfix(loss=f"{run.train_step():.4f}")
                if run.step % preset.validate_every == 0 or run.step == last:
                    run.validate()
                if run.step % preset.save_every == 0:
                    run.save()
    except KeyboardInterrupt:
        run.save()
        raise
    run.save()
    return run.export()


class _Run:
    """Model, optimizers, average and position of one training run."""

    def __init__(self, preset: Preset, out_dir: Path, seed: int, accelerator: Accelerator, init: Path | None) -> None:
        self.preset, self.out_dir, self.seed, self.accelerator = preset, Path(out_dir), seed, accelerator
        torch.manual_seed(seed)
        if init is None:
            model = ContextVideoTransformer(**preset.model)
        else:
            model = ContextVideoTransformer.from_pretrained(init)
        self.ema = EMAModel(model.parameters(), decay=preset.ema_decay, use_ema_warmup=True, power=0.9)
        optimizers = make_optimizers(model, preset)
        self.model, *self.optimizers = accelerator.prepare(model, *optimizers)
        self.ema.to(accelerator.device)
        compiled = preset.compile and can_compile(accelerator)
        if compiled:
            model.compile_repeated_blocks()
        self.stream = RoomStream(
            preset, seed, accelerator.device, accelerator.process_index, accelerator.num_processes, compiled
        )
        self.validation = Validation(preset, accelerator.device)
        self.step = 0
        self.started = time.perf_counter()

    def train_step(self) -> float:
        """One optimizer step; returns its loss."""
        sample = self.stream.sample(self.step)
        noise = torch.Generator().manual_seed(step_seed(self.seed, self.step, self.accelerator.process_index) + 1)
        factor = learning_rate(self.step, self.preset)
        for optimizer, rate in zip(self.optimizers, (self.preset.muon_lr, self.preset.adamw_lr), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
        with self.accelerator.autocast():
            loss = flow_matching_loss(self.model, sample, self.preset.loss, noise)
        self.accelerator.backward(loss)
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.ema.step(self.model.parameters())
        self.step += 1
        value = self.accelerator.gather(loss.detach()).mean().item()
        if not torch.isfinite(loss.detach()):
            raise FloatingPointError(f"expected a finite loss, got {value} at step {self.step}: lower the learning rates")
        self.log({"loss": value, "gradient_norm": float(norm), "rate": factor})
        return value

    @contextlib.contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """The model with its averaged weights, for as long as the context lasts."""
        model = self.accelerator.unwrap_model(self.model)
        self.ema.store(model.parameters())
        self.ema.copy_to(model.parameters())
        try:
            yield model
        finally:
            self.ema.restore(model.parameters())

    def validate(self) -> None:
        if self.accelerator.is_main_process:
            with self.averaged() as model, torch.compiler.set_stance("force_eager"):
                scores = self.validation.scores(model, self.out_dir / "samples" / f"step-{self.step:07d}.png")
            self.log(scores)

    def log(self, values: dict) -> None:
        """Append one JSON line."""
        if self.accelerator.is_main_process:
            self.out_dir.mkdir(parents=True, exist_ok=True)
            seconds = round(time.perf_counter() - self.started, 2)
            with (self.out_dir / "log.jsonl").open("a") as file:
                file.write(json.dumps({"step": self.step, "seconds": seconds, **values}) + "\n")

    def contract(self) -> dict:
        """What must be the same when a run goes on."""
        values = json.loads(json.dumps(asdict(self.preset)))
        return {**{name: values[name] for name in CONTRACT}, "seed": self.seed}

    def save(self) -> None:
        def write(folder: Path) -> None:
            self.accelerator.save_state(str(folder), safe_serialization=True)
            torch.save(self.ema.state_dict(), folder / "ema.pt")
            (folder / "run.json").write_text(json.dumps({"step": self.step, "contract": self.contract()}))

        save_checkpoint(self.out_dir / "checkpoints", self.step, write)

    def resume(self) -> None:
        """Go on from the newest whole checkpoint, if there is one; drop log lines that came after it."""
        place = latest_checkpoint(self.out_dir / "checkpoints")
        if place is None:
            return
        state = json.loads((place / "run.json").read_text())
        differing = [name for name, value in self.contract().items() if state["contract"][name] != value]
        if differing:
            raise ValueError(
                f"expected to resume {place} with the same {', '.join(differing)}, got another: "
                "use the old settings or another output folder"
            )
        self.accelerator.load_state(str(place))
        self.ema.load_state_dict(torch.load(place / "ema.pt", map_location=self.accelerator.device, weights_only=True))
        self.step = state["step"]
        log = self.out_dir / "log.jsonl"
        if log.is_file():
            lines = [line for line in log.read_text().splitlines() if json.loads(line)["step"] <= self.step]
            log.write_text("".join(line + "\n" for line in lines))

    def export(self) -> Path:
        """Write the averaged weights as safetensors, beside and then in place."""
        place, beside = self.out_dir / "weights", self.out_dir / ".weights"
        with self.averaged() as model:
            model.save_pretrained(beside, safe_serialization=True)
        shutil.rmtree(place, ignore_errors=True)
        beside.rename(place)
        return place


def can_compile(accelerator: Accelerator) -> bool:
    """Whether torch.compile has what it needs: a GPU, or a C++ compiler."""
    return accelerator.device.type == "cuda" or shutil.which("g++") is not None


@contextlib.contextmanager
def _fast_attention(accelerator: Accelerator) -> Iterator[None]:
    """On a CPU attention written out and compiled trains 1.4 times faster than the fused kernel (measured, 2 cores)."""
    if accelerator.device.type != "cpu" or accelerator.mixed_precision != "bf16":
        yield
        return
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
    with sdpa_kernel(SDPBackend.MATH):
        yield
