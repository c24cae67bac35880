"""The training loop of a scale on a latent cache, in one process or in many; ``finetune.py`` is its command.

The losses are the same for any number of processes, and for a run that was stopped, killed, or goes on with another
number. There is no validation in it: the paper's measures need generated videos, at full scale 100 forward passes each.
"""

import contextlib
import json
import math
import sys
import time
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import InitProcessGroupKwargs, broadcast_object_list
from diffusers.training_utils import EMAModel
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tqdm.auto import tqdm

from v4s_lib.data.curation import load_windows
from v4s_lib.data.files import sha256
from v4s_lib.data.provenance import current_commit
from v4s_lib.model.transformer import ContextVideoTransformer
from v4s_lib.model.weights import weights_digest
from v4s_lib.training.adapters import adapter_config, add_adapters, base_of, hold_frozen, save_adapters
from v4s_lib.training.cached import INDEX, CachedLatents
from v4s_lib.training.checkpoints import latest_checkpoint, save_checkpoint, write_folder
from v4s_lib.training.full import FullScale
from v4s_lib.training.interrupt import Interrupt
from v4s_lib.training.processor import make_accelerator
from v4s_lib.training.runs import append_line, check_contract, drop_lines_after
from v4s_lib.training.sharding import gathered, is_sharded, load_state, prepare, save_state, trained
from v4s_lib.training.start import starting_model
from v4s_lib.training.windows import CachedWindows, velocity_loss

# Fields of a scale that a resumed run may change; all others decide what is learnt.
FREE = ("steps", "inference_steps", "guidance_scale")
PATIENCE = timedelta(hours=2)  # of a process for the others, while one hashes or writes: 80 GB of a checkpoint, say


@dataclass(frozen=True)
class Job:
    """What is trained, on what, and from where."""

    scale: FullScale
    cache: Path
    out: Path
    weights: Path | None = None  # a stock WanTransformer3DModel's folder or one of our own; None: random, from the seed
    context_attention: str = "two_way"
    lora: int | None = None  # rank of adapters; None trains all weights
    seed: int = 0
    save_every: int = 250  # steps
    together: int = 1  # samples that a process computes at once
    windows: Path | None = None  # curated targets that the cache was encoded with; None draws them wherever they fit

    @property
    def learning_rate(self) -> float:
        """Of all weights, or of adapters."""
        return self.scale.learning_rate if self.lora is None else self.scale.lora_learning_rate


def finetune(job: Job, stop_at: int | None = None, progress: bool = True) -> Path:
    """Train; a run that was stopped goes on from its newest checkpoint to the same losses.

    Args:
        job: what to train; ``job.out`` gets ``log.jsonl``, checkpoints and, at the end, averaged weights.
        stop_at: stop (and save) after this many steps in all; None trains to the scale's.
        progress: show a bar, in the first process.

    Returns:
        the folder of the averaged (EMA) weights, ``weights/``, or of the averaged adapters, ``adapters/``.

    Raises:
        KeyboardInterrupt: Ctrl-C in any of the processes; the step under way was finished and saved.
        FloatingPointError: loss or gradient is not finite; the model is as it was before.
        OSError: the disk is full; the checkpoints before are intact.
        ValueError: settings that make no run, or differ from the checkpoint's or the weights'.
    """
    last = job.scale.steps if stop_at is None else min(job.scale.steps, stop_at)
    _check(job, last)
    stopped = False
    with Interrupt() as interrupt:
        run = _Run(job)
        run.begin()
        steps, hidden = range(run.step, last), not (run.first and progress)
        bar = tqdm(steps, initial=run.step, total=last, disable=hidden, desc=job.scale.name)
        for _ in bar:
            loss, stopped = run.train_step(interrupt)
            bar.set_postfix(loss=f"{loss:.4f}")
            if stopped:
                break
            if run.step % job.save_every == 0 and run.step != last:
                run.save()
        run.save()
    if stopped:
        raise KeyboardInterrupt
    return run.export()


def _check(job: Job, last: int) -> None:
    """Refuse what makes no run of ``last`` steps."""
    if min(last, job.save_every, job.together) < 1:
        raise ValueError(
            "expected steps, steps between checkpoints and samples together from 1, got "
            f"{last}, {job.save_every} and {job.together}: choose others"
        )
    window = (job.scale.moving_latents, job.scale.context_latents)
    if min(window) < 1 or job.scale.gap < 0:
        raise ValueError(
            f"expected a target of 2 latents or more, a context of 1 or more and a gap from 0, got {1 + window[0]}, "
            f"{window[1]} and {job.scale.gap}: choose others"
        )
    if job.scale.targets != 1:
        raise ValueError(f"expected one target a context, got {job.scale.targets}: a window has a context of its own")


