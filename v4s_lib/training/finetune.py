"""Train a scale on a latent cache: ``python -m v4s_lib.training.finetune --scale full --cache DIR --out DIR``.

On one GPU as it stands; on many ``accelerate launch --config_file FILE -m v4s_lib.training.finetune ...`` with a file
out of ``configs/``: copies of the model (``ddp.yaml``) or a part of it on each (``fsdp2.yaml``). Run the same command
again after a stop or a kill, with as many processes as there are. A launcher gives them 30 s after Ctrl-C (torch's
elastic agent); a checkpoint that takes longer to write is left out, and the one before it counts.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from accelerate import PartialState

from v4s_lib.command import command
from v4s_lib.training.full import SCALES, get_scale
from v4s_lib.training.full_loop import Job, finetune


@command("run the same command to go on from the last checkpoint")
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m v4s_lib.training.finetune", description=__doc__.splitlines()[0])
    parser.add_argument("--scale", default="full", help=f"one of {', '.join(SCALES)} (default: full)")
    parser.add_argument("--cache", type=Path, required=True, help="folder of v4s_lib.training.latents")
    parser.add_argument("--out", type=Path, required=True, help="output folder, which all processes see")
    parser.add_argument("--windows", type=Path, help="curated targets, encoded in the cache (default: anywhere)")
    parser.add_argument("--weights", type=Path, help="folder of a saved transformer, Wan's or ours (default: random)")
    parser.add_argument("--context-attention", default="two_way", help="two_way or one_way (default: two_way)")
    parser.add_argument("--lora", type=int, metavar="RANK", help="train adapters of this rank (default: all weights)")
    parser.add_argument("--seed", type=int, default=0, help="of samples, noise and new weights (default: 0)")
    windows = {
        "length": "latents of a target, its start frame's included",
        "gap": "latents on either side of it that hold no context",
        "context": "latents of the context",
        "steps": "optimizer steps in all",
    }
    for name, text in windows.items():
        parser.add_argument(f"--{name}", type=int, help=f"{text} (default: the scale's)")
    parser.add_argument("--stop-at", type=int, help="stop and save after this step; run again to go on")
    parser.add_argument("--save-every", type=int, default=250, help="steps between checkpoints (default: 250)")
    parser.add_argument("--together", type=int, default=1, help="samples that a GPU computes at once (default: 1)")
    args = parser.parse_args(arguments)
    moving = None if args.length is None else args.length - 1
    given = {"moving_latents": moving, "gap": args.gap, "context_latents": args.context, "steps": args.steps}
    scale = replace(get_scale(args.scale), **{name: value for name, value in given.items() if value is not None})
    asked = (args.weights, args.context_attention, args.lora, args.seed, args.save_every, args.together, args.windows)
    place = finetune(Job(scale, args.cache, args.out, *asked), args.stop_at)
    PartialState().print(place)


if __name__ == "__main__":
    sys.exit(main())
