"""Turn a real scan in its publisher's layout into an episode: ``python -m v4s_lib.data.readers --help``.

The episode appears when it is complete, or not at all.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from v4s_lib.command import command
from v4s_lib.data.readers import LAYOUTS, read_scan
from v4s_lib.data.readers.scan import write_scan


@command("nothing was written; run the same command again")
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m v4s_lib.data.readers", description=__doc__.splitlines()[0])
    parser.add_argument("layout", help=f"how the scan is laid out: {', '.join(LAYOUTS)}")
    parser.add_argument("folder", type=Path, help="folder of one scan, as its publisher unpacks it")
    parser.add_argument("--out", type=Path, help="folder of the episode (default: data/LAYOUT/ and the folder's name)")
    parser.add_argument("--height", type=int, default=256, help="of the frames, pixels (default: 256, the paper's)")
    parser.add_argument("--width", type=int, default=416, help="of the frames, pixels (default: 416, the paper's)")
    parser.add_argument("--fov", type=float, help="horizontal field of view, degrees (default: the widest there is)")
    parser.add_argument("--stride", type=int, default=1, help="take every n-th frame (default: 1)")
    parser.add_argument("--count", type=int, help="at most so many frames (default: all)")
    parser.add_argument("--scale", type=float, help="metres in one unit of a scan that has none (default: as it is)")
    parser.add_argument("--place", help="what captions call it (default: room, or place where not all are rooms)")
    options = parser.parse_args(arguments)
    if options.stride < 1 or (options.count is not None and options.count < 1):
        got = f"{options.stride} and {options.count}"
        raise ValueError(f"expected a stride and a count from 1, got {got}: choose others")

    scan = read_scan(options.layout, options.folder)
    if options.scale is not None:
        scan = scan.scaled(options.scale)
    if options.place is not None:
        scan = replace(scan, place=options.place)
    last = None if options.count is None else options.stride * options.count
    scan = scan.part(slice(0, last, options.stride))
    out = options.out or Path("data") / options.layout / options.folder.resolve().name
    camera = write_scan(scan, out, options.height, options.width, options.fov, progress=True)
    unit = "metres" if scan.metric else "the publisher's unit, not metres"
    print(
        f"{out}: {len(scan.places)} frames of {camera.height}x{camera.width}, {camera.horizontal_fov} degrees wide, "
        f"{len(scan.objects)} objects, lengths in {unit}"
    )


if __name__ == "__main__":
    sys.exit(main())
