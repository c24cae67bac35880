"""From a preset's name to a pipeline that samples, with verified weights; and weights to train on from."""

import json
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from v4s_lib.data.manifests import shipped_folder
from v4s_lib.model.codec import PatchCodec
from v4s_lib.model.pipeline import Video4SpatialPipeline
from v4s_lib.model.transformer import ContextVideoTransformer
from v4s_lib.training.presets import Preset, get_preset


def make_pipeline(transformer: ContextVideoTransformer, preset: Preset) -> Video4SpatialPipeline:
    """A pipeline around a transformer, with the preset's codec, scheduler and gap."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=preset.shift)
    codec = PatchCodec(preset.patch_size)
    pipeline = Video4SpatialPipeline(transformer.eval(), codec, scheduler, preset.task.gap, preset.least_shared)
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
    if weights is None:
        weights = shipped_folder(f"weights_{preset.name}", f"weights/{preset.name}/{variant}")
    if not (Path(weights) / "config.json").is_file():
        raise FileNotFoundError(f"expected a trained transformer in {weights}, got no config.json: train one first")
    return make_pipeline(ContextVideoTransformer.from_pretrained(weights), preset)


def initial_model(preset: Preset, folder: Path) -> ContextVideoTransformer:
    """Trained weights to start from; they must be of the preset's model."""
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"expected a trained transformer in {folder}, got no config.json: train one first")
    donor = ContextVideoTransformer.from_pretrained(folder)
    wanted = json.loads(json.dumps(preset.model))  # tuples come back from a config as lists
    donated = {name: donor.config.get(name) for name in ("text_dim", "vocabulary", "find_words", "paint")}
    # A model can learn to read and to paint later.
    grown = [name for name, value in donated.items() if wanted.get(name) and not value]
    same = {name: value for name, value in wanted.items() if name not in grown}
    differing = [name for name, value in same.items() if donor.config[name] not in (value, preset.model[name])]
    if differing:
        raise ValueError(
            f"expected in {folder} a model with the {', '.join(differing)} of preset {preset.name}, got another: "
            "start from another model or change the preset"
        )
    model = ContextVideoTransformer(**preset.model)
    model.load_state_dict(donor.state_dict(), strict=not grown)
    return model
