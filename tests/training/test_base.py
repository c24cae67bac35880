"""The whole path of preset ``base`` at reduced lengths: trained, stopped, gone on with, shipped in shards, sampled.

Its frames, cells, width and patches are the preset's own.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from v4s_lib.data.navigation import navigation_episode
from v4s_lib.evaluation.grounding import shipped_judges
from v4s_lib.evaluation.navigation import sample_clips
from v4s_lib.training import ship, weights
from v4s_lib.training.loop import train
from v4s_lib.training.presets import BASE
from v4s_lib.training.weights import load_pipeline

MIB = 2**20
LENGTHS = {"scan_latents": (8, 8), "pool_latents": 6, "context_latents": 4, "target_latents": 3, "tail_latents": 1}
REDUCED = replace(
    BASE,
    task=replace(BASE.task, **LENGTHS, gap=4, samples=1),
    model=BASE.model | {"num_layers": 4, "localize_after": 1},  # more than one file holds
    steps=4,
    locate_steps=1,
    find_steps=1,
    ramp_steps=2,
    contexts=1,
    reuse=1,
    pool_targets=2,
    locate_contexts=1,
    validation_rooms=1,
    compile=False,
    save_every=10,
)


def test_it_is_not_judged_by_the_limits_of_shorter_clips():
    with pytest.raises(
        FileNotFoundError, match="judges_base.json.*: run python -m v4s_lib.evaluation.calibrate, with the"
    ):
        shipped_judges("base")


@pytest.fixture(scope="module")
def shipped(tmp_path_factory) -> Path:
    """The folder of its shipped weights, of a run that was stopped after a step."""
    run, manifests = tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("manifests")
    train(REDUCED, run, minutes=1e-6, progress=False)
    train(REDUCED, run, progress=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ship, "MANIFESTS", manifests)
        patch.setattr(ship, "get_preset", lambda name: REDUCED)
        ship.ship(run, "base", "ours", "a test")
    return manifests / "weights" / "base" / "ours"


def test_it_trained_on_and_says_so(shipped):
    lines = [json.loads(line) for line in (shipped / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    assert json.loads((shipped / "run.json").read_text())["step"] == 4 > REDUCED.draws_from + 1  # two drew


def test_its_weights_ship_in_files_that_any_channel_carries(shipped):
    files = sorted(shipped.glob("*.safetensors"))
    assert len(files) > 1 and all(file.stat().st_size <= 15 * MIB for file in files)


def test_shards_load_and_follow_a_path(shipped):
    pipeline = load_pipeline(REDUCED, shipped)
    episode = navigation_episode("test", 0, REDUCED.task)
    assert len(episode.scan.rgb) == 4 * 8 - 3  # the longest scan it knows
    clip = sample_clips(pipeline, episode.scan.rgb, episode, REDUCED, 0, 1, REDUCED.task.context_latents).frames[0]
    assert clip.shape == episode.target.rgb.shape == (9, 64, 96, 3)
    assert torch.isfinite(clip).all()


def test_where_none_ship_what_is_missing_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "MANIFESTS", tmp_path)
    with pytest.raises(FileNotFoundError, match="^expected shipped weights of preset base, got none: train it "):
        load_pipeline("base")
