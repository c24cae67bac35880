"""LPIPS: how far apart two pictures are for a network that has learnt to see, as its authors calibrated it (AlexNet).

Source: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018. Their package
and torchmetrics fetch AlexNet at the first use and need torchvision; here its five convolutions ship, in half
precision. ``python -m v4s_lib.evaluation.lpips ALEXNET LINEAR`` makes the file from torchvision's and the authors' own.
"""

import argparse
import sys
from functools import lru_cache
from pathlib import Path

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, normalize, relu

from v4s_lib.command import command
from v4s_lib.data.manifests import MANIFESTS, shipped_folder
from v4s_lib.model.weights import check_keys

BACKBONE = "AlexNet, as its authors calibrated it, version 0.1"  # of results
FOLDER = MANIFESTS / "weights" / "lpips"
LEAST = 31  # pixels of a side: of fewer nothing is left after two poolings
CHANNELS, KERNELS, PADDING = (3, 64, 192, 384, 256, 256), (11, 5, 3, 3, 3), (2, 2, 1, 1, 1)
POOLED = (1, 2)  # layers that see their input halved
IN_TORCHVISION = (0, 3, 6, 8, 10)  # numbers of the convolutions among AlexNet's ``features``
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of colours in -1..1


class Lpips(ModelMixin, ConfigMixin):
    """Two stacks of pictures (N, H, W, 3) in 0..1 to a distance (N,) of each pair, 0 for equal ones.

    Pictures are seen at their own size; distances at two sizes are two measures. Of 32x48 pixels the last three layers
    see 1x2 places, mostly of the border.
    """

    @register_to_config
    def __init__(self) -> None:
        super().__init__()
        shapes = zip(CHANNELS[:-1], CHANNELS[1:], KERNELS, PADDING, strict=True)
        self.layers = nn.ModuleList(
            nn.Conv2d(given, made, size, stride=4 if size == KERNELS[0] else 1, padding=padding)
            for given, made, size, padding in shapes
        )
        self.importance = nn.ParameterList(nn.Parameter(torch.ones(channels)) for channels in CHANNELS[1:])

    def see(self, pictures: Tensor) -> list[Tensor]:
        """What each layer sees: directions (N, C, h, w) in the space of its channels."""
        shift, scale = (pictures.new_tensor(value)[:, None, None] for value in (SHIFT, SCALE))
        seen, found = (pictures.permute(0, 3, 1, 2) * 2 - 1 - shift) / scale, []
        for number, layer in enumerate(self.layers):
            seen = relu(layer(max_pool2d(seen, 3, 2) if number in POOLED else seen))
            found.append(normalize(seen, dim=1, eps=1e-10))
        return found

    @torch.no_grad()
    def forward(self, pictures: Tensor, others: Tensor) -> Tensor:
        if pictures.shape != others.shape or pictures.ndim != 4 or pictures.shape[-1] != 3:
            raise ValueError(
                f"expected two stacks of pictures (N, H, W, 3), got {tuple(pictures.shape)} and "
                f"{tuple(others.shape)}: pass as many of one size"
            )
        if not (pictures.is_floating_point() and others.is_floating_point()):
            raise ValueError(f"expected values in 0..1, got {pictures.dtype} and {others.dtype}: divide bytes by 255")
        if min(pictures.shape[1:3]) < LEAST:
            raise ValueError(
                f"expected pictures of {LEAST} pixels or more a side, got {tuple(pictures.shape[1:3])}: enlarge "
                "them, and say so"
            )
        like = self.layers[0].weight
        pairs = zip(self.importance, self.see(pictures.to(like)), self.see(others.to(like)), strict=True)
        return sum((weight @ (one - other).square().flatten(2)).mean(dim=1) for weight, one, other in pairs)


@lru_cache(maxsize=1)
def load_lpips() -> Lpips:
    """The network that ships with the kit, its files checked, in float32."""
    model, info = Lpips.from_pretrained(
        shipped_folder("weights_lpips", "weights/lpips"),
        torch_dtype=torch.float32,
        use_safetensors=True,
        output_loading_info=True,
    )
    check_keys(FOLDER, info["missing_keys"], info["unexpected_keys"])
    return model.eval()


def convert(alexnet: Path, linear: Path) -> Lpips:
    """The network from torchvision's AlexNet and the authors' calibration, two files of PyTorch weights."""
    seen, weights = (torch.load(file, map_location="cpu", weights_only=True) for file in (alexnet, linear))
    state = {}
    for number, place in enumerate(IN_TORCHVISION):
        for kind in ("weight", "bias"):
            state[f"layers.{number}.{kind}"] = _taken(seen, f"features.{place}.{kind}", alexnet)
        state[f"importance.{number}"] = _taken(weights, f"lin{number}.model.1.weight", linear).flatten()
    model = Lpips()
    model.load_state_dict(state)
    return model.half()


def _taken(weights: dict[str, Tensor], name: str, file: Path) -> Tensor:
    if name not in weights:
        raise ValueError(
            f"expected {name!r} in {file}, got other weights: give torchvision's AlexNet first, then LPIPS's alex.pth"
        )
    return weights[name]


@command("run the same command again")
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m v4s_lib.evaluation.lpips", description=__doc__)
    parser.add_argument("alexnet", type=Path, help="torchvision's alexnet-owt-7be5be79.pth")
    parser.add_argument("linear", type=Path, help="lpips/weights/v0.1/alex.pth of the authors' repository")
    parser.add_argument("--out", type=Path, default=FOLDER, help=f"folder (default: {FOLDER})")
    args = parser.parse_args(arguments)
    convert(args.alexnet, args.linear).save_pretrained(args.out)
    print(f"wrote {args.out}: where it is to ship, renew the hashes in weights_lpips.yaml")


if __name__ == "__main__":
    sys.exit(main())
