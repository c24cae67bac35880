"""``python -m v4s_lib.evaluation --task navigation --preset small``: score shipped or own weights on test rooms."""

import argparse
import sys
from pathlib import Path

from v4s_lib.command import check_counts, command
from v4s_lib.evaluation.results import EXPERIMENTS, gains, run_experiment, save_results, tables


@command("scored episodes are kept; run the same command to go on")
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m v4s_lib.evaluation", description=__doc__)
    parser.add_argument("--task", choices=list(EXPERIMENTS), default="navigation")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--weights", type=Path, help="folder of a trained transformer (default: the shipped one)")
    parser.add_argument(
        "--first-frame-only", type=Path, help="folder of the baseline (default: the shipped one, if any)"
    )
    parser.add_argument(
        "--split", default="test", choices=["validation", "test"], help="choose settings on validation only"
    )
    parser.add_argument("--episodes", type=int, default=128, help="one a room (default: 128)")
    parser.add_argument("--seed", type=int, default=0, help="of the sampling noise and the context (default: 0)")
    parser.add_argument("--samples", type=int, help="of ours an episode (default: 4 in navigation, 5 in grounding)")
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--store", type=Path, default=Path("runs/evaluation"), help="scored episodes, to go on from")
    parser.add_argument("--workers", type=int, default=1, help="processes that share out the episodes (default: 1)")
    args = parser.parse_args(arguments)
    check_counts(episodes=args.episodes, samples=args.samples)
    results = run_experiment(
        args.task,
        args.preset,
        args.weights,
        args.first_frame_only,
        args.split,
        args.episodes,
        args.seed,
        args.store,
        args.samples,
        args.workers,
    )
    if args.json:
        save_results(results, args.json)
    print(*tables(results).values(), sep="\n\n")
    for pair, gain in gains(results).items():
        print(f"{EXPERIMENTS[args.task].gain}, {pair}: {gain}, n = {results['gain'][pair]['n']}")


if __name__ == "__main__":
    sys.exit(main())
