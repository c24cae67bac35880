"""The memory of sampling: parts from first principles, and sums against the allocations of real runs on the CPU."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan
from torch import nn
from torch.profiler import ProfilerActivity, profile
from transformers import UMT5Config, UMT5EncoderModel

from v4s_lib.model.transformer import ContextVideoTransformer
from v4s_lib.training import costs
from v4s_lib.training.full import FULL, TINY, WAN_AUTOENCODER
from v4s_lib.training.memory import Alive, peak_bytes
from v4s_lib.training.plan import GPUS
from v4s_lib.training.sampling_plan import (
    SCAN,
    UMT5_XXL,
    Needs,
    cache_bytes,
    decode,
    denoise,
    encode,
    in_bf16,
    main,
    make_needs,
    read,
    rows_of,
)

ROOT = Path(__file__).resolve().parents[2]
WITHIN = {"rel": 0.1}
WAYS = pytest.mark.parametrize("way", ["two_way", "one_way"])
LONG = replace(TINY, moving_latents=14, guidance_scale=5.0)  # 16 latents
# The form of the real ones, for TINY's latents: 8 channels, 16 x 16 pixels of four frames each.
AUTOENCODER = WAN_AUTOENCODER | {"base_dim": 8, "decoder_base_dim": 16, "z_dim": 8, "num_res_blocks": 1}
TEXT = UMT5_XXL | {"vocab_size": 50, "d_model": 16, "d_kv": 8, "d_ff": 40, "num_layers": 3, "num_heads": 2}


def codec(device: str) -> AutoencoderKLWan:
    with torch.device(device):
        return AutoencoderKLWan(**AUTOENCODER, latents_mean=[0.0] * 8, latents_std=[1.0] * 8)


def transformer(device: str, way: str = "two_way") -> ContextVideoTransformer:
    with torch.device(device):
        return ContextVideoTransformer(**TINY.model, context_attention=way)


def encoder(device: str) -> UMT5EncoderModel:
    with torch.device(device):
        return UMT5EncoderModel(UMT5Config(**TEXT)).eval()


@torch.no_grad()
def allocated(run: Callable[[], Any]) -> int:
    """The most that PyTorch's CPU allocator has given out at once for a run, bytes: its own record of every event."""
    run()  # once before, so that what is made once and kept is there
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


def planned(model: nn.Module, run: Callable[..., Any], *given: object) -> int:
    return peak_bytes(model, lambda: run(model, *given))


@WAYS
def test_a_step_needs_what_is_allocated(way):
    model = transformer("cpu", way)
    assert planned(transformer("meta", way), denoise, TINY) == pytest.approx(
        allocated(lambda: denoise(model, TINY)), **WITHIN
    )


def test_reading_needs_what_is_allocated():
    model = encoder("cpu")
    assert planned(encoder("meta"), read, 64) == pytest.approx(allocated(lambda: read(model, 64)), **WITHIN)


def test_the_autoencoder_needs_what_a_real_run_makes():
    """Counted on real tensors: the CPU's convolutions allocate copies of their inputs besides, which a GPU does not."""
    model = codec("cpu")
    frames = 17 * TINY.height * TINY.width * 3 * 4  # bytes of the scan, which waits on the CPU
    for run, count, waiting in ((encode, 17, frames), (decode, 4, 0)):
        with torch.no_grad(), Alive(model, "cpu") as alive:
            run(model, TINY, count)
        assert planned(codec("meta"), run, TINY, count) + waiting == pytest.approx(alive.most, rel=0.01)


def test_parameters_of_the_text_encoder_from_first_principles():
    """Per layer four matrices of attention, three of the gated feed-forward, two norms, 32 distances for 64 heads."""
    layer = 4 * 4096 * 64 * 64 + 3 * 4096 * 10240 + 2 * 4096 + 32 * 64
    expected = 256384 * 4096 + 24 * layer + 4096
    with torch.device("meta"):
        model = UMT5EncoderModel(UMT5Config(**UMT5_XXL))
    assert expected == sum(value.numel() for value in model.parameters()) == 5_680_910_336


