"""Weight files: safetensors only, and no key too many or too few."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from diffusers.utils import logging
from torch import Tensor, nn

WEIGHTS = "diffusion_pytorch_model.safetensors"


def is_stock(source: str | Path, config: dict[str, Any], options: set[str]) -> bool:
    """Whether a config is that of a stock Wan transformer.

    ``ValueError`` for one that sets what is not among our ``options``, such as the image branch of Wan 2.1.
    """
    if config.get("_class_name") != WanTransformer3DModel.__name__:
        return False
    public = {name for name, value in config.items() if value is not None and not name.startswith("_")}
    foreign = sorted(public - options)
    if foreign:
        raise ValueError(f"expected a text-to-video Wan model in {source}, got one with {foreign}: choose one without")
    return True


@contextmanager
def quiet() -> Iterator[None]:
    """Load without diffusers' bar, which says nothing of two files, and without its warnings: ``check_keys`` tells."""
    logger = logging.get_logger("diffusers.models.modeling_utils")
    level = logger.level
    logging.disable_progress_bar()
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logging.enable_progress_bar()
        logger.setLevel(level)


def check_keys(source: str | Path, missing: Iterable[str], unexpected: Iterable[str]) -> None:
    """Raise ``ValueError`` with the keys that a checkpoint lacks or has too many, if there are any."""
    missing, unexpected = sorted(missing), sorted(unexpected)
    if missing or unexpected:
        raise ValueError(
            f"expected in {source} the keys of the model that its config describes, got missing {missing} and "
            f"unexpected {unexpected}: load the weights with the config they were saved with"
        )


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model: one, or the shards that its index names."""
    index = folder / f"{WEIGHTS}.index.json"
    names = [WEIGHTS]
    if index.is_file():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    absent = [name for name in names if not (folder / name).is_file()]
    if absent:
        raise FileNotFoundError(f"expected {absent[0]} in {folder}, got no such file: download the safetensors weights")
    return [folder / name for name in names]


def weights_digest(*models: nn.Module) -> str:
    """sha256 over the weights of models: name and every bit of each, in the order of the names."""
    return state_digest(*(model.state_dict() for model in models))


def state_digest(*states: dict[str, Tensor]) -> str:
    """``weights_digest`` of models' states, or of parts of them."""
    digest = hashlib.sha256()
    for state in states:
        for name, value in sorted(state.items()):
            digest.update(name.encode())
            digest.update(value.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
