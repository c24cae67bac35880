"""Where a target starts and what it is to find: what sight and finder make of it, half-way through. And plans."""

import torch
from torch import Tensor

from v4s_lib.data.boxes import mask_box
from v4s_lib.model.blocks import repeat_cached
from v4s_lib.model.cloud import NAMED, make_cloud, view
from v4s_lib.model.codec import older_frames
from v4s_lib.model.finder import draw_thing, named_place
from v4s_lib.model.fusion import agree
from v4s_lib.model.localizer import FRAMES, pose_matrix, smooth, turn_to
from v4s_lib.model.outputs import ContextCache, Findings
from v4s_lib.model.places import compare, pair_start, place_context, place_start
from v4s_lib.model.pose import c2w_12, ray_map, ray_rotary
from v4s_lib.model.sight import Seen
from v4s_lib.worlds.cameras import Camera
from v4s_lib.worlds.paths import APPROACH

SURE = 1e-3  # how sure a finder is at least that there is what words name, if they name something; our choice
NAMED_ENOUGH = 0.1  # of the most named pixel, for something to be found at all; our choice


def named_box(seen: Tensor) -> Tensor | None:
    """Around what is named in a view (H, W, CHANNELS): first and last row and column (4,).

    None where no pixel shows it by a tenth. Pixels count that show it more than half as much as the one that does
    most (of 0.1, 0.2, .. 0.6 the half met the size of the true box best in 24 validation rooms).
    """
    named = seen[..., NAMED].cpu()
    return mask_box(named > named.max() / 2) if named.max() > NAMED_ENOUGH else None


