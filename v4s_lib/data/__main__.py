"""Write the scans of a generated data set as episodes: ``python -m v4s_lib.data --help``.

A scan that is there already is left as it is, so that an interrupted run is resumed by the same command.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from v4s_lib.command import command
from v4s_lib.data.manifests import load_manifest
from v4s_lib.data.scans import scan_count, write_scan


@command("run the same command to go on after the last whole scan")
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m v4s_lib.data", description=__doc__.splitlines()[0])
    parser.add_argument("--manifest", default="rooms", help="name in data_manifests/, or a .yaml file (default: rooms)")
    parser.add_argument("--split", default="validation", help="split of the manifest (default: validation)")
    parser.add_argument("--count", type=int, help="how many scans, from the first on (default: all of the split)")
    parser.add_argument("--out", type=Path, help="folder for the episodes (default: data/ and the manifest's name)")
    options = parser.parse_args(arguments)

    manifest = load_manifest(options.manifest)
    if manifest["access"] != "generated":
        raise ValueError(f"expected a generated data set, got {manifest['name']} ({manifest['access']}): choose rooms")
    generator, out = manifest["generator"], options.out or Path("data") / manifest["name"]
    scans = scan_count(generator, options.split)
    count = scans if options.count is None else options.count
    if not 0 < count <= scans:
        raise ValueError(f"expected a count from 1 to {scans} for {options.split}, got {count}: choose another")
    bar = tqdm(range(count), desc=f"{manifest['name']} {options.split}", unit="scan")
    scores = [score for index in bar if (score := write_scan(generator, options.split, index, out)) is not None]
    if not scores:
        print(f"{out}: every scan was there already")
        return
    mean = sum(scores) / len(scores)
    print(f"{out}: {len(scores)} scans written; PSNR of file against render {mean:.1f} dB, worst {min(scores):.1f} dB")


if __name__ == "__main__":
    sys.exit(main())
