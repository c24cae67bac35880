"""A scan of one's own: in each publisher's layout it becomes an episode that the model goes on in."""

import pytest
import torch

from tests.data.layouts import WRITERS, Room, make_room
from v4s_lib.data.episodes import load_episode
from v4s_lib.data.readers import LAYOUTS, read_scan
from v4s_lib.data.readers.scan import write_scan
from v4s_lib.evaluation.own_scan import go_on
from v4s_lib.training.presets import SMOKE
from v4s_lib.training.weights import load_pipeline
from v4s_lib.worlds.paths import latent_frames

CAMERA = SMOKE.task.camera
SCAN, GAP, TARGET = 29, 19, 13  # frames: of the context, up to the start frame, from it on
START = SCAN + GAP


@pytest.fixture(scope="module")
def pipeline():
    return load_pipeline(SMOKE)


@pytest.fixture(scope="module")
def room() -> Room:
    """As long as the smallest preset asks for."""
    task = SMOKE.task
    assert SCAN + GAP + TARGET == latent_frames(task.scan_latents[1] + task.gap + task.target_latents)
    return make_room(SCAN + GAP + TARGET, samples=1)


@pytest.fixture(scope="module")
def frames(room):
    return room.seen(CAMERA) / 255


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_scan_in_each_layout_becomes_an_episode_to_go_on_in(layout, pipeline, room, tmp_path):
    (tmp_path / "41254925").mkdir()
    WRITERS[layout](tmp_path / "41254925", room)
    write_scan(read_scan(layout, tmp_path / "41254925"), tmp_path / "episode", CAMERA.height, CAMERA.width)
    episode = load_episode(tmp_path / "episode")
    frames = episode.frames / 255
    assert len(frames) == len(room.c2w) and (episode.c2w - room.c2w).abs().max() < 1e-5
    output = go_on(pipeline, SMOKE, frames, episode.c2w)
    assert output.frames.shape == (1, TARGET, CAMERA.height, CAMERA.width, 3) and output.context_used
    torch.testing.assert_close(output.frames[0, 0], frames[START], atol=1e-5, rtol=0)
    other = torch.cat([1 - frames[:SCAN], frames[SCAN:]])
    assert not torch.equal(go_on(pipeline, SMOKE, other, episode.c2w).frames, output.frames)
    alone = go_on(pipeline, SMOKE, frames, episode.c2w, context=False)
    assert not alone.context_used and not torch.equal(alone.frames, output.frames)


def test_the_clip_knows_nothing_of_the_gap_and_of_the_truth(pipeline, room, frames):
    clip = go_on(pipeline, SMOKE, frames, room.c2w).frames
    hidden = 1 - frames
    hidden[:SCAN], hidden[START] = frames[:SCAN], frames[START]
    moved = room.c2w.clone()
    moved[:START, :3, 3] += 1
    assert torch.equal(go_on(pipeline, SMOKE, hidden, moved).frames, clip)
    assert not torch.equal(go_on(pipeline, SMOKE, frames, room.c2w, seed=1).frames, clip)


def test_a_long_scan_counts_from_its_end_and_a_short_one_gives_all_it_has(pipeline, room, frames):
    output = go_on(pipeline, SMOKE, frames, room.c2w)
    long, path = torch.cat([1 - frames[:6], frames]), torch.cat([room.c2w[:6], room.c2w])
    assert torch.equal(go_on(pipeline, SMOKE, long, path).frames, output.frames)
    short = slice(SCAN - 6, None)  # six frames before the gap hold two latents
    assert go_on(pipeline, SMOKE, frames[short], room.c2w[short]).context_index.tolist() == [0, 1]


def test_a_scan_too_short_and_poses_that_are_missing_are_refused(pipeline, room, frames):
    with pytest.raises(ValueError, match="^expected 33 frames or more with a pose each, got 32 and 32 poses: film lon"):
        go_on(pipeline, SMOKE, frames[-32:], room.c2w[-32:])
    assert len(go_on(pipeline, SMOKE, frames[-33:], room.c2w[-33:]).context_index) == 1
    with pytest.raises(ValueError, match="^expected 33 frames or more with a pose each, got 61 and 60 poses: film lon"):
        go_on(pipeline, SMOKE, frames, room.c2w[1:])
