"""Samples that end on an object: the whole target, still in its tail, and mostly by words alone."""

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from tests.training.tiny_scans import encode
from tests.training.tiny_targets import BOXED, SCANS, TAIL, boxed_of, write_cache, write_curated
from v4s_lib.data.curation import load_windows
from v4s_lib.data.curation_windows import Window as Curated
from v4s_lib.data.instructions import NAVIGATION
from v4s_lib.training.cached import CachedLatents
from v4s_lib.training.windows import CachedWindows, Window

KEPT = replace(BOXED, drop_all=0.0, drop_instruction=0.0)


@pytest.fixture(scope="module")
def windows(tmp_path_factory) -> Path:
    return write_curated(tmp_path_factory.mktemp("windows"))


@pytest.fixture(scope="module")
def cache(windows, tmp_path_factory) -> CachedLatents:
    return write_cache(tmp_path_factory.mktemp("cache"), windows)


def is_boxed(window: Window) -> bool:
    return window.target_latents.shape[2] == 1 + 7 + TAIL


def test_a_target_with_a_box_goes_on_through_its_tail(cache, windows):
    curated = boxed_of(windows)
    drawn = CachedWindows(cache, replace(KEPT, path_too=1.0), 0, [curated])
    c2w = cache.c2w(curated.scan)
    for step in range(20):
        window = drawn.batch(step, [0])
        assert torch.equal(window.target_latents[0], cache.target_latents(curated.scan, curated.first))
        offset = int(window.target_time_index[0, 0]) - curated.first
        assert window.target_time_index.tolist() == [[offset + curated.first + place for place in range(10)]]
        context = window.context_time_index[0] - offset
        assert torch.equal(window.context_latents[0], cache.latents(curated.scan, context))
        assert ((context < curated.first - 4) | (context >= curated.first + 8 + 4)).all()
        assert window.noise.shape == window.target_latents[:, :, 1:].shape
        assert torch.equal(window.encoder_hidden_states[0], cache.text(curated.instruction))
        path = window.camera_path[0]
        assert path.shape == (10, 4, 4, 4) and torch.equal(path[8:], path[7, 3].expand(TAIL, 4, 4, 4))
        expected = c2w[curated.first, 3].inverse() @ c2w[curated.first + 7, 3]
        torch.testing.assert_close(path[7, 3], expected, atol=1e-5, rtol=0)
        assert not torch.allclose(path[6, 3], path[7, 3], atol=1e-3)


def test_a_path_is_told_for_a_quarter_of_the_targets_with_a_box_and_for_all_others(cache, windows):
    drawn, told = CachedWindows(cache, KEPT, 0, load_windows(windows)), {True: [], False: []}
    for step in range(150):
        window = drawn.batch(step, range(4))
        told[is_boxed(window)] += window.camera_mask.tolist()
        said = (window.encoder_hidden_states == cache.text(NAVIGATION)).all(dim=(1, 2)).tolist()
        assert said == [not is_boxed(window)] * 4  # words are there in either case
    assert all(told[False]) and abs(sum(told[True]) / len(told[True]) - 0.25) < 0.08


@pytest.mark.parametrize("share", [0.5, 0.2])
def test_the_targets_of_a_step_are_of_one_kind_and_so_many_end_on_an_object(share, cache, windows):
    curated = load_windows(windows)
    drawn = CachedWindows(cache, replace(KEPT, grounding=share), 0, curated)
    boxed = [is_boxed(drawn.batch(step, [0])) for step in range(300)]
    assert all(is_boxed(drawn.batch(step, [number])) == boxed[step] for step in range(20) for number in (1, 2, 3))
    assert abs(sum(boxed) / 300 - share) < 0.1
    for kind in (True, False):  # where curation left one kind alone, every target is of it
        alone = CachedWindows(cache, KEPT, 0, [window for window in curated if (window.box is not None) == kind])
        assert all(is_boxed(alone.batch(step, [0])) == kind for step in range(6))


def test_seed_step_and_number_decide_a_sample_of_either_kind(cache, windows):
    first, again = (CachedWindows(cache, BOXED, 0, load_windows(windows)) for _ in range(2))
    kinds = set()
    for step in range(12):
        whole, halves = first.batch(step, range(4)), [again.batch(step, [2, 3]), again.batch(step, [0, 1])]
        kinds.add(is_boxed(whole))
        for field in fields(Window):
            parts = torch.cat([getattr(half, field.name) for half in reversed(halves)])
            assert torch.equal(getattr(whole, field.name), parts), field.name
    assert kinds == {True, False}


def test_a_tail_keeps_to_the_range_of_time_indices_where_the_scan_fills_it(cache, windows):
    curated, last = boxed_of(windows), set()
    assert cache.length(curated.scan) == 24 < curated.first + 8 + TAIL  # its tail goes on behind the scan
    drawn = CachedWindows(cache, replace(KEPT, model=BOXED.model | {"rope_max_seq_len": 24}), 0, [curated])
    for step in range(20):
        window = drawn.batch(step, [0])
        last.add(int(window.target_time_index.max()))
        assert 0 <= window.context_time_index.min() and window.context_time_index.max() < 22
    assert last == {22, 23}


def test_targets_that_were_not_encoded_or_otherwise_are_refused(cache, windows, tmp_path):
    window = boxed_of(windows)
    place = f"of {window.scan} from latent {window.first} on in .*"
    plain = encode(SCANS, tmp_path, **{"text-encoder": cache.folder.parent / "text", "text-tokens": 32})
    asked = rf"^expected a whole target with {{'length': 8, 'tail': 2, 'box': .*}} {place}, got none: encode with "
    with pytest.raises(ValueError, match=asked + "--windows and --tail 2$"):
        CachedWindows(plain, KEPT, 0, [window])
    longer = replace(KEPT, tail_latents=3)
    with pytest.raises(ValueError, match=rf"'tail': 3, .* {place}, got {{'length': 8, 'tail': 2, .*--tail 3$"):
        CachedWindows(cache, longer, 0, [window])
    with pytest.raises(ValueError, match=rf"'box': \[0, 1, 2, 3\]}} {place}, got .*'box': .*: encode with --windows"):
        CachedWindows(cache, KEPT, 0, [replace(window, box=(0, 1, 2, 3))])


def test_a_scale_without_a_tail_takes_the_scans_own_latents_and_tells_the_path_as_seldom(cache, windows):
    curated: Curated = boxed_of(windows)
    drawn = CachedWindows(cache, replace(KEPT, tail_latents=0), 0, [curated])
    several = [drawn.batch(step, range(4)) for step in range(60)]
    moving = cache.latents(curated.scan, range(curated.first + 1, curated.first + 8))
    assert all(torch.equal(window.target_latents[number, :, 1:], moving) for window in several for number in range(4))
    assert abs(sum(int(window.camera_mask.sum()) for window in several) / 240 - 0.25) < 0.1
