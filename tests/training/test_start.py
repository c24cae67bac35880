"""A run starts from the weights that it is given, if they are of the scale's model, and of no other."""

from dataclasses import replace

import pytest
import torch
from diffusers import WanTransformer3DModel

from tests.training.tiny_cache import SCALE
from v4s_lib.training.start import starting_model

SIZES = {name: value for name, value in SCALE.model.items() if name != "pose_encoding"}


def test_from_wans_weights_with_new_parts_at_zero(tmp_path):
    stock = WanTransformer3DModel(**SIZES)
    stock.save_pretrained(tmp_path)
    model = starting_model(SCALE, "one_way", tmp_path)
    assert model.config.context_attention == "one_way"
    weights = model.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in stock.state_dict().items())
    new = weights.keys() - stock.state_dict().keys()
    assert "role_embedding" in new and not any(weights[name].any() for name in new)


def test_from_our_own_weights(tmp_path):
    torch.manual_seed(1)
    first = starting_model(SCALE, "two_way", None)
    first.save_pretrained(tmp_path)
    again = starting_model(SCALE, "two_way", tmp_path).state_dict()
    assert all(torch.equal(again[name], value) for name, value in first.state_dict().items())
    with pytest.raises(ValueError, match="^expected in .* a model with the context_attention of scale cached, got"):
        starting_model(SCALE, "one_way", tmp_path)


def test_another_scales_weights_are_refused(tmp_path):
    WanTransformer3DModel(**SIZES | {"num_layers": 2, "ffn_dim": 100}).save_pretrained(tmp_path)
    message = "a model with the ffn_dim, num_layers of scale cached, got another: start from another model or choose"
    with pytest.raises(ValueError, match=message):
        starting_model(SCALE, "two_way", tmp_path)
    own = replace(SCALE, model=SCALE.model | {"num_layers": 2, "ffn_dim": 100})
    assert starting_model(own, "two_way", tmp_path).config.num_layers == 2
