"""``python -m tests.benchmarks``: every benchmark, or those named; prints the README's table.

Each benchmark's rows are stored with its commit and thread count as soon as it ends; the others' stay as they are.
"""

import argparse
import json
import os
import platform
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from tests.benchmarks import cached_context, start_up, training_step, video_reading
from v4s_lib.command import command
from v4s_lib.data.provenance import current_commit
from v4s_lib.evaluation.ratios import ratio_line, ratio_table
from v4s_lib.evaluation.results import RESULTS, save_results

BENCHMARKS = {
    "cached_context": cached_context.compare,
    "training_step": training_step.compare,
    "start_up": start_up.compare,
    "video_reading": video_reading.compare,
}


def measure(name: str, pairs: int, quick: bool, threads: int, device: torch.device) -> dict[str, Any]:
    """Run one benchmark; its rows, and what they were measured on. A row is printed as soon as it is known."""
    call, rows = f"python -m tests.benchmarks {name}" + (" --device cuda" if device.type == "cuda" else ""), []
    for row in tqdm(BENCHMARKS[name](pairs, quick, device), desc=name, unit=" rows"):
        tqdm.write(ratio_line(row, call), file=sys.stderr)
        rows.append(asdict(row))
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    if device.type == "cuda":
        machine += f", {torch.cuda.get_device_name()}"
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    where = {"commit": current_commit(), "machine": machine, "threads": threads, **versions}
    return {"command": call, "pairs": pairs, **where, "rows": rows}


@command("benchmarks that ended are stored; name the others to go on")
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"out of {', '.join(BENCHMARKS)} (default: all)")
    parser.add_argument("--pairs", type=int, default=5, help="measured of each row (default: 5)")
    parser.add_argument("--threads", type=int, default=1, help="of torch, decord and PyAV's callers (default: 1)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--json", type=Path, default=RESULTS / "benchmarks.json", help="results, added to")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs, and is not stored")
    args = parser.parse_args(arguments)
    unknown = [name for name in args.names if name not in BENCHMARKS]
    if unknown:
        raise ValueError(f"expected benchmarks out of {', '.join(BENCHMARKS)}, got {unknown[0]!r}: choose of them")
    if args.pairs < 1 or args.threads < 1:
        raise ValueError(f"expected 1 or more pairs and threads, got {args.pairs} and {args.threads}: ask for some")
    os.environ["OMP_NUM_THREADS"] = str(args.threads)  # of the processes that are started
    os.environ["KINETO_LOG_LEVEL"] = "99"  # the profiler says on every start that it starts
    torch.set_num_threads(args.threads)
    results = json.loads(args.json.read_text()) if args.json.is_file() and not args.quick else {}
    for name in args.names or BENCHMARKS:
        stored = name if args.device == "cpu" else f"{name}_{args.device}"  # beside the CPU's, not over it
        results[stored] = measure(name, args.pairs, args.quick, args.threads, torch.device(args.device))
        if not args.quick:
            save_results(results, args.json)
    print(f"{args.threads} threads, {args.pairs} pairs\n\n{ratio_table(results)}")


if __name__ == "__main__":
    sys.exit(main())
