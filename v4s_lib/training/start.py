"""The model that a run at a scale starts from: Wan's weights, weights of our own, or random ones."""

import json
from pathlib import Path
from typing import Any

import torch

from v4s_lib.model.stock import load_stock
from v4s_lib.model.transformer import ContextVideoTransformer
from v4s_lib.training.full import FullScale


def starting_model(scale: FullScale, context_attention: str, weights: Path | None) -> ContextVideoTransformer:
    """The model of a scale, with the weights that it starts from.

    Args:
        scale: decides its sizes.
        context_attention: "two_way" or "one_way".
        weights: folder of a stock WanTransformer3DModel or of one of ours; None draws random ones.

    Raises:
        FileNotFoundError: there is no model in the folder.
        ValueError: it is another one than the scale's; the message names what differs.
    """
    wanted = scale.model | {"context_attention": context_attention}
    if weights is None:
        return ContextVideoTransformer(**wanted)
    config = weights / "config.json"
    if not config.is_file():
        raise FileNotFoundError(f"expected a transformer in {weights}, got no config.json: give its folder")
    if json.loads(config.read_text(encoding="utf-8"))["_class_name"] == ContextVideoTransformer.__name__:
        model = ContextVideoTransformer.from_pretrained(weights)
    else:
        model = load_stock(weights, context_attention, scale.model["pose_encoding"])
    with torch.device("meta"):
        expected = ContextVideoTransformer(**wanted).config
    plain = {name: _listed(value) for name, value in expected.items() if not name.startswith("_")}
    differing = [name for name, value in plain.items() if _listed(model.config[name]) != value]
    if differing:
        raise ValueError(
            f"expected in {weights} a model with the {', '.join(differing)} of scale {scale.name}, got another: "
            "start from another model or choose another scale"
        )
    return model


def _listed(value: Any) -> Any:
    """As a config gives a value back: a tuple is a list."""
    return list(value) if isinstance(value, tuple) else value
