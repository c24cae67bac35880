"""From a preset's name to a pipeline that samples, with verified weights; and weights to train on from."""

import json
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from v4s_lib.data.manifests import MANIFESTS, shipped_folder
from v4s_lib.model.box_drawer import BoxDrawer, load_box_drawer
from v4s_lib.model.codec import PatchCodec
from v4s_lib.model.pipeline import Video4SpatialPipeline
from v4s_lib.model.transformer import ContextVideoTransformer
from v4s_lib.model.weights import check_keys
from v4s_lib.training.presets import Preset, get_preset


def make_pipeline(
    transformer: ContextVideoTransformer, preset: Preset, box_drawer: BoxDrawer | None = None
) -> Video4SpatialPipeline:
    """A pipeline around a transformer, with all that the preset says of sampling."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=preset.shift)
    codec = PatchCodec(preset.patch_size)
    config = {"gap": preset.task.gap, "least_shared": preset.least_shared, "contiguous": preset.task.contiguous}
    config |= {"box_drawer": box_drawer, "tail_latents": preset.task.tail_latents}
    config |= {"longest_scan": preset.task.scan_latents[1], "inference_steps": preset.inference_steps}
    pipeline = Video4SpatialPipeline(transformer.eval(), codec, scheduler, **config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def load_pipeline(preset: str | Preset, weights: Path | None = None, variant: str = "ours") -> Video4SpatialPipeline:
    """The pipeline of a preset with shipped weights, or with those in the folder ``weights``.

    ``smoke`` ships none: it gets untrained weights from seed 0, which show nothing but that the code runs.
    ``variant`` is "ours" or "first_frame_only". Shipped files are checked against their manifest, ``weights_PRESET``: a
    missing file or a flipped byte raises one sentence.
    """
    preset = get_preset(preset) if isinstance(preset, str) else preset
    if weights is None and preset.name == "smoke":
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return make_pipeline(ContextVideoTransformer(**preset.model), preset)
    if weights is None and not (MANIFESTS / f"weights_{preset.name}.yaml").is_file():
        raise FileNotFoundError(
            f"expected shipped weights of preset {preset.name}, got none: train it with python -m v4s_lib.training "
            f"--preset {preset.name} and name the folder of its weights"
        )
    drawer = None
    if weights is None:
        weights = shipped_folder(f"weights_{preset.name}", f"weights/{preset.name}/{variant}")
        drawer = shipped_box_drawer(preset.name) if variant == "ours" else None
    if not (Path(weights) / "config.json").is_file():
        raise FileNotFoundError(f"expected a trained transformer in {weights}, got no config.json: train one first")
    return make_pipeline(ContextVideoTransformer.from_pretrained(weights), preset, drawer)


def shipped_box_drawer(preset: str) -> BoxDrawer | None:
    """What was taught to draw boxes for a preset's shipped weights, checked; None where there is none."""
    name = f"weights_{preset}_box_drawer"
    if not (MANIFESTS / f"{name}.yaml").is_file():
        return None
    return load_box_drawer(shipped_folder(name, f"weights/{preset}/box_drawer"))


POSES = "pose_adapter."  # the beginning of its weights' names
# What the steps that teach to locate teach; all else draws.
LOCATES = ("sight.", "finder.see.", "finder.nothing", "finder.attend.", "finder.query.", "word_embedding.")
DIFFER = ("pose_encoding",)  # may differ: another encoding of the path has its own adapter
# What may differ where drawing is learnt anew: none of their weights are taken.
DIFFER_ANEW = ("context_attention", "context_blocks", "pose_blocks", "spatial_only_context", "paint")
# What a model can learn when it knows all else.
LATER = ("text_dim", "vocabulary", "find_words", "paint", "context_compression", "task_adapters")


def initial_model(preset: Preset, weights: dict[str, Tensor]) -> ContextVideoTransformer:
    """The preset's model with ``initial_weights``; what they leave out is random."""
    model = ContextVideoTransformer(**preset.model)
    check_keys("the initial weights", (), model.load_state_dict(weights, strict=False).unexpected_keys)
    return model


def initial_weights(preset: Preset, folder: Path) -> dict[str, Tensor]:
    """Trained weights to start from; they must be of the preset's model, but for parts that it learns later.

    A pose adapter for another encoding of the path starts anew; with ``preset.draw_anew`` all that draws does.
    """
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"expected a trained transformer in {folder}, got no config.json: train one first")
    donor = ContextVideoTransformer.from_pretrained(folder)
    wanted = json.loads(json.dumps(preset.model))  # tuples come back from a config as lists
    grown = [name for name in LATER if wanted.get(name) and not donor.config.get(name)]
    differ = (*grown, *DIFFER, *(DIFFER_ANEW if preset.draw_anew else ()))
    same = {name: value for name, value in wanted.items() if name not in differ}
    differing = [name for name, value in same.items() if donor.config[name] not in (value, preset.model[name])]
    if differing:
        raise ValueError(
            f"expected in {folder} a model with the {', '.join(differing)} of preset {preset.name}, got another: "
            "start from another model or change the preset"
        )
    kept = donor.state_dict()
    if preset.draw_anew:
        return {name: value for name, value in kept.items() if name.startswith(LOCATES)}
    anew = () if wanted["pose_encoding"] == donor.config.pose_encoding else (POSES,)
    return {name: value for name, value in kept.items() if not name.startswith(anew)}
