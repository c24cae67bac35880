"""The windows of one scan: candidates, why they are dropped, and what those that stay are told (PAPER.md §3, §5).

A window that ends on an annotated object is for grounding: the object stands in the middle of the last frame, the
context shows it, and the start frame shows nothing of that name. Every other one is for navigation.

Surfaces are known where a room is generated, or a sensor's depth is beside the video (of the readers, ``arkitscenes``
alone brings one). Else they are taken to be at nominal depths, and nothing to be hidden. A scan of unknown unit has no
metres: it is brought to a nominal scale, at which its median step from latent to latent counts as ``NOMINAL_STEP``, and
judged by the same bounds.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from v4s_lib.data import curation_filters as filters
from v4s_lib.data.boxes import LEAST_SHARE, is_centred, mask_box
from v4s_lib.data.depth import fit_depth
from v4s_lib.data.episodes import Episode, EpisodeObject, load_episode
from v4s_lib.data.fitting import fit_camera, fit_frames
from v4s_lib.data.instructions import grounding_instruction, navigation_instruction, with_article
from v4s_lib.data.sources import whole_latents
from v4s_lib.data.windows import grouped_frames, outside_gap
from v4s_lib.worlds.cameras import Camera, rotation_angle, translation_distance
from v4s_lib.worlds.paths import FRAMES_PER_LATENT, latent_frames
from v4s_lib.worlds.raycast import render
from v4s_lib.worlds.scenes import make_scenes

# Rows of the pictures in which surfaces are looked for, and without depth the points that stand for them: the first as
# many as visibility.py has measured, the second fewer, for points at nominal depths have no edges to miss.
SURFACE_ROWS, POINT_ROWS = 32, 12
MOST_SHARE = 0.5  # of the last frame that an object may fill; our choice: a floor or a wall is not focused on
# In the order in which they apply; the first is of the whole scan, and curation.py gives it.
REASONS = ("unreadable", "unposed", "gap", "still", "jumping", "unsharp", "repeated", "unseen")
KINDS = ("navigation", "grounding")


@dataclass(frozen=True)
class Rules:
    """What a window is. The defaults are those of the paper's setting, where it is known."""

    length: int = 41  # latents of a target, its start frame's included; PAPER.md §3, measured
    gap: int = 50  # latents on either side that hold no context; PAPER.md §3, measured
    context: int = 84  # latents that must remain outside; PAPER.md §3, measured
    step: int = 8  # latents from one candidate to the next; our choice: a fifth of a window
    stride: int = 1  # every n-th frame of the video, as the latents are made
    height: int = 256  # of the frames, pixels, as the latents are made; PAPER.md §4
    width: int = 416

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    def candidates(self, frames: int) -> range:
        """The first latents of the windows that a scan of so many frames might hold."""
        return range(0, whole_latents(frames, self.stride) - self.length + 1, self.step)


@dataclass(frozen=True)
class Window:
    """One training target, as a line of windows.jsonl."""

    scan: str
    first: int  # latent of the scan; its last frame is the start frame
    length: int  # latents
    kind: str  # one of KINDS
    instruction: str
    object: int | None  # instance id of what it ends on
    box: tuple[int, int, int, int] | None  # first and last row and column of that in the last frame, pixels
    scores: dict[str, float]  # steps as "metres", or as "steps" of the scan's median where its unit is unknown

    @property
    def frames(self) -> slice:
        """The frames of the scan that it holds, the start frame first; 4k+1 of them."""
        return slice(FRAMES_PER_LATENT * self.first, latent_frames(self.first + self.length))


