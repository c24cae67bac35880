"""UMT5 and its tokenizer, tiny: our embeddings are those of diffusers' Wan pipeline."""

import shutil
from pathlib import Path

import pytest
import torch
from diffusers import WanPipeline
from transformers import AutoTokenizer, UMT5EncoderModel

from tests.model.tiny_wan import save_text_encoder
from v4s_lib.model.text_encoder import encode_sentences, pad_text, text_digest

SENTENCES = ["", "the camera moves", "the camera moves smoothly in a room"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_text_encoder(tmp_path_factory.mktemp("pipeline"))


def test_embeddings_are_those_of_wans_pipeline(folder):
    encoder = UMT5EncoderModel.from_pretrained(folder / "text_encoder").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    pipeline = WanPipeline(tokenizer, encoder, vae=None, scheduler=None)
    with torch.no_grad():
        expected, _ = pipeline.encode_prompt(SENTENCES, do_classifier_free_guidance=False, max_sequence_length=12)
    embeddings = encode_sentences(folder, SENTENCES, 12)
    assert [len(embeddings[sentence]) for sentence in SENTENCES] == [1, 4, 8]
    ours = torch.stack([pad_text(embeddings[sentence], 12) for sentence in SENTENCES])
    assert expected.shape == (3, 12, 8) and expected.abs().max() > 0.1
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-5)


def test_a_sentence_that_is_too_long_is_refused_where_wan_cuts_it(folder):
    with pytest.raises(ValueError, match=r"^expected at most 7 tokens, got 8 of 'the camera moves smoothly in a room'"):
        encode_sentences(folder, SENTENCES, 7)


def test_the_digest_follows_every_file(folder, tmp_path):
    assert text_digest(folder) == text_digest(folder)
    other = shutil.copytree(folder, tmp_path / "other")
    assert text_digest(other) == text_digest(folder)
    weights = other / "text_encoder" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert text_digest(other) != text_digest(folder)


def test_a_folder_without_an_encoder_is_refused(tmp_path):
    (tmp_path / "text_encoder").mkdir()
    with pytest.raises(FileNotFoundError, match=r"^expected text_encoder and tokenizer in .*, got no tokenizer: give"):
        text_digest(tmp_path)
