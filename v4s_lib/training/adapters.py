"""Low-rank adapters (LoRA, arXiv 2106.09685) through peft, for a GPU that cannot hold the training of all weights.

``python -m v4s_lib.training.adapters ADAPTERS --weights BASE --out FOLDER`` puts trained ones into the weights they
were trained on, and refuses others. What comes out is a plain transformer's folder, which ``python -m v4s_lib.model``
samples.

The attention's projections and the feed-forward layers are adapted. What a stock checkpoint has not starts at zero and
is trained as it is: a low-rank change of nothing would be a detour.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from peft import LoraConfig, LoraModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor

from v4s_lib.command import command
from v4s_lib.model.transformer import NEW_KEYS, ContextVideoTransformer
from v4s_lib.model.weights import check_keys, state_digest
from v4s_lib.training.checkpoints import write_folder
from v4s_lib.training.full import SCALES, get_scale
from v4s_lib.training.sharding import trained
from v4s_lib.training.start import starting_model

ADAPTED = r"blocks\.\d+\.(attn[12]\.(to_[qkv]|to_out\.0)|ffn\.net\.(0\.proj|2))"
FILE = "adapter_model.safetensors"  # peft's name, as that of adapter_config.json
BASE = "base.json"  # beside them: what they were trained on
NAME = ".default"  # peft's, in the keys of a model that has adapters


def adapter_config(rank: int) -> LoraConfig:
    """Adapters of that rank, at full strength: alpha is the rank."""
    if rank < 1:
        raise ValueError(f"expected a rank from 1, got {rank}: choose another, or train all weights")
    return LoraConfig(r=rank, lora_alpha=rank, target_modules=ADAPTED)


def add_adapters(model: ContextVideoTransformer, config: LoraConfig) -> LoraModel:
    """Put adapters into the model, which at first change nothing, and freeze all but them and the new parts."""
    adapted = LoraModel(model, config, "default")
    for name, parameter in model.named_parameters():
        if name.startswith(NEW_KEYS):
            parameter.requires_grad_(True)
    return adapted


def hold_frozen(adapted: LoraModel, dtype: torch.dtype) -> None:
    """Keep the frozen weights of the adapted layers as autocast computes with them: the same losses, in half the room.

    Nor are the inputs of adapters turned to their fp32 and back.
    """
    for layer in adapted.modules():
        if isinstance(layer, LoraLayer):
            layer.get_base_layer().to(dtype)
            layer.cast_input_dtype_enabled = False


def base_of(model: ContextVideoTransformer) -> dict[str, str]:
    """What adapters are trained on: its context attention, and a sha256 of the weights that they leave frozen.

    Call it on the plain model: before there are adapters in it, before it is sharded or brought to another type.
    """
    frozen = {name: value for name, value in model.state_dict().items() if not name.startswith(NEW_KEYS)}
    return {"context_attention": model.config.context_attention, "frozen_weights": state_digest(frozen)}


def saved_base(folder: Path) -> dict[str, str]:
    """``base_of`` what saved adapters were trained on."""
    for name in (FILE, BASE):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"expected {name} in {folder}, got no such file: train with --lora first")
    return json.loads((folder / BASE).read_text(encoding="utf-8"))


def save_adapters(folder: Path, config: LoraConfig, tensors: dict[str, Tensor], base: dict[str, str]) -> None:
    """Write adapters and new parts, by their names in the model, as safetensors; and ``base_of`` what they are for."""
    save_file({name.replace(NAME, ""): value.contiguous() for name, value in tensors.items()}, folder / FILE)
    config.save_pretrained(folder)
    (folder / BASE).write_text(json.dumps(base, indent=1), encoding="utf-8")


def load_adapters(folder: Path, model: ContextVideoTransformer) -> LoraModel:
    """Put saved adapters and new parts into the model that they were trained for.

    ``merge_and_unload`` of what is returned gives the plain model again, with the adapters in its weights. Raises
    ``ValueError`` for another model than that and with missing and unexpected keys, and ``FileNotFoundError`` where
    there are no adapters.
    """
    expected, found = saved_base(folder), base_of(model)
    if differing := [name for name, value in expected.items() if found[name] != value]:
        raise ValueError(
            f"expected the model that the adapters in {folder} were trained on, got one with another "
            f"{', '.join(differing)}: load them into that model"
        )
    tensors = load_file(folder / FILE)
    adapted = add_adapters(model, LoraConfig.from_pretrained(folder))
    names = {name.replace(NAME, ""): name for name in trained(model)}
    check_keys(folder, names.keys() - tensors.keys(), tensors.keys() - names.keys())
    model.load_state_dict({names[name]: value for name, value in tensors.items()}, strict=False)
    return adapted


@command("nothing was written; run the same command again")
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m v4s_lib.training.adapters", description=__doc__.splitlines()[0])
    parser.add_argument("adapters", type=Path, help="folder that v4s_lib.training.finetune --lora has written")
    parser.add_argument("--scale", default="full", help=f"one of {', '.join(SCALES)} (default: full)")
    parser.add_argument("--weights", type=Path, required=True, help="folder of the transformer they were trained on")
    parser.add_argument("--out", type=Path, required=True, help="folder for the merged weights")
    args = parser.parse_args(arguments)
    if args.out.exists():
        raise ValueError(f"expected a free place for the weights, got the existing {args.out}: choose another --out")
    base = starting_model(get_scale(args.scale), saved_base(args.adapters)["context_attention"], args.weights)
    merged = load_adapters(args.adapters, base).merge_and_unload()
    print(write_folder(args.out, merged.save_pretrained))


if __name__ == "__main__":
    sys.exit(main())