@dataclass(frozen=True, eq=False)
class Measured:
    """What the rules ask of a scan of T latents, F frames, K objects."""

    camera: Camera  # of the frames as a model sees them
    c2w: Tensor  # (T, 4, 4), metres, or at the nominal scale
    metric: bool
    place: str
    scene_seed: int | None
    sensed: Tensor | None  # (T, h, w), metres, what a sensor has measured
    depth: Tensor | None  # (T, H, W) coarse, of the scene or else of the sensor; None where neither is there
    sharpness: Tensor  # (F,) over the scan's median
    pictures: Tensor  # (F, N) small
    objects: tuple[EpisodeObject, ...]
    shares: Tensor  # (K, T) of the picture that each object takes


def curate_scan(name: str, folder: Path, rules: Rules) -> tuple[list[Window], dict[str, int]]:
    """The windows of a scan, and how many candidates there were, by reason to drop and by kind."""
    episode = load_episode(folder)
    starts = rules.candidates(len(episode.frames))
    counts = {"candidates": len(starts)} | dict.fromkeys(REASONS + KINDS, 0)
    if not starts or episode.c2w is None:
        return [], counts | {"unposed": len(starts)}
    scan, windows = measure(episode, rules), []
    for first in starts:
        reason, scores = judge(scan, first, rules)
        if reason is None:
            windows.append(describe(scan, name, first, rules, scores))
        counts[reason or windows[-1].kind] += 1
    return windows, counts


def measure(episode: Episode, rules: Rules) -> Measured:
    """Look at a scan with cameras, once."""
    episode = at_nominal_scale(as_seen(episode, rules))
    latents, camera, frames = whole_latents(len(episode.frames), 1), episode.camera, episode.frames
    c2w, coarse = episode.c2w[::FRAMES_PER_LATENT], with_rows(camera, SURFACE_ROWS)
    depth = surfaces(episode.scene_seed, episode.depth, c2w, coarse)
    masks = (filters.object_mask(item, c2w, coarse, depth) for item in episode.objects)
    shares = [mask.float().mean(dim=(1, 2)) for mask in masks]
    return Measured(
        camera,
        c2w,
        episode.metric,
        episode.place,
        episode.scene_seed,
        episode.depth,
        depth,
        filters.sharpness(frames),
        filters.small_pictures(frames),
        episode.objects,
        torch.stack(shares) if shares else torch.zeros(0, latents),
    )


def as_seen(episode: Episode, rules: Rules) -> Episode:
    """A posed scan as a model sees it: every ``stride``-th frame, as many as fill latents, in the rules' size."""
    latents = whole_latents(len(episode.frames), rules.stride)
    frames, c2w = (part[:: rules.stride][: latent_frames(latents)] for part in (episode.frames, episode.c2w))
    frames, camera = fit_frames(frames, *rules.size), fit_camera(episode.camera, *rules.size)
    depth = None if episode.depth is None else episode.depth[:: rules.stride][:latents]
    return replace(episode, frames=frames, c2w=c2w, camera=camera, depth=depth)


def at_nominal_scale(episode: Episode) -> Episode:
    """A scan as a model sees it, with poses and boxes in nominal metres where their unit is unknown."""
    if episode.metric:
        return episode
    c2w, scale = nominal_poses(episode.c2w)
    objects = tuple(
        replace(item, box_min=tuple(scale * v for v in item.box_min), box_max=tuple(scale * v for v in item.box_max))
        for item in episode.objects
    )
    return replace(episode, c2w=c2w, objects=objects)


def nominal_poses(c2w: Tensor) -> tuple[Tensor, float]:
    """Poses (F, 4, 4) of unknown unit, of the frames that latents are made of, in nominal metres; and one unit's."""
    steps = c2w[::FRAMES_PER_LATENT]
    scale = filters.nominal_scale(translation_distance(steps[1:], steps[:-1]))
    scaled = c2w.clone()
    scaled[:, :3, 3] *= scale
    return scaled, scale


