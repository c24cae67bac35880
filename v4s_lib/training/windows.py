"""Training samples out of a latent cache: a window of a scan as target, other latents of the scan as context.

Targets are the windows that curation has kept, with their captions, or any place where one fits.
A sample is a function of seed, step and its number in the batch alone: a run that is resumed sees the same samples, and
so does one whose batch is shared out over another number of processes.

The start latent is that of the start frame alone, as in sampling; poses are relative to that frame, the last of the
window's first latent. A target for navigation has the scan's own latents behind it. For patches that is what a target
by itself would give; Wan's encoder looks back, so its moving latents know the frames before the start, which those of a
target by itself could not: our choice, for otherwise every place to start would need a whole target encoded.

A curated window that ends on an object was encoded whole, with its box tail, in which the camera stands still and time
goes on. Its words have to be enough: where the path is known, it is told for a share of such targets alone. All targets
of a step are of one kind, so that they have one length, however many are computed together, and no process waits for
another's longer ones; the kind is drawn by seed and step (``FullScale.grounding``), and all windows of a kind alike.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from v4s_lib.data.curation_windows import Window as Curated
from v4s_lib.data.windows import sample_context
from v4s_lib.model.pose import relative_to_start
from v4s_lib.training.cached import CachedLatents
from v4s_lib.training.data import step_seed
from v4s_lib.training.full import FullScale
from v4s_lib.worlds.paths import FRAMES_PER_LATENT


@dataclass
class Window:
    """A batch of B targets of T latents, each with its own context of P, and all that is drawn for them.

    T is the scale's start and moving latents, and for targets with a box those of the tail, too.
    """

    target_latents: Tensor  # (B, C, T, h, w), clean; the first is the start latent
    target_time_index: Tensor  # (B, T)
    context_latents: Tensor  # (B, C, P, h, w); noise for the unconditional branch
    context_time_index: Tensor  # (B, P)
    context_timestep: Tensor  # (B,) 0, or 1000 for the unconditional branch
    camera_path: Tensor  # (B, T, 4, 4, 4) c2w relative to the start frame
    camera_mask: Tensor  # (B,) whether the model is told the path
    encoder_hidden_states: Tensor  # (B, L, D) text, or the null text
    sigma: Tensor  # (B,) share of noise in the moving latents
    noise: Tensor  # (B, C, T - 1, h, w)

    def to(self, device: torch.device) -> "Window":
        return Window(*(getattr(self, field.name).to(device) for field in fields(self)))


class CachedWindows:
    """Draws the samples of a scale from a cache.

    Args:
        cache: latents, poses where they are known, and text.
        scale: how long target and context are, what is dropped, and the shift of the noise.
        seed: of all that is drawn.
        curated: the targets to draw from, as ``data.curation.load_windows`` reads them; None draws them anywhere.

    Attributes:
        names: the scans that are long enough; ``too_short`` are the others. Every one of ``names`` is drawn alike.

    Raises ``ValueError`` when the cache is of another size, without text, or without a scan that is long enough, and
    when curated windows are of another length or scan, say what it has no text for, or end on an object and were not
    encoded whole.
    """

    def __init__(
        self,
        cache: CachedLatents,
        scale: FullScale,
        seed: int,
        curated: Sequence[Curated] | None = None,
    ) -> None:
        self.cache, self.scale, self.seed = cache, scale, seed
        self.latents = 1 + scale.moving_latents
        self.range = scale.model["rope_max_seq_len"]
        self.names = [name for name in cache.names if len(self._starts(min(cache.length(name), self.range)))]
        self.too_short = sorted(set(cache.names) - set(self.names))
        if not self.names:
            least, most = self.latents + scale.gap + scale.context_latents, max(map(cache.length, cache.names))
            raise ValueError(
                f"expected a scan of {least} latents or more in {cache.folder}, got {most} at most: encode longer ones"
            )
        wanted = {
            "latents": (scale.model["in_channels"], 1, *scale.latent_size),
            "text": (scale.text_tokens, scale.model["text_dim"]),
        }
        found = {"latents": cache.latents(self.names[0], [0]).shape, "text": cache.text("").shape}
        for part, shape in wanted.items():
            if tuple(found[part]) != shape:
                raise ValueError(
                    f"expected {part} of shape {shape} in {cache.folder}, got {tuple(found[part])}: "
                    f"encode the scans with the codec, size and text of scale {scale.name}"
                )

        self.kinds = None if curated is None else self._check(curated)

    def _check(self, curated: Sequence[Curated]) -> tuple[list[Curated], list[Curated]]:
        """The curated windows with room for a context, without and with a box; refused if not of this cache and scale.

        One with a box needs its encoded target; where the scale has no tail, it is taken from the scan like the others.
        """
        for window in curated:
            if window.scan not in self.cache.names or window.length != self.latents:
                raise ValueError(
                    f"expected windows of {self.latents} latents and of scans in {self.cache.folder}, got one of "
                    f"{window.length} of {window.scan}: curate the scans of this cache with --length {self.latents}"
                )
            if tail := self._tail(window):
                wanted = {"length": self.latents, "tail": tail, "box": list(window.box)}
                found = self.cache.target_facts(window.scan, window.first)
                if found != wanted:
                    raise ValueError(
                        f"expected a whole target with {wanted} of {window.scan} from latent {window.first} on in "
                        f"{self.cache.folder}, got {found or 'none'}: encode with --windows and --tail {tail}"
                    )
        for sentence in {window.instruction for window in curated}:
            self.cache.text(sentence)
        kept = [window for window in curated if self._pieces(window)]
        if not kept:
            raise ValueError(
                f"expected curated windows with {self.scale.context_latents} latents for a context beside them, got "
                f"none of {len(curated)}: curate with the scale's --gap and --context"
            )
        return [window for window in kept if window.box is None], [window for window in kept if window.box is not None]

    def _tail(self, window: Curated) -> int:
        """Latents in which the box fades in after a window."""
        return 0 if window.box is None else self.scale.tail_latents

    def _piece(self, window: Curated) -> int:
        """How long a piece of its scan is that has time indices, with those of the tail, which may go on behind it."""
        return min(self.cache.length(window.scan), self.range - self._tail(window))

    def _pieces(self, window: Curated) -> list[int]:
        """The first latents of pieces of a scan that hold a curated window, and enough beside it for a context."""
        piece = self._piece(window)
        starts = set(self._starts(piece).tolist())
        return [first for first in range(self.cache.length(window.scan) - piece + 1) if window.first - first in starts]

    def batch(self, step: int, numbers: Sequence[int]) -> Window:
        """The samples of those numbers in the batch of a step."""
        samples = [self._draw(step, number) for number in numbers]
        return Window(*(torch.cat([getattr(sample, field.name) for sample in samples]) for field in fields(Window)))

    def _starts(self, length: int) -> Tensor:
        """Where in a piece of a scan a target may start: enough latents are left for a context."""
        start = torch.arange(max(0, length - self.latents + 1))
        before = (start - self.scale.gap).clamp(min=0)
        after = (length - start - self.latents - self.scale.gap).clamp(min=0)
        return start[before + after >= self.scale.context_latents]

    def _draw(self, step: int, number: int) -> Window:
        generator = torch.Generator().manual_seed(step_seed(self.seed, step, number))

        def below(count: int) -> int:
            return int(torch.randint(count, (), generator=generator))

        def share() -> Tensor:
            return torch.rand(1, generator=generator)

        scale = self.scale
        window, first = self._place(step, below)
        name, start, tail, piece = window.scan, window.first - first, self._tail(window), self._piece(window)
        offset = below(self.range - tail - piece + 1)
        context = sample_context(piece, scale.context_latents, generator, start, self.latents, scale.gap)
        target = torch.arange(start, start + self.latents + tail)
        chance = share()
        lost, told = chance < scale.drop_all, chance >= scale.drop_all + scale.drop_instruction
        sigma = share()
        clean, seen = (part[None].float() for part in (self._clean(window), self.cache.latents(name, first + context)))
        noise = torch.randn(clean[:, :, 1:].shape, generator=generator)
        if lost:
            seen = torch.randn(seen.shape, generator=generator)
        path, known = self._path(window)
        if window.box is not None:
            known = known & (share() < scale.path_too)
        return Window(
            clean,
            (offset + target)[None],
            seen,
            (offset + context)[None],
            1000.0 * lost,
            path,
            told & known,
            self.cache.text(window.instruction if told else "")[None].float(),
            scale.shift * sigma / (1 + (scale.shift - 1) * sigma),
            noise,
        )

    def _place(self, step: int, below: Callable[[int], int]) -> tuple[Curated, int]:
        """A target, and the first latent of the piece of its scan that has time indices.

        ``below`` draws a number below the one it is given; whether the target has a box is drawn for the whole step.
        """
        if self.kinds is not None:
            plain, boxed = self.kinds
            chance = torch.Generator().manual_seed(step_seed(self.seed, step, -1))  # no sample has this number
            seeks = torch.rand((), generator=chance) < self.scale.grounding
            kind = boxed if boxed and (seeks or not plain) else plain
            window = kind[below(len(kind))]
            pieces = self._pieces(window)
            return window, pieces[below(len(pieces))]
        name = self.names[below(len(self.names))]
        length = self.cache.length(name)
        piece = min(length, self.range)
        starts, said, first = self._starts(piece), self.cache.instructions(name), below(length - piece + 1)
        start, sentence = int(starts[below(len(starts))]), said[below(len(said))]
        return Curated(name, first + start, self.latents, "navigation", sentence, None, None, {}), first

    def _clean(self, window: Curated) -> Tensor:
        """The latents of a target (C, T, h, w)."""
        name, first = window.scan, window.first
        if self._tail(window):
            return self.cache.target_latents(name, first)
        moving = self.cache.latents(name, range(first + 1, first + self.latents))
        return torch.cat([self.cache.start_latents(name, [first]), moving], dim=1)

    def _path(self, window: Curated) -> tuple[Tensor, bool]:
        """The path of a target (1, T, 4, 4, 4), still in the tail, and whether it is known; if not, still all along."""
        c2w, tail = self.cache.c2w(window.scan, range(window.first, window.first + self.latents)), self._tail(window)
        if c2w is None:
            return torch.eye(4).expand(1, self.latents + tail, 4, 4, 4), False
        frames = [c2w[0, -1:], c2w[1:].flatten(0, 1), c2w[-1, -1:].expand(FRAMES_PER_LATENT * tail, 4, 4)]
        return relative_to_start(torch.cat(frames)[None].float()), True


def velocity_loss(model: torch.nn.Module, window: Window) -> Tensor:
    """Mean squared error of the predicted velocity of the moving latents, noise - clean (PAPER.md §2)."""
    start, clean = window.target_latents[:, :, :1], window.target_latents[:, :, 1:]
    sigma = window.sigma[:, None, None, None, None]
    velocity = model(
        torch.cat([start, (1 - sigma) * clean + sigma * window.noise], dim=2),
        1000 * window.sigma,
        window.target_time_index,
        context_latents=window.context_latents,
        context_time_index=window.context_time_index,
        context_timestep=window.context_timestep,
        encoder_hidden_states=window.encoder_hidden_states,
        camera_path=window.camera_path,
        camera_mask=window.camera_mask,
    )
    return (velocity[:, :, 1:].float() - (window.noise - clean)).square().mean()
