"""Draw a contact sheet of generated rooms: ``python -m v4s_lib.worlds --help``.

One row for every room, one column for each of six moments of a walk through it.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from v4s_lib.command import command
from v4s_lib.worlds.cameras import Camera
from v4s_lib.worlds.paths import scan_path
from v4s_lib.worlds.raycast import render
from v4s_lib.worlds.scenes import make_scenes, scene_seed

VIEWS = 6
CAMERA = Camera(height=96, width=144)


def room_views(seed: int) -> Tensor:
    """One row of the sheet, uint8 (H, VIEWS * W, 3): a room of the ``demo`` split, seen from a scan of 96 frames."""
    scenes = make_scenes([seed])
    path = scan_path(scenes, torch.Generator().manual_seed(seed), frames=96)[0]
    c2w = path[:: len(path) // VIEWS]
    rgb = render(scenes, torch.zeros(VIEWS, dtype=torch.long), c2w, CAMERA).rgb
    return (rgb.permute(1, 0, 2, 3).flatten(1, 2) * 255).round().clamp(0, 255).to(torch.uint8)


@command("nothing was written; run the same command again")
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m v4s_lib.worlds", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="first room of the demo split (default: 0)")
    parser.add_argument("--rooms", type=int, default=6, help="how many rooms (default: 6)")
    parser.add_argument(
        "--out", type=Path, default=Path("report/rooms.png"), help="PNG file (default: report/rooms.png)"
    )
    options = parser.parse_args(arguments)
    if options.rooms < 1 or options.seed < 0:
        parser.error(f"expected rooms >= 1 and seed >= 0, got {options.rooms} and {options.seed}: choose others")

    seeds = [scene_seed("demo", options.seed + room) for room in range(options.rooms)]
    sheet = torch.cat([room_views(seed) for seed in tqdm(seeds, unit="room")])
    options.out.parent.mkdir(parents=True, exist_ok=True)
    part = options.out.with_name(f".{options.out.name}.part")
    Image.fromarray(sheet.numpy()).save(part, format="PNG")
    os.replace(part, options.out)
    for seed in seeds:
        print(f"room of seed {seed}: " + ", ".join(item.label for item in make_scenes([seed]).objects[0]))
    print(f"wrote {options.out}")


if __name__ == "__main__":
    sys.exit(main())
