"""Rooms rendered as the model trains: one scene holds a scan and several targets, all a function of seed and index.

A scan looks around a room; a target starts somewhere near the scan's end, after a gap, and turns away from there, so
that most of what it shows is seen by the scan and not by its own first frame.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from v4s_lib.data.augment import hide_parts, relight, tilt_scans
from v4s_lib.data.targets import draw_goals, finish
from v4s_lib.data.windows import grouped_frames, sample_context
from v4s_lib.worlds.cameras import Camera
from v4s_lib.worlds.park import make_parks
from v4s_lib.worlds.paths import FRAMES_PER_LATENT, latent_frames, scan_path
from v4s_lib.worlds.raycast import Render, render
from v4s_lib.worlds.scenes import Scenes, make_scenes, scene_seed


@dataclass(frozen=True)
class RoomTask:
    """What is asked in a room; the fields are the curriculum's levers."""

    camera: Camera
    scan_latents: tuple[int, int] = (24, 48)  # shortest and longest scan, latents
    pool_latents: int = 24  # latents of the scan that are rendered; the context is drawn from them
    context_latents: int = 16
    target_latents: int = 8  # the start frame's and the moving ones
    tail_latents: int = 0  # after them, in which the camera stands still at an object and a box fades in
    grounding: float = 0.0  # share of the targets that seek an object
    targets: int = 4  # a context
    gap: int = 4  # latents between the scan and the start frame
    reach: float = 0.8  # metres the camera may leave the middle of the room
    turn: tuple[float, float] = (60.0, 200.0)  # degrees a target turns
    spread: float = 180.0  # degrees by which the start frame may look away from where the scan was heading
    samples: int = 3  # rays a pixel
    contiguous: bool = False  # time indices are ranks in the sample, not places in the scan (claim A2)
    tilt: float = 0.0  # degrees by which a training scan looks up or down as a whole, at most; see data/augment.py
    lift: float = 0.0  # metres by which it is raised or lowered, at most
    hidden: float = 0.0  # share of a training scan's latents with something close before the lens
    only_last: bool = False  # render each scan latent's last frame alone, four times: sight and finder see no other
    without: tuple[str, ...] = ()  # labels of objects that no training room holds (claim D2)
    parks: float = 0.0  # share of the training scenes that are parks, in which paths are followed and nothing is sought
    lighting: float = 0.0  # standard deviation of the logarithm of a training scan's exposure, latent by latent


@dataclass
class RoomBatch:
    """S scenes with P context latents and M targets of F frames each; c2w in the room's axes."""

    scenes: Scenes
    scan_frames: Tensor  # (S, P, 4, H, W, 3) in 0..1, grouped by latent
    scan_c2w: Tensor  # (S, P, 4, 4, 4): truth, for measures only
    time_index: Tensor  # (S, P) of the scan's latents
    start_index: Tensor  # (S,) time index of the targets' first latent
    target_frames: Tensor  # (S, M, F, H, W, 3)
    target_c2w: Tensor  # (S, M, F, 4, 4)
    instructions: list[list[str]]  # of each room's targets
    scan_instance: Tensor  # (S, P, 4, H, W) what every pixel of the scan shows
    scan_depth: Tensor  # (S, P, H, W) metres, in the last frame of each of the scan's latents
    target_depth: Tensor  # (S, M, T, H, W) metres, in the last frame of each of the targets' latents
    sought: Tensor  # (S, M) instance id of the object that a target's instruction names, or -1

    @property
    def start_depth(self) -> Tensor:
        """(S, M, H, W) metres, in the targets' first frames."""
        return self.target_depth[:, :, 0]


