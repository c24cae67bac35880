"""A saved Wan pipeline's codec and text encoder around a transformer of ours: a pipeline at full scale."""

from pathlib import Path

from diffusers import FlowMatchEulerDiscreteScheduler

from v4s_lib.model.encoding import load_codec
from v4s_lib.model.pipeline import Video4SpatialPipeline
from v4s_lib.model.text_encoder import load_text_encoder
from v4s_lib.model.transformer import ContextVideoTransformer

SHIFT = 5.0  # of the noise schedule; Wan2.2-TI2V-5B's own
GAP = 50  # latents between the scan's last and the start frame's time index; the paper's on either side (PAPER.md §3)


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