@pytest.fixture(scope="module")
def both() -> dict[str, Needs]:
    """At full scale, as the command has it by itself."""
    return make_needs(FULL, SCAN, WAN_AUTOENCODER, UMT5_XXL)


def test_what_a_video_at_full_scale_needs(both):
    cache = 84 * 104 * 30 * 2 * 3072 * 2  # latents, tokens, blocks, keys and values, width, bytes
    for way, needs in both.items():
        job = costs.job_of(FULL, way)
        assert needs.parameters["transformer"] == sum(costs.parameters(job)) and cache_bytes(job) == cache
        assert needs.weights["text encoder"] == 2 * 5_680_910_336
        assert needs.weights["autoencoder"] == 4 * needs.parameters["autoencoder"]
        assert needs.tiled["decode"] < 0.8 * needs.moments["decode"]
        assert needs.most(False, False)[0] > needs.total > needs.most(True, False)[0] >= needs.most(True, True)[0]
    assert (both["two_way"].caches, both["one_way"].caches) == (0, 2 * cache)
    # At its widest a step holds the feed-forward's 14336 values a token, in bf16, before and after its GELU.
    widest = both["two_way"].moments["denoise"], both["one_way"].moments["denoise"] - 2 * cache
    for size, latents in zip(widest, (84 + 46, 84), strict=True):
        assert 1 < size / (latents * 104 * 14336 * 2 * 2) < 2.5


def test_the_document_says_what_the_plan_says(both):
    two_way = both["two_way"]
    whole, offloaded = (two_way.most(offloading, False)[0] / 1e9 for offloading in (False, True))
    text = " ".join((ROOT / "docs" / "full_scale.md").read_text(encoding="utf-8").split())
    assert f"at full size: {whole:.0f} GB in all, {offloaded:.0f} GB with offloading (two-way attention)." in text


@pytest.fixture(scope="module")
def needs() -> dict[str, Needs]:
    return make_needs(LONG, 41, AUTOENCODER, TEXT)


def test_what_grows_with_a_video_grows_evenly(needs):
    """The line through two short scans is where longer ones are; in the end three copies of the video are most."""
    model = codec("meta")
    assert needs["two_way"].moments["encode"] == pytest.approx(planned(model, encode, LONG, 41), rel=0.01)
    assert needs["two_way"].moments["decode"] == pytest.approx(planned(model, decode, LONG, 16), rel=0.01)


def test_guidance_needs_a_second_cache_and_offloading_one_model_at_a_time(needs):
    guided, cache = needs["one_way"], cache_bytes(costs.job_of(LONG, "one_way"))
    alone = planned(in_bf16(transformer("meta", "one_way")), denoise, LONG)
    assert guided.caches == 2 * cache and guided.moments["denoise"] == alone + cache
    rows = rows_of(guided, GPUS["rtx4090"].memory)
    assert rows["in all"].endswith("(fits)") and rows["in all, with offloading and tiling"].endswith("(fits)")
    assert rows_of(guided, 1.0)["in all, with offloading"].endswith("(does not fit)")
    weights = {"text encoder": 11, "transformer": 10, "autoencoder": 3}
    simple = Needs({}, weights, 0, {"encode": 1, "read": 2, "denoise": 4, "decode": 9}, {"decode": 5, "encode": 1})
    assert simple.most(False, False) == (24 + 9, "decode") and simple.most(True, False) == (10 + 4, "denoise")
    assert simple.most(False, True) == (24 + 5, "decode") and simple.most(True, True) == (8, "decode")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--gpu", "abacus"], "expected a GPU out of .*, got 'abacus': choose the one nearest to yours"),
        (["--context-frames", "336"], r"expected 4k\+1 context frames, 333 or more, got 336: give a scan of that .*"),
        (["--context-frames", "101"], r"expected 4k\+1 context frames, 333 or more, got 101: give a scan of that .*"),
    ],
)
def test_bad_input_gives_one_sentence(arguments, sentence, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and re.fullmatch(sentence, error.strip())