def judge(scan: Measured, first: int, rules: Rules) -> tuple[str | None, dict[str, float]]:
    """The first reason to drop the window from ``first`` on; ``None``, and its scores, if there is none."""
    end = first + rules.length
    outside = outside_gap(len(scan.c2w), first, rules.length, rules.gap)
    if outside.sum() < rules.context:
        return "gap", {}
    c2w, context_c2w = scan.c2w[first:end], scan.c2w[outside]
    metres, degrees = translation_distance(c2w[1:], c2w[:-1]), rotation_angle(c2w[1:], c2w[:-1])
    if filters.is_still(metres, degrees):
        return "still", {}
    if filters.is_jumping(metres, degrees):
        return "jumping", {}
    shown = slice(FRAMES_PER_LATENT * first, latent_frames(end))
    sharp = filters.window_sharpness(scan.sharpness[shown])
    if sharp < filters.LEAST_SHARP:
        return "unsharp", {}
    others = grouped_frames(outside.nonzero()[:, 0]).flatten()
    away = filters.least_difference(scan.pictures[shown], scan.pictures[others])
    if away < filters.LEAST_AWAY:
        return "repeated", {}
    depths = (None, None) if scan.depth is None else (scan.depth[first:end], scan.depth[outside])
    camera = with_rows(scan.camera, POINT_ROWS if scan.depth is None else SURFACE_ROWS)
    seen = filters.covisible(c2w, context_c2w, camera, *depths)
    if seen < filters.LEAST_COVISIBLE:
        return "unseen", {}
    step = {"metres": metres.mean()} if scan.metric else {"steps": metres.mean() / filters.NOMINAL_STEP}
    scores = step | {"degrees": degrees.mean(), "sharp": sharp, "away": away, "covisible": seen}
    return None, {name: round(float(score), 4) for name, score in scores.items()}


def describe(scan: Measured, name: str, first: int, rules: Rules, scores: dict[str, float]) -> Window:
    """The record of a window that stays: what it ends on, if it does, and its instruction."""
    goal = find_goal(scan, first, rules)
    if goal is None:
        instruction = navigation_instruction(scan.place)
        return Window(name, first, rules.length, "navigation", instruction, None, None, scores)
    item, box = goal
    instruction = grounding_instruction(with_article(item.label), scan.place)
    return Window(name, first, rules.length, "grounding", instruction, item.instance, box, scores)


def find_goal(scan: Measured, first: int, rules: Rules) -> tuple[EpisodeObject, tuple[int, int, int, int]] | None:
    """The object that the window from ``first`` on ends on, the largest if several, and its box in the last frame."""
    last, outside = first + rules.length - 1, outside_gap(len(scan.c2w), first, rules.length, rules.gap)
    for index in scan.shares[:, last].argsort(descending=True, stable=True).tolist():
        item, share = scan.objects[index], scan.shares[index]
        alike = [other.label == item.label for other in scan.objects]
        in_start = scan.shares[torch.tensor(alike), first].any()
        if in_start or not LEAST_SHARE <= share[last] <= MOST_SHARE or share[outside].max() < LEAST_SHARE:
            continue
        end = slice(last, last + 1)
        sensed = None if scan.sensed is None else scan.sensed[end]
        depth = surfaces(scan.scene_seed, sensed, scan.c2w[end], scan.camera)
        mask = filters.object_mask(item, scan.c2w[end], scan.camera, depth)[0]
        if is_centred(mask):
            return item, tuple(mask_box(mask).tolist())
    return None


def surfaces(scene_seed: int | None, sensed: Tensor | None, c2w: Tensor, camera: Camera) -> Tensor | None:
    """Depth (F, H, W) at poses (F, 4, 4), metres: of the generated room, or as sensed (F, h, w); None without both."""
    if scene_seed is None:
        return None if sensed is None else fit_depth(sensed, camera.height, camera.width)
    return render(make_scenes([scene_seed]), torch.zeros(len(c2w), dtype=torch.long), c2w, camera, samples=1).depth


def with_rows(camera: Camera, rows: int) -> Camera:
    """The same view in a picture of ``rows`` rows."""
    return replace(camera, height=rows, width=round(camera.width * rows / camera.height))