class WayMixin:
    """The part of the transformer that works out where frames stand, plans paths, and says where tokens look."""

    def _place_context(
        self,
        latents: Tensor,
        seen: Seen | None,
        time_index: Tensor,
        blind: Tensor,
        cache: ContextCache,
        findings: Findings,
    ) -> Tensor:
        """Poses (B, T, 4, 4, 4) of a context's frames, by sight or by the head; what sight saw goes into the cache."""
        told = self.localizer.told.context
        if self.sight is None:
            return pose_matrix(findings.context_numbers.detach()) if told is None else told
        placed, cache.frames = place_context(self.sight, latents, seen, time_index, blind, told, quick=self.training)
        if self.painter is not None:
            cache.cloud = make_cloud(self.sight, latents, cache.frames.seen, placed[:, :, -1], blind)
            older, poses = older_frames(latents, self.sight.patch), placed[:, :, :-1].flatten(1, 2)
            with torch.no_grad():
                seen = agree(self.sight, self.sight(older), poses, (cache.frames.seen, cache.frames.c2w))
            cache.older = make_cloud(self.sight, older, seen, poses, blind)
        return placed

    def _look_alone(self, context: Tensor, target: Tensor | None, text: Tensor | None) -> Findings:
        """What sight and finder make of context latents (B, C, P, h, w) and start frames (B*M, C, T, h, w).

        Without start frames the finder alone looks.
        """
        findings = Findings()
        if self.finder is not None and text is not None:
            keys = self.finder.keys(context)
            findings.found = self.finder(text, keys.repeat_interleave(len(text) // len(keys), dim=0))
        if self.sight is not None and target is not None:
            findings.compared = compare(self.sight, context, target)
        return findings

    @torch.no_grad()
    def shows(self, start: Tensor, condition: dict) -> float:
        """Share of a start frame that a context shows, too: the largest of M (M, C, 1, h, w); 1 without sight.

        ``condition`` are arguments of ``forward``, a ``context_cache`` among them.
        """
        cache = condition.get("context_cache")
        if cache is None or cache.frames is None:
            return 1.0
        _, shown = pair_start(self.sight, self.sight(start), cache.frames.repeat(len(start)))
        return shown.mean(dim=1).max().item()

    def _find_way(
        self, states: Tensor, latents: Tensor, text: Tensor | None, cache: ContextCache | None, findings: Findings
    ) -> Tensor:
        """Fill ``findings`` in; returns the tokens (B*M, N, D), told where the thing is that the text names.

        Args:
            states: (B*M, N, D) tokens of the targets.
            latents: (B*M, C, T, h, w), the start's first.
            text: (B*M, L, text_dim) or None.
            cache: of the context, or None.
        """
        count = latents.shape[2]
        first = states.shape[1] // count  # tokens of the start latent
        if cache is not None and cache.cells is not None and text is not None:
            keys, looks = repeat_cached(cache.cells, len(states))
            if findings.found is None:  # a plan may have drawn it, see draw_thing
                findings.found = self.finder(text, keys)
            states = states + self.finder.change(findings.found, looks).type_as(states)
        if self.sight is not None and findings.start_seen is None:
            with torch.no_grad():
                findings.start_seen = self.sight(latents[:, :, :1])
        if cache is not None and cache.frames is not None:
            if findings.start is None:
                self._place_start(latents[:, :, :1], cache, findings)
            moving = states[:, first:]
            if self.painter is not None:
                moving = moving + self.painter.tell_shared(findings.shared[:, None])[:, None].type_as(states)
            if findings.found is not None:
                points = cache.frames.points(self.sight, len(states))
                moving = moving + self.finder.place(findings.found, points, findings.start[:, 0, -1]).type_as(states)
            states = torch.cat([states[:, :first], moving], dim=1)
        findings.target_poses = self.localizer.way(self._from_start(states, count, findings))
        return states

    def _from_start(self, states: Tensor, count: int, findings: Findings) -> Tensor:
        """The way (B*M, T, 4, 4, 4) where none is given: with sight the camera stays, and else goes as the head plans.

        Where the start frame stands sight says, or else the head; without a context it stands at the identity.
        """
        if self.sight is not None:
            start = findings.start
            if start is None:
                start = torch.eye(4, device=states.device).expand(len(states), 1, FRAMES, 4, 4)
            return torch.cat([start, start[:, :, -1:].expand(-1, count - 1, FRAMES, -1, -1)], dim=1)
        findings.target_numbers = self.localizer(states, count)
        planned = pose_matrix(findings.target_numbers.detach())
        with torch.autocast(planned.device.type, enabled=False):
            return smooth(torch.cat([planned[:, :1], planned[:, :1, -1:] @ planned[:, 1:]], dim=1))

    @torch.no_grad()
    def plan(self, findings: Findings, cache: ContextCache | None, tail: int = 0) -> Tensor:
        """The way (B*M, T, 4, 4, 4) to what was found, in whose last ``tail`` latents the camera stands still.

        A model with sight turns to it and goes nearer (``turn_to``), and stays where the finder is certain that the
        context shows nothing of the kind; one without sight goes as its head plans.
        """
        way, found = findings.target_poses, findings.found
        if found is None or cache is None or cache.frames is None:
            return way
        named = 1 - found.softmax(dim=1)[:, 0] > SURE
        named &= ~cache.frames.blind.repeat_interleave(len(named) // len(cache.frames.blind))
        down = cache.frames.down.repeat_interleave(len(named) // len(cache.frames.down), dim=0)
        place = named_place(found, cache.frames.points(self.sight, len(named)))
        moving = max(1, way.shape[1] - 1 - tail)
        turned = turn_to(way[:, 0, -1], place, down, FRAMES * moving, APPROACH).unflatten(1, (moving, FRAMES))
        still = turned[:, -1:, -1:].expand(-1, way.shape[1] - 1 - moving, FRAMES, -1, -1)
        turned = torch.cat([way[:, :1], turned, still], dim=1)
        return torch.where(named[:, None, None, None, None], turned, way)

    @torch.no_grad()
    def draw_found(
        self, findings: Findings, cache: ContextCache | None, temperature: float, generator: torch.Generator
    ) -> None:
        """Draw one thing for each target, as likely as the finder holds it, see ``draw_thing``, into ``findings``."""
        if findings.found is not None and cache is not None and cache.frames is not None:
            points = cache.frames.points(self.sight, len(findings.found))
            findings.found = draw_thing(findings.found, points, temperature, generator)

    @torch.no_grad()
    def _place_start(self, latents: Tensor, cache: ContextCache, findings: Findings) -> None:
        """Where start frames stand, from their latents (B*M, C, 1, h, w), into ``findings``."""
        told = self.localizer.told.target
        told = None if told is None else told[:, :1]
        one_context = told is None and not self.training and len(cache.frames.c2w) == 1
        # the samples of one request begin with one frame, which is placed once
        asked = slice(1) if one_context and bool((latents == latents[:1]).all()) else slice(None)
        seen = findings.start_seen.each(lambda value: value[asked])
        start, shared = place_start(self.sight, latents[asked], seen, cache.frames, told, quick=self.training)
        findings.start, findings.shared = start.expand(len(latents), -1, -1, -1, -1), shared.expand(len(latents))

    @torch.no_grad()
    def named_view(self, findings: Findings, cache: ContextCache | None, c2w: Tensor) -> Tensor | None:
        """What the context shows, and how far it is what is named, from cameras (B*M, 4, 4): (B*M, H, W, CHANNELS).

        None where nothing is named, or nothing known of the room.
        """
        if findings.found is None or cache is None or cache.cloud is None:
            return None
        return view(cache.cloud.name(findings.found, self.sight), c2w[:, None], self._camera)[:, 0]

    @torch.no_grad()
    def _views(
        self, latents: Tensor, cache: ContextCache | None, findings: Findings, start: Tensor, c2w: Tensor
    ) -> Tensor:
        """What a painter is shown from cameras (B*M, F, 4, 4): the points of the context and those of the start frames.

        ``latents`` (B*M, C, T, h, w) are the targets', whose start frames stand at ``start`` (B*M, 4, 4).
        """
        begin = make_cloud(self.sight, latents[:, :, :1], findings.start_seen, start[:, None])
        if cache is None:
            return view(begin, c2w, self._camera)
        seen = view(cache.older.join(cache.cloud.join(begin)), c2w, self._camera)
        if findings.found is not None:
            named = cache.cloud.name(findings.found, self.sight).join(begin)
            seen[..., NAMED] = view(named, c2w, self._camera)[..., NAMED]
        return seen

    @property
    def _camera(self) -> Camera:
        """Of the frames that sight sees."""
        return Camera(*(self.sight.cell * cells for cells in self.sight.size), self.config.horizontal_fov)

    def _pose(self, camera_path: Tensor, grid: tuple[int, int, int]) -> Tensor:
        if self.config.pose_encoding == "ray_map":
            return self._rays(camera_path, grid)
        return c2w_12(camera_path, grid[1], grid[2]).flatten(1, 2)

    def _rays(self, path: Tensor, grid: tuple[int, int, int]) -> Tensor:
        return ray_map(path, *grid[1:], self.config.horizontal_fov).flatten(1, 2)

    def _by_ray(self, block: int) -> bool:
        """Whether a block's rotary embedding is that of rays in the room."""
        return self.config.ray_rotary and block >= self.config.localize_after

    def _ray_rotary(self, path: Tensor, time_index: Tensor, grid: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
        return ray_rotary(path, time_index, *grid[1:], self.config.horizontal_fov, self.config.attention_head_dim)