def make_rooms(
    seeds: list[int], task: RoomTask, targets: int, device: torch.device | str = "cpu", compiled: bool = False
) -> RoomBatch:
    """Build and render one room a seed; the same seed and task give the same pixels on the same device.

    Where ``task.parks`` asks for parks, all of them are parks or none is.
    """
    generator = torch.Generator().manual_seed(seeds[0])
    if task.parks and torch.rand((), generator=generator) < task.parks:
        scenes, task = make_parks(seeds), replace(task, grounding=0.0)
    else:
        scenes = make_scenes(seeds, task.without)
    count = len(seeds)
    low, high = task.scan_latents
    latents = int(torch.randint(low, high + 1, (), generator=generator))
    path = scan_path(scenes, generator, latent_frames(latents + task.gap + 1), task.reach)
    kept = sample_context(latents, task.pool_latents, generator)
    scan_c2w = path[:, grouped_frames(kept)]
    goals = draw_goals(scenes, generator, task, targets, path[:, -1])
    if task.tilt or task.lift:
        scan_c2w = tilt_scans(scan_c2w.flatten(1, 2), task.tilt, task.lift, generator).unflatten(1, (-1, 4))
    scenes = scenes.to(device)
    rendered = scan_c2w[:, :, -1:] if task.only_last else scan_c2w
    scan = _grouped(render_many(scenes, rendered.flatten(1, 2), task, device, compiled), task, generator)
    target = render_many(scenes, goals.c2w.flatten(1, 2), task, device, compiled)
    target = Render(*(part.unflatten(1, (targets, -1)) for part in (target.rgb, target.depth, target.instance)))
    tail = FRAMES_PER_LATENT * task.tail_latents
    instructions, sought = finish(goals, target.rgb, target.instance, scan.instance.flatten(1, 2), tail)
    return RoomBatch(
        scenes,
        scan.rgb,
        scan_c2w.to(device),
        kept.expand(count, -1).to(device),
        torch.full((count,), latents + task.gap, device=device),
        target.rgb,
        goals.c2w.to(device),
        instructions,
        scan.instance,
        scan.depth,
        target.depth[:, :, ::FRAMES_PER_LATENT],
        sought.to(device),
    )


def _grouped(scan: Render, task: RoomTask, generator: torch.Generator) -> Render:
    """A scan's frames by latent (S, P, 4, ...), its depth (S, P, H, W) in the last of each; augmented as asked for."""
    each = 1 if task.only_last else FRAMES_PER_LATENT
    frames, depth, instance = (
        part.unflatten(1, (-1, each)).repeat_interleave(FRAMES_PER_LATENT // each, dim=2)
        for part in (scan.rgb, scan.depth, scan.instance)
    )
    depth = depth[:, :, -1]
    if task.hidden:
        frames, instance, depth = hide_parts(frames, instance, depth, task.hidden, generator)
    if task.lighting:
        frames = relight(frames, task.lighting, generator)
    return Render(frames, depth, instance)


def render_many(
    scenes: Scenes, c2w: Tensor, task: RoomTask, device: torch.device | str = "cpu", compiled: bool = False
) -> Render:
    """Render (S, F, 4, 4) poses of S scenes; every field of the result has the leading axes (S, F)."""
    count, frames = c2w.shape[:2]
    index = torch.arange(count, device=device).repeat_interleave(frames)
    chunk = 8 if torch.device(device).type == "cpu" else 512
    result = render(scenes, index, c2w.flatten(0, 1).to(device), task.camera, task.samples, chunk, compiled)
    return Render(*(part.unflatten(0, (count, frames)) for part in (result.rgb, result.depth, result.instance)))


def render_one(scenes: Scenes, c2w: Tensor, task: RoomTask) -> Render:
    """Render (1, F, 4, 4) poses of one room; every field of the result has the leading axis (F,)."""
    render = render_many(scenes, c2w, task)
    return Render(render.rgb[0], render.depth[0], render.instance[0])


def training_seeds(seed: int, start: int, count: int) -> list[int]:
    """Scene seeds ``start`` .. of a training run; runs with other seeds meet other rooms."""
    return [scene_seed("train", seed * 10_000_000 + start + i) for i in range(count)]
