"""``python -m v4s_lib.training.box_drawer``: teach what draws the box tail's box, and ship it with a preset's weights.

It is taught on rooms of the training split: their last moving frames, true and spoiled a little, and what the shipped
transformer finds and places in their context. The transformer stays as it is. Samples are kept in ``--store``.
"""

import argparse
import json
import sys
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import avg_pool2d, binary_cross_entropy_with_logits
from tqdm.auto import tqdm

from v4s_lib.command import command
from v4s_lib.data.instructions import NAVIGATION
from v4s_lib.data.manifests import MANIFESTS, save_shipped
from v4s_lib.data.provenance import current_commit
from v4s_lib.model.box_drawer import BoxDrawer
from v4s_lib.model.codec import to_pixels
from v4s_lib.model.localizer import place_path
from v4s_lib.model.pipeline import Video4SpatialPipeline
from v4s_lib.model.text import tokenize
from v4s_lib.model.weights import weights_digest
from v4s_lib.training.data import VOCABULARY, RoomStream
from v4s_lib.training.fit import fit
from v4s_lib.training.presets import Preset, get_preset
from v4s_lib.training.weights import load_pipeline
from v4s_lib.worlds.paths import FRAMES_PER_LATENT

SEED = 77  # of the rooms: none of the shipped trainings'
GROUPS, ROOMS, TARGETS = 120, 4, 6  # groups of rooms, rooms a group, things sought in each
STEPS, BATCH = 1500, 32
RATE = 3e-3  # of AdamW, at the most
NOISE = 0.025  # standard deviation of what is added to a frame in 0..1, at most
CHANGED = 1e-3  # of a colour's range: where the tail's last frame differs so much from the one before it is the line


@dataclass
class Ends:
    """N last moving frames that have something named in their middle."""

    frames: Tensor  # (N, H, W, 3) in 0..1
    named: Tensor  # (N, H, W, CHANNELS) view of what the transformer has placed and found
    line: Tensor  # (N, H, W) whether a pixel is of the true box's line


def see_ends(pipeline: Video4SpatialPipeline, preset: Preset, group: int, seed: int = SEED) -> Ends:
    """The ends of the grounding targets in group ``group`` of rooms."""
    task = replace(preset.task, grounding=1.0, targets=TARGETS)
    rooms = replace(preset, task=task, contexts=ROOMS, reuse=1, pool_targets=TARGETS, ramp_steps=1)
    sample, model = RoomStream(rooms, seed, "cpu").sample(group + 1), pipeline.transformer
    with torch.no_grad():
        clean = torch.zeros(len(sample.context_latents))
        cache = model.encode_context(sample.context_latents, sample.context_time_index, clean)
        highest = torch.full((len(sample.target_latents),), 1000.0)  # nothing but the start latent is looked at
        findings = model(
            sample.target_latents,
            highest,
            sample.target_time_index,
            context_cache=cache,
            words=sample.words,
            only_findings=True,
        )
        path = place_path(sample.camera_path, None, findings.target_poses, has_context=True)
        named = model.named_view(findings, cache, path[:, -1, -1])
    frames = to_pixels(sample.target_latents, preset.patch_size).flatten(1, 2) / 2 + 0.5
    before, last = frames[:, -FRAMES_PER_LATENT * task.tail_latents - 1], frames[:, -1]
    found = (sample.words != tokenize([NAVIGATION], VOCABULARY)).any(dim=1)
    line = (last - before).abs().amax(dim=-1) > CHANGED
    return Ends(before[found], named[found], line[found])


def stored_ends(pipeline: Video4SpatialPipeline, preset: Preset, groups: int, store: Path, progress: bool) -> Ends:
    """``see_ends`` of many groups; what ``store`` holds of them is not computed again."""
    folder = store / f"{preset.name}-{weights_digest(pipeline.transformer)[:12]}-{current_commit()}"
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for group in tqdm(range(groups), disable=not progress, desc="rooms"):
        file = folder / f"{group:04d}.safetensors"
        if not file.is_file():
            ends = vars(see_ends(pipeline, preset, group))
            beside = file.with_suffix(".writing")
            save_file({name: value.half().contiguous() for name, value in ends.items()}, beside)
            beside.replace(file)
        parts.append(load_file(file))
    return Ends(*(torch.cat([part[field.name] for part in parts]) for field in fields(Ends)))


def spoiled(frames: Tensor, generator: torch.Generator) -> Tensor:
    """Frames (N, H, W, 3) as a model might draw them: each blurred and noisy by chance."""
    share, strength = torch.rand((2, len(frames), 1, 1, 1), generator=generator)
    blurred = avg_pool2d(frames.permute(0, 3, 1, 2), 3, 1, 1, count_include_pad=False).permute(0, 2, 3, 1)
    noise = NOISE * strength * torch.randn(frames.shape, generator=generator)
    return frames + share * (blurred - frames) + noise


def train_box_drawer(ends: Ends, steps: int, seed: int = 0, progress: bool = True) -> tuple[BoxDrawer, float]:
    """A drawer taught on ``ends``, and the mean loss of its last steps; the same on the same machine."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        drawer = BoxDrawer()

    def loss() -> Tensor:
        drawn = torch.randint(len(ends.frames), (BATCH,), generator=generator)
        frames, named, line = (getattr(ends, field.name)[drawn].float() for field in fields(Ends))
        if torch.rand((), generator=generator) < 0.5:
            frames, named, line = frames.flip(2), named.flip(2), line.flip(2)  # a mirrored room is a room
        return binary_cross_entropy_with_logits(drawer(spoiled(frames, generator), named), line)

    last = fit(drawer, loss, steps, RATE, progress)
    return drawer.eval(), last


@command("the samples are kept; run the same command to go on")
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m v4s_lib.training.box_drawer", description=__doc__)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--groups", type=int, default=GROUPS, help=f"of {ROOMS} rooms (default: {GROUPS})")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"default: {STEPS}")
    parser.add_argument("--store", type=Path, default=Path("runs/box_drawer"), help="samples, to go on from")
    parser.add_argument("--out", type=Path, help="default: with the preset's weights, where it ships")
    args = parser.parse_args(arguments)
    if min(args.groups, args.steps) < 1:
        raise ValueError(f"expected 1 group and 1 step or more, got {args.groups} and {args.steps}: ask for more")
    begin, preset = time.monotonic(), get_preset(args.preset)
    pipeline = load_pipeline(preset)
    ends = stored_ends(pipeline, preset, args.groups, args.store, progress=True)
    drawer, loss = train_box_drawer(ends, args.steps)
    out = args.out or MANIFESTS / "weights" / preset.name / "box_drawer"
    drawer.to(torch.float16).save_pretrained(out, safe_serialization=True)
    facts = {
        "preset": preset.name,
        "transformer_sha256": weights_digest(pipeline.transformer),
        "commit": current_commit(),
        "groups": args.groups,
        "ends": len(ends.frames),
        "steps": args.steps,
        "loss": round(loss, 4),
        "minutes": round((time.monotonic() - begin) / 60, 1),
    }
    (out / "run.json").write_text(json.dumps(facts, indent=1) + "\n")
    if args.out is None:
        title = f"What draws the box tail's box, for the {preset.name} preset's shipped weights"
        told = f"python -m v4s_lib.training.box_drawer --preset {preset.name}"
        save_shipped(f"weights_{preset.name}_box_drawer", title, told, sorted(out.iterdir()))
    print(f"{len(ends.frames)} ends, {args.steps} steps, loss {loss:.4f}: {out}")


if __name__ == "__main__":
    sys.exit(main())
