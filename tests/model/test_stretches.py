"""Contexts of scans longer than any of training: where their frames stand, and what is looked at in stretches."""

import pytest
import torch

from v4s_lib.data.windows import grouped_frames, sample_context
from v4s_lib.data.worlds import world_episode
from v4s_lib.model.context import stretches
from v4s_lib.model.encoding import encode_frames
from v4s_lib.training.presets import SMALL
from v4s_lib.training.weights import load_pipeline
from v4s_lib.worlds.cameras import inverse, rotation_angle, translation_distance

LONGEST = SMALL.task.scan_latents[1]


def index(*latents: int) -> torch.Tensor:
    return torch.tensor([latents])


def test_a_short_context_is_one_stretch():
    assert stretches(torch.arange(26)[None], 26) == [slice(0, 26)]
    assert stretches(index(7), 26) == [slice(0, 1)]


def test_a_longer_one_is_cut_from_its_end():
    assert stretches(torch.arange(10)[None], 4) == [slice(*ends) for ends in ((6, 10), (2, 6), (0, 2))]


def test_latents_that_stand_farther_apart_than_a_stretch_are_one_each():
    assert stretches(index(0, 50, 100), 26) == [slice(2, 3), slice(1, 2), slice(0, 1)]


def test_every_row_of_a_batch_keeps_to_the_span():
    both = torch.tensor([[0, 1, 2, 9], [0, 7, 8, 9]])
    assert stretches(both, 4)[0] == slice(3, 4)  # the first row's latent 2 is too far away
    assert stretches(both[1:], 4)[0] == slice(1, 4)


@pytest.fixture(scope="module")
def pipeline():
    return load_pipeline(SMALL)


@pytest.fixture(scope="module")
def scan(pipeline):
    """52 of the 60 latents of a validation room's scan, their indices, and where their last frames stand."""
    episode = world_episode("rooms", "validation", 0, SMALL.task, 60)
    chosen = sample_context(60, 52, torch.Generator().manual_seed(0))
    latents = encode_frames(pipeline.codec, episode.scan.rgb[None], "cpu")[:, :, chosen]
    true = episode.scan_c2w[grouped_frames(chosen)[:, -1]]
    return latents, chosen[None], inverse(true[-1:]) @ true


@torch.no_grad()
@pytest.mark.parametrize("every", [1, 4])
def test_sight_places_the_frames_of_a_long_scan_however_few(pipeline, scan, every):
    """No clock is read, and no guess of the localizer's: 52 and 13 of 60 latents."""
    latents, chosen, true = scan
    some = slice(len(true) - 1 - every * ((len(true) - 1) // every), None, every)  # the last one among them
    cache = pipeline.transformer.encode_context(latents[:, :, some], chosen[:, some], longest=LONGEST)
    placed = cache.frames.c2w[0]
    assert rotation_angle(placed, true[some]).median() < 3
    assert translation_distance(placed, true[some]).median() < 0.15


@torch.no_grad()
def test_a_short_context_comes_out_the_same(pipeline, scan):
    latents, chosen = scan[0][:, :, -10:], scan[1][:, -10:]
    long, plain = (pipeline.transformer.encode_context(latents, chosen, longest=longest) for longest in (LONGEST, None))
    assert torch.equal(long.frames.c2w, plain.frames.c2w)
    assert all(
        torch.equal(a, b)
        for one, other in zip(long.blocks, plain.blocks, strict=True)
        for a, b in zip(one, other, strict=True)
    )


@torch.no_grad()
def test_targets_meet_every_latent_where_places_are_known_and_the_newest_stretch_before(pipeline, scan):
    latents, chosen, _ = scan
    cache = pipeline.transformer.encode_context(latents, chosen, longest=LONGEST)
    tokens = latents.shape[3] * latents.shape[4]
    newest = stretches(chosen, LONGEST)[0]
    before = SMALL.model["localize_after"]
    seen = [keys.shape[2] // tokens for keys, _ in cache.blocks]
    assert seen == [newest.stop - newest.start] * before + [52] * (len(seen) - before)
