"""``python -m v4s_lib.model --weights DIR --context VIDEO --start-frame 0 --path FILE --out FILE.mp4``: sample a video.

The context is any video, without poses. The path is a JSON file with ``frames`` and their ``transform_matrix`` in
nerfstudio's convention (camera-to-world, OpenGL axes, metres), 4k+1 of them; an episode's ``transforms.json`` is one.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from v4s_lib.command import command
from v4s_lib.data.episodes import flip_axes
from v4s_lib.data.fitting import fit_frames
from v4s_lib.data.video import count_frames, read_frames, spread, write_video
from v4s_lib.model.pipeline import Video4SpatialPipeline
from v4s_lib.model.transformer import ContextVideoTransformer
from v4s_lib.model.wan import DTYPES, wan_pipeline
from v4s_lib.worlds.paths import latent_frames


def read_path(file: Path) -> Tensor:
    """Poses (F, 4, 4), c2w, float64, OpenCV axes, of a file in nerfstudio's convention."""
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))["frames"]
        return flip_axes(torch.tensor([entry["transform_matrix"] for entry in entries], dtype=torch.float64))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ValueError(
            f'expected {{"frames": [{{"transform_matrix": 4x4}}, ...]}} in {file}, got {error!r}: correct the file'
        ) from error


def read_start(start: str, context: Path) -> Tensor:
    """The frame (1, H, W, 3), uint8, of that number in the context video, or of that image file."""
    if start.isdecimal():
        return read_frames(context, [int(start)])
    try:
        with Image.open(start) as image:
            return torch.from_numpy(np.array(ImageOps.exif_transpose(image).convert("RGB")))[None]
    except (FileNotFoundError, UnidentifiedImageError) as error:
        raise ValueError(f"expected a frame's number or an image, got {start}: give one of both") from error


def chosen_frames(count: int, stride: int | None, pipeline: Video4SpatialPipeline) -> Sequence[int]:
    """The numbers of a video's frames to take: every ``stride``-th, or as many as the longest scan of training had."""
    longest = pipeline.config.longest_scan
    if stride is not None or longest is None:
        return range(0, count, stride or 1)
    return spread(count, latent_frames(longest))


def enable_tiling(pipeline: Video4SpatialPipeline) -> None:
    """Let the pipeline's autoencoder work in tiles; ``ValueError`` where it has none."""
    if not hasattr(pipeline.codec, "enable_tiling"):
        raise ValueError("expected Wan's autoencoder for --tiling, got exact patches: leave it out")
    pipeline.codec.enable_tiling()


def load(args: argparse.Namespace) -> Video4SpatialPipeline:
    """The pipeline that the options name, on its device."""
    dtype = DTYPES[args.dtype]
    if args.wan is None:
        if not (args.weights / "model_index.json").is_file():
            raise FileNotFoundError(
                f"expected a saved pipeline in {args.weights}, got no model_index.json: save one with save_pretrained, "
                "or add --wan to a transformer's folder"
            )
        pipeline = Video4SpatialPipeline.from_pretrained(args.weights, dtype)
    else:
        transformer = ContextVideoTransformer.from_pretrained(args.weights, torch_dtype=dtype)
        pipeline = wan_pipeline(args.wan, transformer)
    if args.tiling:
        enable_tiling(pipeline)
    if args.offload:
        pipeline.enable_model_cpu_offload(device=args.device)
        return pipeline
    return pipeline.to(args.device)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m v4s_lib.model", description=__doc__)
    parser.add_argument("--weights", type=Path, required=True, help="folder of a saved pipeline")
    parser.add_argument("--wan", type=Path, help="a Wan pipeline's folder, where --weights holds a transformer alone")
    parser.add_argument("--context", type=Path, required=True, help="the video that shows the scene")
    parser.add_argument(
        "--stride", type=int, help="take every n-th of its frames (default: all, or as many as training's scans had)"
    )
    parser.add_argument("--start-frame", required=True, help="a frame's number in the context video, or an image file")
    parser.add_argument("--path", type=Path, help="where the camera goes: a JSON file with poses")
    parser.add_argument("--instruction", help="what to do, in words")
    parser.add_argument("--out", type=Path, required=True, help="the MP4 file to write")
    parser.add_argument("--frames", type=int, help="to generate without a path: 4k+1 (default: 33)")
    parser.add_argument("--context-latents", type=int, default=16, help="of four frames each (default: 16, paper: 84)")
    parser.add_argument("--steps", type=int, help="of sampling (default: the pipeline's own, Wan: 50)")
    parser.add_argument("--guidance", type=float, default=1.0, help="scale (default: 1, none; Wan: 5)")
    parser.add_argument(
        "--find-temperature",
        type=float,
        default=0.0,
        help="0 (default) goes to the likeliest thing of what is named; 1 draws one, another with another seed",
    )
    parser.add_argument("--height", type=int, default=256, help="pixels, where the model is free (default: 256)")
    parser.add_argument("--width", type=int, default=416, help="pixels, where the model is free (default: 416)")
    parser.add_argument("--fps", type=float, default=10, help="frames a second of the file (default: 10)")
    parser.add_argument("--seed", type=int, default=0, help="of the noise and the context's choice (default: 0)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="to compute on")
    parser.add_argument("--dtype", default="float32", choices=list(DTYPES), help="of the transformer")
    parser.add_argument("--offload", action="store_true", help="keep on the device only the model that computes")
    parser.add_argument("--tiling", action="store_true", help="encode and decode in tiles, which takes less memory")
    return parser.parse_args(arguments)


@command("nothing was written; run the same command again")
def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    if args.out.suffix != ".mp4" or args.out.is_dir():
        raise ValueError(f"expected a file name that ends in .mp4 for --out, got {args.out}: choose another")
    if (args.stride is not None and args.stride < 1) or args.fps <= 0:
        raise ValueError(f"expected --stride from 1 and --fps above 0, got {args.stride} and {args.fps}: choose others")
    path = None if args.path is None else read_path(args.path)
    start = read_start(args.start_frame, args.context)
    pipeline = load(args)
    context = read_frames(args.context, chosen_frames(count_frames(args.context), args.stride, pipeline))
    size = pipeline.fixed_size or (args.height, args.width)
    video = pipeline(
        fit_frames(context, *size) / 255,
        fit_frames(start, *size) / 255,
        None if path is None else path[None],
        args.instruction,
        args.frames,
        args.context_latents,
        args.steps,
        args.guidance,
        find_temperature=args.find_temperature,
        generator=torch.Generator().manual_seed(args.seed),
    )
    write_video(args.out, (255 * video.frames[0]).round().byte(), args.fps)
    print(args.out)


if __name__ == "__main__":
    sys.exit(main())
