"""Both codecs through one door: their own latents, and refusals where latents would be wrong in silence."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.model.tiny_wan import TINY_AUTOENCODER, tiny_wan
from v4s_lib.model.codec import PatchCodec
from v4s_lib.model.encoding import config_digest, decode_latents, encode_frames, encode_video, latent_shape, load_codec
from v4s_lib.model.weights import WEIGHTS, weights_digest


def video(frames: int = 9) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (frames, 32, 48, 3), generator=generator, dtype=torch.uint8)


def test_patches_are_those_of_the_codec():
    codec = load_codec("patch:8")
    assert isinstance(codec, PatchCodec) and latent_shape(codec, 32, 48) == (768, 4, 6)
    latents = encode_video(codec, video())
    assert torch.equal(latents, codec.encode(video()[None] / 255)[0]) and latents.shape == (768, 3, 4, 6)


@pytest.mark.parametrize("residual", [True, False])
def test_wans_latents_are_the_normalised_mode_of_its_posterior(tmp_path, residual):
    plain = {"is_residual": False, "patch_size": None, "in_channels": 3, "out_channels": 3, "scale_factor_spatial": 4}
    stock = tiny_wan(**({} if residual else plain))
    stock.save_pretrained(tmp_path)
    codec = load_codec(tmp_path)
    pixels = (video().permute(3, 0, 1, 2)[None] / 255) * 2 - 1
    with torch.no_grad():
        mode = stock.encode(pixels).latent_dist.mode()
    mean, deviation = (
        torch.tensor(TINY_AUTOENCODER[key]).view(1, 3, 1, 1, 1) for key in ("latents_mean", "latents_std")
    )
    expected = ((mode - mean) / deviation)[0]
    side = 8 if residual else 4
    assert expected.shape == (3, 3, 32 // side, 48 // side)
    assert latent_shape(codec, 32, 48) == (3, 32 // side, 48 // side)
    assert torch.equal(encode_video(codec, video()), expected)
    assert torch.equal(encode_video(codec, video()[:5]), expected[:, :2])  # the past does not hang on the future


def test_what_is_encoded_or_decoded_keeps_no_graph():
    """A graph would hold gigabytes of a clip's activations for as long as its latents are kept."""
    codec = tiny_wan()
    assert any(parameter.requires_grad for parameter in codec.parameters())
    latents = encode_frames(codec, video()[None] / 255, "cpu")
    assert not latents.requires_grad and not decode_latents(codec, latents).requires_grad


def test_a_saved_codec_has_the_digests_of_the_one_that_was_saved(tmp_path):
    stock = tiny_wan()
    stock.save_pretrained(tmp_path, max_shard_size="20KB")
    codec = load_codec(tmp_path)
    assert (config_digest(codec), weights_digest(codec)) == (config_digest(stock), weights_digest(stock))
    other = tiny_wan(latents_std=[0.5, 1.0, 2.5])
    assert config_digest(other) != config_digest(stock) and weights_digest(other) == weights_digest(stock)
    assert weights_digest(tiny_wan(seed=1)) != weights_digest(stock)
    assert config_digest(PatchCodec(8, 2.0)) != config_digest(PatchCodec(8, 3.0))


def test_frames_that_wan_would_drop_in_silence_are_refused():
    for codec in (tiny_wan(), PatchCodec(8)):
        with pytest.raises(ValueError, match=r"^expected 4k\+1 frames, got 8: drop frames at the end$"):
            encode_video(codec, video(8))
        with pytest.raises(ValueError, match=r"multiples of the codec's 8 pixels, got 32x44: choose another size$"):
            encode_video(codec, video()[:, :, :44])


def rename_class(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"_class_name": "AutoencoderKL"}))


def drop_a_key(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    weights.pop("quant_conv.bias")
    save_file(weights, folder / WEIGHTS, {"format": "pt"})


BAD = {
    "no config": (lambda folder: (folder / "config.json").unlink(), r"^expected a codec in .*, got no config.json: "),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), r"^expected diffusion_pytorch_model.* got no such file"),
    "another class": (rename_class, r"^expected a codec out of PatchCodec, AutoencoderKLWan in .*, got AutoencoderKL:"),
    "a key too few": (drop_a_key, r"got missing \['quant_conv.bias'\] and unexpected \[\]: load the weights with"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_folder_that_is_no_whole_codec_is_refused(tmp_path, name):
    tiny_wan().save_pretrained(tmp_path)
    damage, message = BAD[name]
    damage(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_codec(tmp_path)


def test_other_layouts_are_refused(tmp_path):
    tiny_wan(temperal_downsample=[False, True]).save_pretrained(tmp_path / "two")
    with pytest.raises(ValueError, match=r"^expected a codec with 4 frames a latent, got 2: choose another$"):
        load_codec(tmp_path / "two")
    tiny_wan(latents_mean=[0.0]).save_pretrained(tmp_path / "means")
    with pytest.raises(ValueError, match=r"^expected 3 latents_mean and latents_std .*, got 1 and 3: use the config"):
        load_codec(tmp_path / "means")
    for spec in ("patch:", "patch:0", "patch:big"):
        with pytest.raises(ValueError, match=rf"^expected patch: and the side of a patch in pixels, got {spec}: write"):
            load_codec(spec)
