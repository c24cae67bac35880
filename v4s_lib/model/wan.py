"""``python -m v4s_lib.model.wan WAN --weights RUN/weights --out PIPELINE``: Wan's parts and trained weights in one.

A saved Wan pipeline's codec and text encoder are put around a transformer of ours: what samples at full scale.
"""

import argparse
import sys
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from v4s_lib.command import command
from v4s_lib.model.encoding import load_codec
from v4s_lib.model.pipeline import Video4SpatialPipeline
from v4s_lib.model.text_encoder import load_text_encoder
from v4s_lib.model.transformer import ContextVideoTransformer

SHIFT = 5.0  # of the noise schedule; Wan2.2-TI2V-5B's own
GAP = 50  # latents between the scan's last and the start frame's time index; the paper's on either side (PAPER.md §3)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def wan_pipeline(folder: str | Path, transformer: ContextVideoTransformer) -> Video4SpatialPipeline:
    """Put together what samples at full scale; ``save_pretrained`` makes one folder of it.

    Args:
        folder: a Wan pipeline as diffusers saves it: ``vae``, ``text_encoder`` and ``tokenizer`` are read, strictly.
        transformer: Wan's own weights (``load_stock``), or trained ones.
    """
    codec = load_codec(Path(folder) / "vae")
    text_encoder, tokenizer = load_text_encoder(folder)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=SHIFT)
    return Video4SpatialPipeline(
        transformer.eval(), codec, scheduler, GAP, text_encoder=text_encoder, tokenizer=tokenizer
    )


@command("what is in the folder is not complete; run the same command again")
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m v4s_lib.model.wan", description=__doc__)
    parser.add_argument("wan", type=Path, help="folder of a Wan pipeline: its autoencoder, text encoder and tokenizer")
    parser.add_argument("--weights", type=Path, required=True, help="folder of a trained transformer")
    parser.add_argument("--out", type=Path, required=True, help="folder of the pipeline to write")
    parser.add_argument("--dtype", default="bfloat16", choices=list(DTYPES), help="of the transformer")
    args = parser.parse_args(arguments)
    transformer = ContextVideoTransformer.from_pretrained(args.weights, torch_dtype=DTYPES[args.dtype])
    wan_pipeline(args.wan, transformer).save_pretrained(args.out)
    print(args.out)


if __name__ == "__main__":
    sys.exit(main())
