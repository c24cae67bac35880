"""Plain models of several tiny sizes, and a forward pass of them."""

import pytest
import torch
from torch import Tensor

from v4s_lib.model.transformer import ContextVideoTransformer
from v4s_lib.training.costs import Job
from v4s_lib.training.full import WAN_TRANSFORMER

WITHIN = {"rel": 0.03}  # the largest difference seen is half of it; 0.1 would be good enough for a plan
WAYS = pytest.mark.parametrize("way", ["two_way", "one_way"])


def plain(heads: int, layers: int, ffn: int, pose: str | None = "c2w_12") -> dict:
    sizes = {"num_attention_heads": heads, "attention_head_dim": 24, "in_channels": 4, "out_channels": 4}
    sizes |= {"text_dim": 16, "freq_dim": 32, "ffn_dim": ffn, "num_layers": layers, "pose_encoding": pose}
    return WAN_TRANSFORMER | sizes


# Model, context latents, target latents, tokens a latent, text tokens, targets.
SIZES = {
    "short": (plain(2, 1, 96), 2, 3, 16, 7, 1),
    "long context": (plain(2, 3, 160), 12, 3, 16, 7, 1),
    "wide": (plain(4, 2, 448), 5, 4, 4, 20, 1),
    "shared context": (plain(2, 2, 96, "ray_map"), 6, 3, 9, 5, 3),
}
EVERY = pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)


def build(job: Job, device: str = "cpu", dtype: torch.dtype = torch.float32) -> ContextVideoTransformer:
    torch.manual_seed(0)
    with torch.device(device):
        model = ContextVideoTransformer(**job.model, context_attention=job.way)
    for parameter in model.parameters():  # as .to(dtype), without its warning
        parameter.data = parameter.data.to(dtype)
    return model


def loss_of(model: ContextVideoTransformer, job: Job, rows: int, device: str = "cpu") -> Tensor:
    """A forward pass on zeros; ``rows`` of tokens a latent."""
    place = {"device": device, "dtype": model.proj_out.weight.dtype}
    _, high, wide = job.model["patch_size"]
    size = (rows * high, job.tokens_a_latent // rows * wide)
    channels, targets = job.model["in_channels"], job.targets
    has_pose = job.pose > 0
    output = model(
        torch.zeros(targets, channels, job.target_latents, *size, **place),
        torch.full((targets,), 500.0, device=device),
        torch.arange(job.target_latents).expand(targets, -1) + 300,
        torch.zeros(1, channels, job.context_latents, *size, **place),
        torch.arange(job.context_latents)[None],
        encoder_hidden_states=torch.zeros(targets, job.text_tokens, job.model["text_dim"], **place),
        camera_path=torch.zeros(targets, job.target_latents, 4, 4, 4, **place) if has_pose else None,
    )
    return output.float().square().mean()


def rows_of_square(job: Job) -> int:
    return int(job.tokens_a_latent**0.5)
