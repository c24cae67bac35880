"""Samples out of a cache: what they hold, what is left out of them, and that nothing but seed and step decides."""

from collections.abc import Iterator
from dataclasses import fields, replace

import pytest
import torch

from tests.training.tiny_cache import SCALE, write_cache
from v4s_lib.data.curation_windows import Window as Curated
from v4s_lib.data.episodes import load_episode
from v4s_lib.data.instructions import NAVIGATION
from v4s_lib.model.encoding import encode_frames, encode_video, load_codec
from v4s_lib.model.pose import relative_to_start
from v4s_lib.training.cached import CachedLatents
from v4s_lib.training.full import FullScale
from v4s_lib.training.windows import CachedWindows, Window, velocity_loss

KEPT = replace(SCALE, drop_all=0.0, drop_instruction=0.0)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> CachedLatents:
    return CachedLatents(write_cache(tmp_path_factory.mktemp("cache")))


def samples(cache: CachedLatents, scale: FullScale, count: int, seed: int = 0) -> Iterator[Window]:
    windows = CachedWindows(cache, scale, seed)
    return (windows.batch(step, [number]) for step in range(count // 4) for number in range(4))


def place(cache: CachedLatents, window: Window) -> tuple[str, int]:
    """The scan and the latent that a target starts at, found by what it shows."""
    for name in cache.names:
        same = (cache.start_latents(name).transpose(0, 1) == window.target_latents[0, :, 0]).flatten(1).all(dim=1)
        if same.any():
            return name, int(same.nonzero())
    raise AssertionError("of no scan")


def test_a_sample_is_of_one_scan_and_its_context_keeps_the_gap(cache):
    seen = set()
    for window in samples(cache, KEPT, 60):
        name, start = place(cache, window)
        seen.add(name)
        offset = int(window.target_time_index[0, 0]) - start
        target, context = window.target_time_index[0] - offset, window.context_time_index[0] - offset
        assert target.tolist() == [start, start + 1, start + 2] and len(set(context.tolist())) == 5
        assert torch.equal(window.target_latents[0, :, :1], cache.start_latents(name, [start]))
        assert torch.equal(window.target_latents[0, :, 1:], cache.latents(name, target[1:]))
        assert torch.equal(window.context_latents[0], cache.latents(name, context))
        assert ((context < start - SCALE.gap) | (context >= start + 3 + SCALE.gap)).all()
        assert torch.equal(window.encoder_hidden_states[0], cache.text(NAVIGATION))
        assert window.context_timestep.tolist() == [0] and window.camera_mask.tolist() == [name != "phone"]
        if name != "phone":  # the start frame is the last of the window's first four
            c2w = cache.c2w(name, target)
            frames = torch.cat([c2w[0, 3:], c2w[1], c2w[2]])
            torch.testing.assert_close(window.camera_path, relative_to_start(frames[None]))
            expected = c2w[0, 3].inverse() @ c2w[2, 3]
            torch.testing.assert_close(window.camera_path[0, 2, 3], expected, atol=1e-5, rtol=0)
    assert seen == {"a", "b", "phone"}  # the one that is too short is left out


def test_a_target_is_what_its_frames_give_by_themselves(cache):
    """The start latent is the sampler's: that of the start frame alone. Patches know nothing of the frames before."""
    codec, inside = load_codec("patch:8"), 0
    for window in samples(cache, KEPT, 12):
        name, start = place(cache, window)
        video = load_episode(cache.folder.parent / "episodes" / name).frames[4 * start : 4 * start + 9]
        assert torch.equal(window.target_latents[0], encode_video(codec, video))
        assert torch.equal(window.target_latents[:, :, :1], encode_frames(codec, video[None, :1] / 255, "cpu"))
        inside += not torch.equal(window.target_latents[0, :, :1], cache.latents(name, [start]))
    assert inside > 6  # the scan's own latent holds three frames more; at latent 0 there are none


def test_time_indices_use_the_whole_range(cache):
    indices = [torch.cat([w.target_time_index, w.context_time_index], dim=1) for w in samples(cache, KEPT, 200)]
    lowest, highest = min(i.min() for i in indices), max(i.max() for i in indices)
    assert 0 <= lowest < 40 and 983 < highest <= 1023


def test_of_a_scan_beyond_the_range_a_piece_is_taken(cache):
    scale = replace(KEPT, model=SCALE.model | {"rope_max_seq_len": 13})
    starts = set()
    for window in samples(cache, scale, 240):
        assert max(window.target_time_index.max(), window.context_time_index.max()) <= 12
        name, start = place(cache, window)
        starts.add((name, start))
    assert ("a", 0) in starts and ("a", 13) in starts  # both ends of the scan's 16 latents


def test_text_path_and_context_are_dropped_together_or_the_first_two_alone(cache):
    counts = {"all": 0, "two": 0, "none": 0}
    for window in samples(cache, replace(SCALE, drop_all=0.3, drop_instruction=0.3), 200):
        name, start = place(cache, window)
        context = window.context_time_index[0] - int(window.target_time_index[0, 0]) + start
        is_noise = not torch.equal(window.context_latents[0], cache.latents(name, context))
        is_null = torch.equal(window.encoder_hidden_states[0], cache.text(""))
        assert window.context_timestep.item() == 1000 * is_noise
        assert window.camera_mask.item() == (not is_null and name != "phone")
        if is_noise:
            assert is_null and abs(window.context_latents.std() - 1) < 0.05
        counts["all" if is_noise else "two" if is_null else "none"] += 1
    assert all(abs(counts[key] / 200 - share) < 0.1 for key, share in {"all": 0.3, "two": 0.3, "none": 0.4}.items())


def test_noise_is_shifted_as_in_sampling(cache):
    sigma = torch.cat([window.sigma for window in samples(cache, KEPT, 200)])
    assert 0 < sigma.min() and sigma.max() < 1
    assert abs(sigma.median() - 5 * 0.5 / (1 + 4 * 0.5)) < 0.05


def test_seed_step_and_number_decide_a_sample(cache):
    first, again = CachedWindows(cache, SCALE, 0), CachedWindows(cache, SCALE, 0)
    whole, halves = first.batch(3, range(4)), [again.batch(3, [2, 3]), again.batch(3, [0, 1])]
    for field in fields(Window):
        parts = torch.cat([getattr(half, field.name) for half in reversed(halves)])
        assert torch.equal(getattr(whole, field.name), parts), field.name
    others = (CachedWindows(cache, SCALE, 1).batch(3, [0]), first.batch(4, [0]), first.batch(3, [1]))
    assert not any(torch.equal(other.noise, whole.noise[:1]) for other in others)


def test_the_loss_of_the_true_velocity_is_zero_and_that_of_none_is_its_square(cache):
    window = CachedWindows(cache, SCALE, 0).batch(0, range(4))
    shown = {}

    def model(noisy, timestep, time_index, **condition):
        shown.update(condition, noisy=noisy, timestep=timestep)
        clean = window.target_latents
        velocity = (noisy - clean) / window.sigma[:, None, None, None, None]  # of Euler's step to the clean latents
        return torch.cat([torch.full_like(velocity[:, :, :1], 9.0), velocity[:, :, 1:]], dim=2)

    assert velocity_loss(model, window) < 1e-8  # what is said of the start latent does not count
    assert torch.equal(shown["noisy"][:, :, 0], window.target_latents[:, :, 0])
    assert torch.equal(shown["timestep"], 1000 * window.sigma)
    assert torch.equal(shown["context_timestep"], window.context_timestep)
    nothing = velocity_loss(lambda noisy, *_, **__: torch.zeros_like(noisy), window)
    expected = (window.noise - window.target_latents[:, :, 1:]).square().mean()
    torch.testing.assert_close(nothing, expected)


REFUSED = {
    "long": ({"gap": 9}, r"a scan of 17 latents or more in .*, got 16 at most: encode longer ones$"),
    "size": ({"height": 64}, r"latents of shape \(768, 1, 8, 6\) in .*, got \(768, 1, 4, 6\): encode the scans with"),
    "text": ({"text_tokens": 7}, r"text of shape \(7, 8\) in .*, got \(12, 8\): encode the scans with the codec"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_cache_of_another_kind_is_refused(cache, name):
    changes, message = REFUSED[name]
    with pytest.raises(ValueError, match="^expected " + message):
        CachedWindows(cache, replace(SCALE, **changes), 0)


def test_what_is_too_short_is_named(cache):
    assert CachedWindows(cache, SCALE, 0).too_short == ["short"]
    assert CachedWindows(cache, replace(SCALE, gap=7), 0).too_short == ["b", "short"]


def curated(scan: str, first: int, **changes: object) -> Curated:
    return Curated(
        **{
            "scan": scan,
            "first": first,
            "length": 3,
            "kind": "navigation",
            "instruction": NAVIGATION,
            "object": None,
            "box": None,
            "scores": {},
        }
        | changes
    )


def test_curated_windows_are_the_only_targets(cache):
    wanted = [curated("a", 2), curated("a", 11), curated("b", 0)]
    windows = CachedWindows(cache, KEPT, 0, wanted)
    drawn = [windows.batch(step, [number]) for step in range(15) for number in range(4)]
    assert {place(cache, window) for window in drawn} == {("a", 2), ("a", 11), ("b", 0)}
    assert all(torch.equal(window.encoder_hidden_states[0], cache.text(NAVIGATION)) for window in drawn)


def test_of_a_scan_beyond_the_range_the_piece_holds_the_curated_window(cache):
    scale = replace(KEPT, model=SCALE.model | {"rope_max_seq_len": 13})
    windows = CachedWindows(cache, scale, 0, [curated("a", 13)])
    for step in range(20):
        window = windows.batch(step, [0])
        assert place(cache, window) == ("a", 13)
        assert max(window.target_time_index.max(), window.context_time_index.max()) <= 12


@pytest.mark.parametrize(
    ("window", "message"),
    [
        (curated("c", 0), "windows of 3 latents and of scans in .*, got one of 3 of c: curate the scans"),
        (curated("a", 0, length=5), "windows of 3 latents and of scans in .*, got one of 5 of a: curate the scans"),
        (curated("a", 0, instruction="look at a lamp"), "a sentence of the cache .*, got 'look at a lamp': encode it"),
        (curated("short", 0), "curated windows with 5 latents for a context beside them, got none of 1: curate with"),
    ],
)
def test_curated_windows_of_another_cache_or_scale_are_refused(cache, window, message):
    with pytest.raises(ValueError, match="^expected " + message):
        CachedWindows(cache, KEPT, 0, [window])