class _Run:
    """Model, optimizer, average and position of one training run, in one of its processes."""

    def __init__(self, job: Job) -> None:
        self.job, self.scale = job, job.scale
        curated = None if job.windows is None else load_windows(job.windows)
        self.windows = CachedWindows(CachedLatents(job.cache), self.scale, job.seed, curated)
        self.config = None if job.lora is None else adapter_config(job.lora)
        waiting = InitProcessGroupKwargs(timeout=PATIENCE)
        self.accelerator = make_accelerator(self.scale.mixed_precision, kwargs_handlers=[waiting])
        self.first, processes = self.accelerator.is_main_process, self.accelerator.num_processes
        if self.scale.batch % (processes * job.together):
            raise ValueError(
                f"expected processes times samples together to divide the batch of {self.scale.batch}, "
                f"got {processes} x {job.together}: take other numbers"
            )
        torch.manual_seed(job.seed)
        self.model = starting_model(self.scale, job.context_attention, job.weights)
        self.base = None if self.config is None else base_of(self.model)
        self.origin = weights_digest(self.model.proj_out) if self.base is None else self.base["frozen_weights"]
        if self.config is not None:
            adapted = add_adapters(self.model, self.config)
            if self.scale.mixed_precision == "bf16" and not is_sharded():
                hold_frozen(adapted, torch.bfloat16)
        self.model.train().enable_gradient_checkpointing()  # always, as the plan counts
        self.called = prepare(self.model, self.accelerator)
        self.parameters = trained(self.model)
        moving = {"betas": self.scale.betas, "weight_decay": self.scale.weight_decay}
        self.optimizer = torch.optim.AdamW(self.parameters.values(), lr=job.learning_rate, **moving)
        decay = self.scale.ema_decay
        self.average = EMAModel(self.parameters.values(), decay=decay, use_ema_warmup=True, power=0.9)
        share = self.scale.batch // processes
        own = range(self.accelerator.process_index * share, (self.accelerator.process_index + 1) * share)
        self.parts = [own[start : start + job.together] for start in range(0, share, job.together)]
        self.step = 0
        self.started = time.perf_counter()

    def train_step(self, interrupt: Interrupt) -> tuple[float, bool]:
        """One optimizer step; returns its loss, and whether Ctrl-C was pressed in any process."""
        rate = self.job.learning_rate * min(1.0, (self.step + 1) / max(1, self.scale.warmup))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = torch.zeros((), device=self.accelerator.device)
        for part in self.parts:
            window = self.windows.batch(self.step, part).to(self.accelerator.device)
            with self._apart(part):
                with self.accelerator.autocast():
                    share = velocity_loss(self.called, window) / len(self.parts)
                share.backward()
            loss += share.detach()
        told = torch.stack([loss, torch.full_like(loss, interrupt.asked)])
        losses, asked = self.accelerator.gather(told[None]).unbind(1)
        value = losses.mean().item()
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), self.scale.max_grad_norm)
        norm = gathered({"norm": norm}, keep=True)["norm"].item()
        if not (math.isfinite(value) and math.isfinite(norm)):
            raise FloatingPointError(
                f"expected a finite loss and gradient, got {value} and {norm} in step {self.step + 1}: "
                "lower the learning rate"
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.step(self.parameters.values())
        self.step += 1
        if self.first:
            seconds = round(time.perf_counter() - self.started, 2)
            line = {"step": self.step, "seconds": seconds, "loss": value, "gradient_norm": norm, "rate": rate}
            append_line(self.job.out / "log.jsonl", line)
        return value, bool(asked.any())

    def _apart(self, part: range) -> contextlib.AbstractContextManager:
        """Copies of the model exchange their gradients after the last part alone; shards, which save memory, always."""
        if isinstance(self.called, DistributedDataParallel) and part != self.parts[-1]:
            return self.called.no_sync()
        return contextlib.nullcontext()

    def contract(self) -> dict[str, Any]:
        """What must be the same when a run goes on: all that decides its losses."""
        values = json.loads(json.dumps(asdict(self.scale)))
        return {
            **{name: value for name, value in values.items() if name not in FREE},
            "context_attention": self.job.context_attention,
            "lora": self.job.lora,
            "seed": self.job.seed,
            "cache": sha256(self.job.cache / INDEX),
            "windows": None if self.job.windows is None else sha256(self.job.windows),
            "weights": self.origin,
        }

    def begin(self) -> None:
        """Go on from the newest whole checkpoint, if there is one; drop log lines after it."""
        (place,) = broadcast_object_list([latest_checkpoint(self.job.out / "checkpoints") if self.first else None])
        if place is not None:
            state = json.loads((place / "run.json").read_text())
            check_contract(place, self.contract(), state["contract"])
            load_state(self.model, self.optimizer, self.average, place / "state", state["step"])
            self.step = state["step"]
        if self.first:
            drop_lines_after(self.job.out / "log.jsonl", self.step)
            if self.windows.too_short:
                drawn, short = self.windows.names, self.windows.too_short
                print(f"{len(drawn)} scans to draw from; too short: {len(short)}, such as {short[0]}", file=sys.stderr)

    def save(self) -> None:
        """Write a checkpoint, each process its part; the first one completes it."""
        parts = self.model, self.optimizer, self.average

        def write(folder: Path) -> None:
            save_state(*parts, folder / "state")
            state = {"step": self.step, "commit": current_commit(), "contract": self.contract()}
            (folder / "run.json").write_text(json.dumps(state))

        if self.first:
            save_checkpoint(self.job.out / "checkpoints", self.step, write)
        else:
            save_state(*parts, None)
        self.accelerator.wait_for_everyone()

    def export(self) -> Path:
        """Write the averaged weights, or adapters, as safetensors."""
        tensors = gathered(dict(zip(self.parameters, self.average.shadow_params, strict=True)), self.first)
        place = self.job.out / ("weights" if self.config is None else "adapters")
        if self.first and self.config is not None:
            write_folder(place, lambda folder: save_adapters(folder, self.config, tensors, self.base))
        elif self.first:
            with torch.device("meta"):
                model = ContextVideoTransformer.from_config(self.model.config)
            model.load_state_dict(tensors, assign=True)
            write_folder(place, model.save_pretrained)
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()
        return place
