"""Stock Wan weights into our transformer: strict, with an explicit list of what they do not hold."""

import json
from pathlib import Path

from safetensors.torch import load_file

from v4s_lib.model.transformer import NEW_KEYS, ContextVideoTransformer
from v4s_lib.model.weights import check_keys, weight_files

ABSENT = ("image_dim", "added_kv_proj_dim", "pos_embed_seq_len")  # image branch of Wan 2.1, which we do not have


def load_stock(
    folder: str | Path,
    context_attention: str = "two_way",
    pose_encoding: str | None = None,
    horizontal_fov: float = 90.0,
) -> ContextVideoTransformer:
    """Build our transformer from a ``WanTransformer3DModel`` saved by diffusers; parts that Wan has not stay zero.

    Args:
        folder: with ``config.json`` and safetensors, in one file or in shards with their index.
        context_attention, pose_encoding, horizontal_fov: see ContextVideoTransformer.

    Raises:
        FileNotFoundError: there are no safetensors weights in the folder.
        ValueError: the weights are of another kind; the message lists missing and unexpected keys.
    """
    folder = Path(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    images = [name for name in ABSENT if config.get(name) is not None]
    if images:
        raise ValueError(f"expected a text-to-video Wan model in {folder}, got one with {images}: choose one without")
    sizes = {name: value for name, value in config.items() if not name.startswith("_") and name not in ABSENT}
    model = ContextVideoTransformer(
        **sizes, context_attention=context_attention, pose_encoding=pose_encoding, horizontal_fov=horizontal_fov
    )
    missing, unexpected = set(model.state_dict()), set()
    for file in weight_files(folder):
        weights = load_file(file)
        unexpected |= set(model.load_state_dict(weights, strict=False).unexpected_keys)
        missing -= set(weights)
    check_keys(folder, [key for key in missing if not key.startswith(NEW_KEYS)], unexpected)
    return model
