"""Training on a cache with targets that end on an object: the same losses for any number of processes."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.training.many import run
from tests.training.test_full_loop import losses
from tests.training.tiny_targets import BOXED, boxed_of, write_cache, write_curated, write_some
from v4s_lib.data.curation import load_windows
from v4s_lib.training.cached import CachedLatents
from v4s_lib.training.full_loop import Job, finetune
from v4s_lib.training.windows import CachedWindows

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes are forked and killed as on Unix")
ONE_WAY = {"context_attention": "one_way", "save_every": 4, "seed": 2}


@pytest.fixture(scope="module")
def windows(tmp_path_factory) -> Path:
    """One window with a box and one without, so that steps of either kind are near."""
    folder = tmp_path_factory.mktemp("windows")
    curated = write_curated(folder)
    plain = next(window for window in load_windows(curated) if window.box is None)
    return write_some(folder / "two.jsonl", [boxed_of(curated), plain])


@pytest.fixture(scope="module")
def cache(windows, tmp_path_factory) -> Path:
    return write_cache(tmp_path_factory.mktemp("cache"), windows).folder


@pytest.fixture(scope="module")
def whole(cache, windows, tmp_path_factory) -> Path:
    """Four steps in one process."""
    out = tmp_path_factory.mktemp("whole")
    run(finetune, (Job(BOXED, cache, out, windows=windows, **ONE_WAY),))
    return out


def test_both_kinds_are_met(cache, windows, whole):
    drawn = CachedWindows(CachedLatents(cache), BOXED, ONE_WAY["seed"], load_windows(windows))
    assert {drawn.batch(step, [0]).target_latents.shape[2] for step in range(4)} == {8, 10}
    assert len(losses(whole)) == 8


@pytest.mark.parametrize(("processes", "together"), [(2, 1), (1, 4), (2, 2)])
def test_the_losses_do_not_depend_on_processes_or_samples_together(
    cache, windows, whole, tmp_path, processes, together
):
    job = Job(BOXED, cache, tmp_path, windows=windows, together=together, **ONE_WAY)
    run(finetune, (job,), processes=processes)
    assert losses(tmp_path) == pytest.approx(losses(whole), rel=1e-4)


def test_a_run_does_not_go_on_with_other_paths_told(cache, windows, whole):
    job = Job(replace(BOXED, path_too=0.5), cache, whole, windows=windows, **ONE_WAY)
    with pytest.raises(ValueError, match=r"^expected to resume .* with the same path_too, got another: use the old"):
        finetune(job)


def test_a_run_does_not_go_on_with_other_targets(windows, whole, tmp_path):
    boxed, plain = load_windows(windows)
    assert boxed.box is not None
    other = write_some(tmp_path / "other.jsonl", [replace(boxed, box=(0, 1, 2, 3)), plain])
    folder = write_cache(tmp_path, other).folder
    with pytest.raises(ValueError, match=r"^expected to resume .* with the same cache, windows, got another: use the "):
        finetune(Job(BOXED, folder, whole, windows=other, **ONE_WAY))
