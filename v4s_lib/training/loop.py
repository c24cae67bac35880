"""The training loop: rooms in, weights out. Notebook 03 and ``python -m v4s_lib.training`` call ``train``."""

import contextlib
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from diffusers.training_utils import EMAModel
from torch import nn
from tqdm.auto import tqdm

from v4s_lib.data.provenance import current_commit
from v4s_lib.model.transformer import ContextVideoTransformer
from v4s_lib.model.weights import state_digest
from v4s_lib.training.checkpoints import latest_checkpoint, save_checkpoint, write_folder
from v4s_lib.training.data import RoomStream, step_seed
from v4s_lib.training.interrupt import Interrupt
from v4s_lib.training.loss import Sample, Things, flow_matching_loss, locating_loss, naming_loss
from v4s_lib.training.presets import Preset
from v4s_lib.training.processor import can_compile, fast_attention, make_accelerator, precision
from v4s_lib.training.runs import append_line, check_contract, drop_lines_after
from v4s_lib.training.validation import Validation
from v4s_lib.training.weights import initial_model, initial_weights

# Fields of a preset that a resumed run may change; all others decide what is learnt.
FREE = (
    "adamw_lr",
    "compile",
    "validate_every",
    "validation_rooms",
    "save_every",
    "inference_steps",
    "guidance_scale",
    "shift",
    "least_shared",
)


def make_optimizer(model: nn.Module, preset: Preset) -> torch.optim.Optimizer:
    """AdamW for every parameter."""
    return torch.optim.AdamW(
        model.parameters(), lr=preset.adamw_lr, betas=(0.9, 0.98), weight_decay=preset.weight_decay
    )


def learning_rate(step: int, preset: Preset) -> float:
    """Factor of the learning rate: linear warm-up, constant, linear cool-down. By step, never by clock.

    The steps that teach to locate, to find and to draw each have their own.
    """
    ends = (preset.locate_steps, preset.draws_from, preset.steps)
    first, last = next((begin, end) for begin, end in zip((0, *ends), ends, strict=False) if step < end)
    left = (last - step) / max(1, preset.cooldown * (last - first))
    return min(1.0, (step - first + 1) / max(1, preset.warmup), left)


def deadline(minutes: float | None) -> float:
    """When so many minutes are over, on the clock of ``time.perf_counter``; None is never, ``ValueError`` for none."""
    if minutes is not None and not minutes > 0:
        raise ValueError(f"expected to train for more than 0 minutes, got {minutes:g}: ask for some, or for steps")
    return math.inf if minutes is None else time.perf_counter() + 60 * minutes


def train(
    preset: Preset,
    out_dir: Path,
    seed: int = 0,
    resume: bool = True,
    stop_at: int | None = None,
    minutes: float | None = None,
    init: Path | None = None,
    progress: bool = True,
) -> Path:
    """Train a preset; a run that was stopped goes on from its newest checkpoint to the same losses.

    Args:
        preset: what to train.
        out_dir: folder for ``log.jsonl``, pictures, checkpoints and, at the end, the weights in ``weights/``.
        seed: of the initial weights, the rooms and the noise.
        resume: go on from the newest checkpoint in ``out_dir``; otherwise begin again, and delete the checkpoints that
            are there once there is a new one.
        stop_at: stop (and save) after this many steps in all; None trains to ``preset.steps``.
        minutes: stop (and save) at the first step that ends after so many; None trains for as long as it takes.
        init: folder of a trained transformer to start from.
        progress: show a progress bar.

    Returns:
        the folder of the averaged (EMA) weights.

    Raises:
        KeyboardInterrupt: Ctrl-C; the step under way was finished and saved. A second Ctrl-C does not wait for that.
        FloatingPointError: loss or gradient is not finite; the model is as it was before.
        OSError: the disk is full; the checkpoints before are intact.
        ValueError: steps below 1, no minutes, or settings that differ from the checkpoint's or the initial weights'.
    """
    last = preset.steps if stop_at is None else min(preset.steps, stop_at)
    if last < 1:
        raise ValueError(f"expected to train for 1 step or more, got {last}: ask for more steps")
    ends = deadline(minutes)
    # The steps that teach to locate leave what draws without gradients, and those that draw leave sight.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    accelerator = make_accelerator(precision(preset.mixed_precision), kwargs_handlers=[unused])
    with Interrupt() as interrupt, fast_attention(accelerator):
        run = Run(preset, out_dir, seed, accelerator, init)
        run.begin(resume)
        steps = range(run.step, last)
        bar = tqdm(steps, initial=run.step, total=last, disable=not progress, desc=f"train {preset.name}")
        stopped = False
        for _ in bar:
            bar.set_postfix(loss=f"{run.train_step():.4f}")
            stopped, over = run.any_process(interrupt.asked, time.perf_counter() >= ends)
            due = run.step % preset.validate_every == 0 and run.step > preset.draws_from
            if run.step == last or due and not (stopped or over):
                run.validate()
            if stopped or over:
                break
            if run.step % preset.save_every == 0 and run.step != last:
                run.save()
        run.save()
    if stopped:
        raise KeyboardInterrupt
    return run.export()


