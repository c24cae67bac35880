"""How long a process takes from nothing to an import, and to the first pictures of the shipped model.

Files are in the system's cache, for each runs once before it is timed.
"""

import subprocess
import sys
from collections.abc import Iterator
from functools import partial

import torch

from v4s_lib.evaluation.ratios import Comparison, time_pairs
from v4s_lib.training.presets import SMALL

TORCH = "import torch"
WAN = "from diffusers import WanTransformer3DModel"
PIPELINE = "from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler"
MODEL = "import v4s_lib.model.transformer"
FIRST_CLIP = """
from v4s_lib.data.episodes import load_episode
from v4s_lib.data.manifests import MANIFESTS
from v4s_lib.training.presets import get_preset
from v4s_lib.training.weights import load_pipeline

preset, scan = get_preset("small"), load_episode(MANIFESTS / "scans" / "demo_0000")
frames, steps = scan.frames / 255, preset.inference_steps
load_pipeline(preset)(frames[:61], frames[60:61], scan.c2w[None, 60:89], num_inference_steps=steps)
"""


def start(code: str) -> None:
    """Run code in a process of its own, which has nothing imported."""
    subprocess.run([sys.executable, "-c", code], check=True)


def compare(pairs: int, quick: bool, _: torch.device) -> Iterator[Comparison]:
    """The rows; ``quick`` leaves out all but the first."""
    clip = f"8 latents, {SMALL.inference_steps} steps, weights checked"
    rows = [
        ("import", "v4s_lib.model.transformer", MODEL, "torch", TORCH),
        ("import", "v4s_lib.model.transformer", MODEL, "diffusers' WanTransformer3DModel", WAN),
        ("start to the first clip", clip, FIRST_CLIP, "import torch", TORCH),
        ("start to the first clip", "the same", FIRST_CLIP, "import diffusers' pipeline and scheduler", PIPELINE),
        ("import", "v4s_lib", "import v4s_lib", "torch", TORCH),
    ]
    for what, ours, code, other, other_code in rows[:1] if quick else rows:
        measured = time_pairs(partial(start, code), partial(start, other_code), pairs)
        yield Comparison(f"cold process: {what}", ours, other, "s", measured)
