"""The paper's own setting, as far as it is known, on Wan2.2-TI2V-5B; and two stand-ins of the same form.

No rooms are trained here: a ``Preset`` does that. ``FULL`` says what a run on many GPUs would use, and
``python -m v4s_lib.training.plan`` computes from it what that run would need. Each value names its origin: PAPER.md and
how that knows it (the paper's page, measured on its videos, inferred), WAN (the released model's own configuration), or
our choice. The paper's optimizer, rates, batch, steps and training context are not published: they are our choice here,
and no number that follows from them is the paper's.
"""

from dataclasses import dataclass
from typing import Any

from v4s_lib.worlds.paths import FRAMES_PER_LATENT

# WAN: diffusers, scripts/convert_wan_to_diffusers.py, "Wan2.2-TI2V-5B"; Wan-Video/Wan2.2, wan/configs/wan_ti2v_5B.py
# has the same sizes and the sampling values. 4,999,787,712 parameters, as in the released files.
WAN_TRANSFORMER = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 24,
    "attention_head_dim": 128,
    "in_channels": 48,
    "out_channels": 48,
    "text_dim": 4096,
    "freq_dim": 256,
    "ffn_dim": 14336,
    "num_layers": 30,
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
    "eps": 1e-6,
    "rope_max_seq_len": 1024,
}

# WAN: vae/config.json of Wan-AI/Wan2.2-TI2V-5B-Diffusers, without the 48 means and deviations, which come with the
# weights. It turns 16 x 16 pixels of four frames into one latent pixel.
WAN_AUTOENCODER = {
    "base_dim": 160,
    "decoder_base_dim": 256,
    "z_dim": 48,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_scales": [],
    "temperal_downsample": [False, True, True],  # diffusers' spelling
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_temporal": 4,
    "scale_factor_spatial": 16,
}


@dataclass(frozen=True)
class FullScale:
    """One setting: what a sample is, which model sees it, and how long it is trained. Pixels are width x height."""

    name: str
    model: dict[str, Any]  # arguments of ContextVideoTransformer, but for context_attention
    width: int = 416  # pixels; PAPER.md §4, page
    height: int = 256  # pixels; PAPER.md §4, page
    pixels_a_latent: int = 16  # along each side; WAN
    context_latents: int = 84  # 336 frames; PAPER.md §3, measured. The paper trained with fewer, unknown how many
    moving_latents: int = 40  # 160 frames after the start frame, 161 in all; PAPER.md §4, page
    tail_latents: int = 5  # the box's 20 frames; PAPER.md §5, measured
    gap: int = 50  # latents on either side of the target that hold no context; PAPER.md §3, measured
    text_tokens: int = 512  # WAN
    # That share a context in training; 1 is the paper's likely way, more pays with one_way. ``finetune`` trains one
    # target a context so far: with more, the plan says what it would buy.
    targets: int = 1
    drop_all: float = 0.1  # share of samples without text, pose and context; our choice
    drop_instruction: float = 0.1  # share of samples without text and pose alone; our choice
    grounding: float = 0.5  # share of steps whose targets end on an object, where curation left both kinds; our choice
    path_too: float = 0.25  # share of posed targets with a box that are told the path beside the words; our choice
    batch: int = 64  # targets an optimizer step, over all GPUs; our choice
    steps: int = 10_000  # our choice
    learning_rate: float = 1e-5  # AdamW, all weights; our choice
    lora_learning_rate: float = 1e-4  # AdamW, adapters (and new parts) alone; our choice
    betas: tuple[float, float] = (0.9, 0.95)  # our choice
    weight_decay: float = 0.01  # our choice
    warmup: int = 500  # steps; our choice
    max_grad_norm: float = 1.0  # our choice
    ema_decay: float = 0.999  # our choice
    mixed_precision: str = "bf16"  # computing; what is trained, gradients and averages stay fp32; our choice
    shift: float = 5.0  # of the noise schedule, in sampling (WAN) and, our choice, in training
    inference_steps: int = 50  # WAN; the paper's number is not known
    guidance_scale: float = 5.0  # WAN; the paper's number is not known

    @property
    def target_latents(self) -> int:
        """Latents of the longest target: the start frame's, the moving ones, the box tail's."""
        return 1 + self.moving_latents + self.tail_latents

    @property
    def latent_size(self) -> tuple[int, int]:
        """Rows and columns of a latent."""
        return self.height // self.pixels_a_latent, self.width // self.pixels_a_latent

    @property
    def tokens_a_latent(self) -> int:
        rows, columns = self.latent_size
        return (rows // self.model["patch_size"][1]) * (columns // self.model["patch_size"][2])


def latents_of(frames: int) -> int:
    """Latents of a video of 4k+1 frames: frame 0 alone is one, then every four frames are one.

    337 frames give 85 latents, of which 84 hold four frames: 336, the paper's context.
    """
    if frames < 1 or frames % FRAMES_PER_LATENT != 1:
        raise ValueError(f"expected a video of 4k+1 frames, got {frames}: leave out the frames after the last 4k+1")
    return 1 + frames // FRAMES_PER_LATENT


def _plain(dim: int, heads: int, layers: int, channels: int, text_dim: int) -> dict[str, Any]:
    """A Wan transformer of another size; our choice."""
    return WAN_TRANSFORMER | {
        "num_attention_heads": heads,
        "attention_head_dim": dim // heads,
        "in_channels": channels,
        "out_channels": channels,
        "text_dim": text_dim,
        "freq_dim": 64,
        "ffn_dim": 4 * dim,
        "num_layers": layers,
        "pose_encoding": "c2w_12",
    }


# PAPER.md §2, inferred: one relative pose a latent, 12 numbers, added in every block by a layer that starts at zero.
FULL = FullScale(name="full", model=WAN_TRANSFORMER | {"pose_encoding": "c2w_12"})

# One GPU: the same episode in small, a plain model of 16 million parameters at most; latents are exact patches of
# 16 x 16 pixels of four RGB frames, and text is UMT5's. All our choice.
BASE_LIKE = FullScale(
    name="base-like",
    model=_plain(256, 8, 10, 4 * 3 * 16**2, WAN_TRANSFORMER["text_dim"]) | {"patch_size": (1, 1, 1)},
    width=96,
    height=64,
    text_tokens=24,
    batch=32,
    steps=20_000,
    learning_rate=3e-4,
    inference_steps=10,
    guidance_scale=1.0,
)

# The smallest of the form, for tests: it can be run here, and measured. All our choice.
TINY = FullScale(
    name="tiny",
    model=_plain(48, 2, 3, 8, 16),
    width=128,
    height=128,
    context_latents=5,
    moving_latents=2,
    tail_latents=1,
    gap=4,
    text_tokens=7,
    batch=4,
    steps=4,
    warmup=1,
    inference_steps=2,
)

SCALES = {scale.name: scale for scale in (FULL, BASE_LIKE, TINY)}


def get_scale(name: str) -> FullScale:
    """The setting of that name."""
    if name not in SCALES:
        raise ValueError(f"expected a scale out of {', '.join(SCALES)}, got {name!r}: choose one of them")
    return SCALES[name]
