"""Training samples: rooms that slide through a window, a function of seed, process and step alone."""

from dataclasses import replace

import torch
from torch import Tensor

from v4s_lib.data.instructions import NAVIGATION
from v4s_lib.data.rooms import RoomBatch, RoomTask, make_rooms, training_seeds
from v4s_lib.model.codec import PatchCodec
from v4s_lib.model.pose import relative_to_start
from v4s_lib.model.sight import LEAST_CELL
from v4s_lib.model.text import tokenize, vocabulary
from v4s_lib.training.loss import Sample
from v4s_lib.training.presets import Preset
from v4s_lib.worlds.cameras import inverse

VOCABULARY = vocabulary()
PATH_TOO = 0.25  # share of the targets that seek an object and tell a model without sight the path as well


def draw_sample(
    rooms: list[RoomBatch], task: RoomTask, codec: PatchCodec, generator: torch.Generator, cell: int = LEAST_CELL
) -> Sample:
    """Draw a context and some targets from each group of rooms, encode them, and join the groups.

    Every group gets its own random offset of the time index, so that all of 0..1023 is in range. ``cell`` is the
    finder's, pixels.
    """
    parts = []
    for batch in rooms:
        keep = torch.randperm(batch.scan_frames.shape[1], generator=generator)[: task.context_latents].sort().values
        chosen = torch.randperm(batch.target_frames.shape[1], generator=generator)[: task.targets]
        context_index, target_index = time_indices(batch, keep, task, generator)
        c2w = batch.target_c2w[:, chosen].flatten(0, 1)
        said = [room[target] for room in batch.instructions for target in chosen]
        seeks = torch.tensor([sentence != NAVIGATION for sentence in said])
        has_path = ~seeks | (torch.rand(len(said), generator=generator) < PATH_TOO)
        scan = batch.scan_c2w[:, keep]
        to_last = inverse(scan[:, -1, -1])  # the last context frame is where the context's axes stand
        parts.append(
            Sample(
                codec.encode_groups(batch.scan_frames[:, keep]),
                context_index,
                codec.encode(batch.target_frames[:, chosen].flatten(0, 1)),
                target_index.repeat_interleave(len(chosen), dim=0),
                relative_to_start(c2w),
                has_path.to(c2w.device),
                cell_share(batch.scan_instance[:, keep], batch.sought[:, chosen], cell),
                tokenize(said, VOCABULARY).to(c2w.device),
                to_last[:, None, None] @ scan,
                to_last.repeat_interleave(len(chosen), dim=0) @ c2w[:, 0],
                batch.scan_depth[:, keep],
                batch.target_depth[:, chosen].flatten(0, 1),
            )
        )
    return Sample(*(torch.cat([getattr(part, name) for part in parts]) for name in Sample.__dataclass_fields__))


def time_indices(batch: RoomBatch, keep: Tensor, task: RoomTask, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Time indices (S, P) of the scan's latents ``keep`` (P,), and (S, T) of a target, moved by one random offset.

    The context of a longer scan may come to stand for this one, by the same clock: it has to begin at 0 or after.
    """
    latents = task.target_latents + task.tail_latents
    last = int(batch.start_index.max()) + latents
    least = task.scan_latents[1] - task.scan_latents[0]
    offset = int(torch.randint(least, 1024 - last, (), generator=generator))
    context, start = batch.time_index[:, keep], batch.start_index[:, None]
    if task.contiguous:
        context = torch.arange(len(keep), device=start.device).expand_as(context)
        start = torch.full_like(start, len(keep))
    return context + offset, start + offset + torch.arange(latents, device=start.device)


def cell_share(instance: Tensor, sought: Tensor, cell: int = LEAST_CELL) -> Tensor:
    """Share of each context cell's pixels (S*M, N) that show what is sought, as a finder counts cells.

    Args:
        instance: (S, P, 4, H, W) instance ids; the last frame of each latent counts.
        sought: (S, M) ids; -1 is shown nowhere.
        cell: pixels that a cell is wide and high.
    """
    shown = (instance[:, None, :, -1] == sought[:, :, None, None, None]).float()
    return shown.unflatten(-1, (-1, cell)).unflatten(-3, (-1, cell)).mean(dim=(-3, -1)).flatten(2).flatten(0, 1)


class RoomStream:
    """The rooms of consecutive training steps.

    Step s draws from ``preset.reuse`` groups of rooms, of which one is new: a room serves ``reuse`` steps, each time
    with another context and other targets. The window is rebuilt from the seed, so nothing needs saving.
    """

    def __init__(
        self,
        preset: Preset,
        seed: int,
        device: torch.device | str,
        process: int = 0,
        processes: int = 1,
        compiled: bool = False,
    ) -> None:
        if preset.contexts % preset.reuse:
            raise ValueError(f"expected contexts to be a multiple of reuse, got {preset.contexts} and {preset.reuse}")
        self.preset, self.seed, self.device = preset, seed, device
        self.process, self.processes, self.compiled = process, processes, compiled
        self.codec = PatchCodec(preset.patch_size)
        self.groups: dict[int, RoomBatch] = {}

    @staticmethod
    def for_locating(preset: Preset) -> Preset:
        """A preset whose rooms serve sight and finder: more of them, start frames, and things to look for.

        The targets are start frames alone, and of a latent's frames the last stands for all.
        """
        targets, contexts = preset.locate_targets, preset.locate_contexts
        task = replace(preset.task, target_latents=1, tail_latents=0, grounding=1.0, targets=targets, only_last=True)
        return replace(preset, task=task, contexts=contexts, reuse=min(2, contexts), pool_targets=targets)

    def task(self, step: int) -> RoomTask:
        """The curriculum: how far the camera walks, and the start frame looks away, grows with the step."""
        preset, final = self.preset, self.preset.task
        share = min(1.0, step / max(1, preset.ramp_steps))
        reach = preset.first_reach + share * (final.reach - preset.first_reach)
        spread = preset.first_spread + share * (final.spread - preset.first_spread)
        return replace(final, reach=reach, spread=spread)

    @torch.no_grad()
    def sample(self, step: int) -> Sample:
        """The training sample of a step."""
        wanted = range(step, step + self.preset.reuse)
        self.groups = {group: self.groups.get(group) or self._render(group) for group in wanted}
        generator = torch.Generator().manual_seed(step_seed(self.seed, step, self.process))
        cell = self.preset.model.get("cell", LEAST_CELL)
        return draw_sample(list(self.groups.values()), self.task(step), self.codec, generator, cell)

    def _render(self, group: int) -> RoomBatch:
        count = self.preset.contexts // self.preset.reuse
        seeds = training_seeds(self.seed, (group * self.processes + self.process) * count, count)
        return make_rooms(seeds, self.task(group), self.preset.pool_targets, self.device, self.compiled)


def step_seed(seed: int, step: int, process: int = 0) -> int:
    """One seed a step and process, for whatever is drawn in it."""
    return (seed * 1_000_003 + step) * 1009 + process
