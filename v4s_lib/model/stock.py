"""Stock Wan weights, from a folder of this machine, into our transformer."""

from pathlib import Path

from v4s_lib.model.transformer import ContextVideoTransformer
from v4s_lib.model.weights import weight_files


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
    weight_files(Path(folder))  # names the file that is missing
    return ContextVideoTransformer.from_pretrained(
        folder, context_attention=context_attention, pose_encoding=pose_encoding, horizontal_fov=horizontal_fov
    )