class Run:
    """Model, optimizer, average and position of one training run."""

    def __init__(self, preset: Preset, out_dir: Path, seed: int, accelerator: Accelerator, init: Path | None) -> None:
        self.preset, self.out_dir, self.seed, self.accelerator = preset, Path(out_dir), seed, accelerator
        torch.manual_seed(seed)
        if init is None:
            model, self.start = ContextVideoTransformer(**preset.model), None
        else:
            weights = initial_weights(preset, Path(init))
            model, self.start = initial_model(preset, weights), state_digest(weights)
        if preset.find_steps and model.finder is None:
            raise ValueError(f"expected find_steps=0 for a model without a finder, got {preset.find_steps}: change it")
        self.ema = EMAModel(model.parameters(), decay=preset.ema_decay, use_ema_warmup=True, power=0.9, foreach=True)
        self.model, self.optimizer = accelerator.prepare(model, make_optimizer(model, preset))
        self.ema.to(accelerator.device)
        compiled = preset.compile and can_compile(accelerator)
        if compiled:
            model.compile_repeated_blocks()
        place = (seed, accelerator.device, accelerator.process_index, accelerator.num_processes, compiled)
        self.stream = RoomStream(preset, *place)
        self.locate_stream = RoomStream(RoomStream.for_locating(preset), *place)
        self.find_stream = RoomStream(RoomStream.for_finding(preset), *place)
        self.validation = Validation(preset, accelerator.device)
        self.step = 0
        self.started = time.perf_counter()

    def train_step(self) -> float:
        """One optimizer step; returns its loss."""
        loss = self.loss(self.rooms())
        self.accelerator.backward(loss)
        value = self.accelerator.gather(loss.detach()).mean().item()  # a GPU has all of the step's work by now
        if not math.isfinite(value):
            self.optimizer.zero_grad()
            raise FloatingPointError(
                f"expected a finite loss, got {value} in step {self.step + 1}: lower the learning rate and resume"
            )
        self.log({"loss": value, **self.update()})
        return value

    @property
    def locating(self) -> bool:
        """Whether the next step teaches sight and finder alone."""
        return self.step < self.preset.locate_steps

    def rooms(self) -> Sample | Things:
        """What the next step learns from, rendered."""
        if self.locating:
            return self.locate_stream.sample(self.step)
        return (
            self.stream.sample(self.step) if self.step >= self.preset.draws_from else self.find_stream.things(self.step)
        )

    def loss(self, sample: Sample | Things) -> torch.Tensor:
        """The next step's loss."""
        noise = torch.Generator().manual_seed(step_seed(self.seed, self.step, self.accelerator.process_index) + 1)
        with self.accelerator.autocast():
            if isinstance(sample, Things):
                return naming_loss(self.model, sample)
            if self.locating:
                return locating_loss(self.model, sample, self.preset.loss)
            return flow_matching_loss(self.model, sample, self.preset.loss, noise, self.told_share())

    def update(self) -> dict[str, float]:
        """Let optimizer and average follow the gradients, which ends the step; returns what the log says of it."""
        share = learning_rate(self.step, self.preset)
        norm = float(self.accelerator.clip_grad_norm_(self.model.parameters(), 1.0))
        if not math.isfinite(norm):
            self.optimizer.zero_grad()
            raise FloatingPointError(
                f"expected a finite gradient, got norm {norm} in step {self.step + 1}: lower the rate and resume"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = self.preset.adamw_lr * share
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.step(self.model.parameters())
        self.step += 1
        return {"gradient_norm": norm, "rate": share}

    def any_process(self, *said: bool) -> list[bool]:
        """For each statement, whether any process makes it: all of them have to stop at the same step."""
        return self.accelerator.gather(torch.tensor([said], device=self.accelerator.device)).any(dim=0).tolist()

    def told_share(self) -> float:
        """How likely the next step, one that draws, is told true poses."""
        first, last = self.preset.told_poses
        done = (self.step - self.preset.draws_from) / (self.preset.steps - self.preset.draws_from)
        return first + (last - first) * done

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
            model.train()  # a pipeline around it has turned that off

    def validate(self) -> None:
        if self.accelerator.is_main_process:
            with self.averaged() as model, torch.compiler.set_stance("force_eager"):
                scores = self.validation.scores(model, self.out_dir / "samples" / f"step-{self.step:07d}.png")
            self.log(scores)

    def log(self, values: dict) -> None:
        """Append one JSON line."""
        if self.accelerator.is_main_process:
            seconds = round(time.perf_counter() - self.started, 2)
            append_line(self.out_dir / "log.jsonl", {"step": self.step, "seconds": seconds, **values})

    def contract(self) -> dict:
        """What must be the same when a run goes on."""
        values = json.loads(json.dumps(asdict(self.preset)))
        values = {name: value for name, value in values.items() if name not in FREE}
        return {**values, "seed": self.seed, "start": self.start}

    def save(self) -> None:
        def write(folder: Path) -> None:
            self.accelerator.save_state(str(folder), safe_serialization=True)
            torch.save(self.ema.state_dict(), folder / "ema.pt")
            state = {"step": self.step, "commit": current_commit(), "contract": self.contract()}
            state["precision"] = self.accelerator.mixed_precision
            (folder / "run.json").write_text(json.dumps(state))

        if self.accelerator.is_main_process:
            save_checkpoint(self.out_dir / "checkpoints", self.step, write)
        self.accelerator.wait_for_everyone()

    def begin(self, resume: bool) -> None:
        """Go on from the newest whole checkpoint, if that is wanted and there is one; drop log lines after it."""
        place = latest_checkpoint(self.out_dir / "checkpoints") if resume else None
        if place is not None:
            self._load(place)
        if self.accelerator.is_main_process:
            drop_lines_after(self.out_dir / "log.jsonl", self.step)

    def _load(self, place: Path) -> None:
        state = json.loads((place / "run.json").read_text())
        check_contract(place, self.contract(), state["contract"])
        self.accelerator.load_state(str(place))
        self.ema.load_state_dict(torch.load(place / "ema.pt", map_location="cpu", weights_only=True))
        self.ema.to(self.accelerator.device)
        self.step = state["step"]

    def export(self) -> Path:
        """Write the averaged weights as safetensors."""
        place = self.out_dir / "weights"
        if self.accelerator.is_main_process:
            with self.averaged() as model:
                write_folder(place, lambda folder: model.save_pretrained(folder, safe_serialization=True))
        self.accelerator.wait_for_everyone()
        return place
