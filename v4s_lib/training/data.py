"""Training samples: rooms that slide through a window, a function of seed, process and step alone."""

from dataclasses import fields, replace

import torch
from torch import Tensor

from v4s_lib.data.instructions import NAVIGATION, grounding_instruction, object_name
from v4s_lib.data.rooms import RoomBatch, RoomTask, make_rooms, training_seeds
from v4s_lib.data.targets import draw_name
from v4s_lib.model.codec import PatchCodec
from v4s_lib.model.pose import relative_to_start
from v4s_lib.model.sight import LEAST_CELL
from v4s_lib.model.text import tokenize, vocabulary
from v4s_lib.training.loss import Sample, Things
from v4s_lib.training.presets import Preset
from v4s_lib.worlds.cameras import inverse
from v4s_lib.worlds.objects import COLORS, KINDS

VOCABULARY = vocabulary()
LEAST_SHOWN = 8  # pixels of a context's last frames that a thing fills, to be asked for; our choice
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
        keep = draw_context(batch, task, generator)
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
    return _join(parts)


def draw_context(batch: RoomBatch, task: RoomTask, generator: torch.Generator) -> Tensor:
    """Which of the rendered latents of some rooms' scans are their context (P,), in the scan's order."""
    return torch.randperm(batch.scan_frames.shape[1], generator=generator)[: task.context_latents].sort().values


def _join(parts: list) -> Sample | Things:
    """All that some samples, or things, are together."""
    kind = type(parts[0])
    return kind(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(kind)))


def draw_things(
    rooms: list[RoomBatch],
    task: RoomTask,
    count: int,
    codec: PatchCodec,
    generator: torch.Generator,
    cell: int = LEAST_CELL,
) -> Things:
    """Draw a context from each group of rooms, and name ``count`` things in each.

    The last one is none of the room's: there the finder is to choose nothing. The others are drawn from all that the
    context shows: things of one colour, which are easily taken for each other, are asked for in one room.
    """
    labels = [f"{color} {kind}" for color in COLORS for kind in KINDS]
    parts = []
    for batch in rooms:
        keep = draw_context(batch, task, generator)
        seen, sought, said = batch.scan_instance[:, keep], [], []
        for room, items in enumerate(batch.scenes.objects):
            pixels = [int((seen[room, :, -1] == item.instance).sum()) for item in items]
            shown = [item for item, size in zip(items, pixels, strict=True) if size >= LEAST_SHOWN] or items
            order = torch.randperm(len(shown), generator=generator).tolist()
            drawn = [shown[order[place % len(shown)]] for place in range(count - 1)]
            held = {item.label for item in items}.union(task.without)
            absent = [label for label in labels if label not in held]
            other = absent[int(torch.randint(len(absent), (), generator=generator))]
            names = [draw_name(batch.scenes, room, item, generator) for item in drawn]
            said += [grounding_instruction(name) for name in (*names, object_name(other))]
            sought.append([item.instance for item in drawn] + [-1])
        words = tokenize(said, VOCABULARY).to(seen.device)
        share = cell_share(seen, torch.tensor(sought, device=seen.device), cell)
        parts.append(Things(codec.encode_groups(batch.scan_frames[:, keep]), words, share))
    return _join(parts)


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

        The targets are start frames alone, and of a latent's frames the last stands for all. None of the rooms is a
        park, whose things have no names that could be asked for.
        """
        targets, contexts = preset.locate_targets, preset.locate_contexts
        seeking = {"target_latents": 1, "tail_latents": 0, "grounding": 1.0, "parks": 0.0, "only_last": True}
        task = replace(preset.task, targets=targets, **seeking)
        return replace(preset, task=task, contexts=contexts, reuse=min(2, contexts), pool_targets=targets)

    @staticmethod
    def for_finding(preset: Preset) -> Preset:
        """A preset whose rooms serve the finder: as those for locating, at the end of the curriculum.

        One start frame is rendered, and not looked at.
        """
        task, rooms = preset.task, RoomStream.for_locating(preset)
        return replace(rooms, pool_targets=1, first_reach=task.reach, first_spread=task.spread)

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
        groups, generator = self._walk(step)
        return draw_sample(groups, self.task(step), self.codec, generator, self._cell)

    @torch.no_grad()
    def things(self, step: int) -> Things:
        """What a step that teaches the finder alone learns from: ``locate_targets`` names a room."""
        groups, generator = self._walk(step)
        return draw_things(groups, self.preset.task, self.preset.locate_targets, self.codec, generator, self._cell)

    @property
    def _cell(self) -> int:
        return self.preset.model.get("cell", LEAST_CELL)

    def _walk(self, step: int) -> tuple[list[RoomBatch], torch.Generator]:
        """The rooms of a step, and what else is drawn in it."""
        wanted = range(step, step + self.preset.reuse)
        self.groups = {group: self.groups.get(group) or self._render(group) for group in wanted}
        generator = torch.Generator().manual_seed(step_seed(self.seed, step, self.process))
        return list(self.groups.values()), generator

    def _render(self, group: int) -> RoomBatch:
        count = self.preset.contexts // self.preset.reuse
        seeds = training_seeds(self.seed, (group * self.processes + self.process) * count, count)
        return make_rooms(seeds, self.task(group), self.preset.pool_targets, self.device, self.compiled)


def step_seed(seed: int, step: int, process: int = 0) -> int:
    """One seed a step and process, for whatever is drawn in it."""
    return (seed * 1_000_003 + step) * 1009 + process
