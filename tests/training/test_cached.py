"""A latent cache that is damaged, of another kind, or asked for what it has not, is refused; so is bad input to it."""

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.training.tiny_scans import content, encode, flip
from v4s_lib.training.cached import INDEX, LATENTS, CachedLatents
from v4s_lib.training.latents import encode_scans, main


def test_a_reader_goes_to_another_process(episodes, tmp_path):
    cache = encode(episodes, tmp_path)
    first = cache.latents("a")
    assert torch.equal(pickle.loads(pickle.dumps(cache)).latents("a"), first)


def test_a_flipped_byte_is_refused_and_encoded_again(episodes, tmp_path):
    latents = encode(episodes, tmp_path).latents("c")
    for place in (-1, 20, 5000):
        flip(tmp_path / "shard-00001" / LATENTS, place)
        cache = CachedLatents(tmp_path)
        assert cache.latents("a").isfinite().all()  # its shard is whole
        with pytest.raises(ValueError, match=r"^expected \d+ bytes with sha256 .*shard-00001.*, got .*: encode it"):
            cache.latents("c")
        assert torch.equal(encode(episodes, tmp_path).latents("c"), latents)
    (tmp_path / "shard-00001" / LATENTS).unlink()
    with pytest.raises(ValueError, match=r"shard-00001.*, got nothing there: encode it again with python -m"):
        CachedLatents(tmp_path).latents("c")


DIFFERENT = {
    "codec": ({"codec": "AutoencoderKLWan"}, "codec AutoencoderKLWan", "codec PatchCodec"),
    "config": ({"codec_config": "0" * 64}, f"codec_config {'0' * 16}", "codec_config "),
    "weights": ({"codec_weights": "0" * 64}, f"codec_weights {'0' * 16}", "codec_weights "),
    "dtype": ({"dtype": "float16"}, "dtype float16", "dtype float32"),
    "size": ({"height": 64, "width": 96}, "height 64, width 96", "height 32, width 48"),
    "stride": ({"stride": 3}, "stride 3", "stride 1"),
    "preprocessing": ({"preprocessing": "0: none"}, "preprocessing 0: none", "preprocessing 4: "),
    "text": ({"text_encoder": "0" * 64, "text_tokens": 7}, f"text_encoder {'0' * 16}, text_tokens 7", "text_encoder N"),
}


def test_a_cache_of_another_kind_is_refused_naming_what_differs(episodes, tmp_path):
    stamp = encode(episodes, tmp_path).stamp
    before = content(tmp_path)
    for changes, wanted, got in DIFFERENT.values():
        message = rf"^expected latents with {wanted} in .*, got {got}.*: encode the scans into another folder, or ask"
        with pytest.raises(ValueError, match=message):
            CachedLatents(tmp_path, replace(stamp, **changes))
        with pytest.raises(ValueError, match=message):
            encode_scans(episodes, tmp_path, "patch:8", replace(stamp, **changes))
    assert content(tmp_path) == before


def test_a_cache_of_an_older_version_is_refused_by_every_reader(episodes, tmp_path):
    encode(episodes, tmp_path)
    index = json.loads((tmp_path / INDEX).read_text())
    index["stamp"]["preprocessing"] = "1: middle cut out"
    (tmp_path / INDEX).write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"^expected latents with preprocessing 4: starts; .*, got preprocessing 1: "):
        CachedLatents(tmp_path)


def test_a_reader_that_asks_for_no_text_takes_a_cache_that_has_some(episodes, wan, tmp_path):
    encode(episodes, tmp_path, **{"text-encoder": wan, "text-tokens": 12})
    assert CachedLatents(tmp_path).stamp.text_tokens == 12


def test_latents_that_are_not_there_are_refused(episodes, tmp_path):
    cache = encode(episodes / "a", tmp_path)  # one episode alone
    assert cache.names == ["a"]
    with pytest.raises(ValueError, match=r"^expected a scan of the 1 in .*, got 'b': see names$"):
        cache.latents("b")
    for indices, got in (([4], "4"), ([-1], "-1"), ([], "none")):
        with pytest.raises(ValueError, match=rf"^expected latents from 0 to 3 of a, got {got}: ask for some that it"):
            cache.latents("a", indices)


def write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


BAD: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "size": (lambda _: ["--height", "30"], "expected height and width to be multiples of the codec's 8 pixels, got 30"),
    "dtype": (lambda _: ["--dtype", "int8"], "expected a dtype out of float32, bfloat16, float16, got int8: choose"),
    "stride": (lambda _: ["--stride", "0"], "expected stride and text tokens from 1, got 0 and None: choose others"),
    "workers": (lambda _: ["--workers", "0"], "expected scans a shard and workers from 1, got 2 and 0: choose others"),
    "device": (lambda _: ["--device", "tpu"], "expected a device that this machine has, got tpu: choose cpu"),
    "codec": (lambda _: ["--codec", "nowhere"], "expected a codec in nowhere, got no config.json: give its folder"),
    "text": (lambda _: ["--text-encoder", "nowhere"], "expected text_encoder and tokenizer in nowhere, got no text"),
    "scan": (
        lambda tmp: ["--instructions", write(tmp / "said.json", '{"d": ["go"]}')],
        "expected instructions for scans in ",
    ),
    "not sentences": (
        lambda tmp: ["--instructions", write(tmp / "said.json", '{"a": "go"}')],
        'expected {"scan": ["sentence", ...]} in ',
    ),
    "not JSON": (lambda tmp: ["--instructions", write(tmp / "said.json", "{")], "expected JSON in "),
    "a folder of something else": (
        lambda tmp: ["--out", str(Path(write(tmp / "mine" / "letter.txt", "dear")).parent)],
        "expected a latent cache or an empty folder at ",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_in_one_sentence(episodes, tmp_path, capsys, name):
    flags, sentence = BAD[name]
    usual = ["--out", str(tmp_path / "out"), "--codec", "patch:8", "--height", "32", "--width", "48"]
    assert main([str(episodes), *usual, "--scans-a-shard", "2", *flags(tmp_path)]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith(sentence) and "\n" not in said
    assert not (tmp_path / "out" / INDEX).exists()


def test_folders_without_episodes_are_refused(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "no_video" / "scan").mkdir(parents=True)
    sentences = {
        "none": "expected a folder of ep",
        "empty": "expected episodes in ",
        "no_video": "expected a scan that can be encoded, got none of 1, scan because of this (expected a video in ",
    }
    for name, sentence in sentences.items():
        flags = ["--out", str(tmp_path / "out"), "--codec", "patch:8"]
        assert main([str(tmp_path / name), *flags]) == 2
        assert capsys.readouterr().err.startswith(sentence)
