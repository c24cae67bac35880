"""Camera following by points: what was put in comes out, and frames without a camera fail and count."""

import math

import pytest
import torch

from tests.evaluation.real.rooms import TASK
from v4s_lib.data.rooms import render_one
from v4s_lib.evaluation.real.locate import PointFinder, following_on_scan
from v4s_lib.evaluation.real.reconstruct import reconstruct
from v4s_lib.worlds.cameras import rotation_angle, translation_distance, turning

UPWARDS = torch.tensor([0.0, 0.0, 1.0])
TURNS, STEPS = (1, 3, 10, 30), (0.05, 0.1, 0.3, 0.5)  # degrees, metres: DESIGN §7's known answers


@pytest.fixture(scope="module")
def measures(room, other_room):
    episode = room.episode
    paths = {}
    for degrees in TURNS:
        paths["turned", degrees] = turned = episode.target_c2w.clone()
        turned[:, :3, :3] = turning(math.radians(degrees) * UPWARDS) @ turned[:, :3, :3]
    for metres in STEPS:
        paths["moved", metres] = moved = episode.target_c2w.clone()
        moved[:, 2, 3] += metres
    clips = {name: render_one(episode.scenes, c2w[None], TASK).rgb for name, c2w in paths.items()}
    clips |= {
        "truth": episode.target.rgb,
        "grey": torch.full_like(episode.target.rgb, 0.5),
        "other room": other_room.episode.target.rgb,
    }
    return following_on_scan(clips, room.finder, episode.target_c2w, room.unrelated)


def test_true_frames_are_followed_within_a_degree_and_five_centimetres(measures):
    truth = measures["truth"]
    assert truth["navigation_accuracy"] == 1 and truth["failed_frames"] == 0
    assert truth["rotation_error"] < 1 and truth["translation_error"] < 0.05


@pytest.mark.parametrize("degrees", TURNS)
def test_a_known_turn_is_measured(measures, degrees):
    found = measures["turned", degrees]
    assert found["rotation_error"] == pytest.approx(degrees, abs=0.3) and found["translation_error"] < 0.1
    assert found["navigation_accuracy"] == (degrees < 5) and found["failed_frames"] == 0


@pytest.mark.parametrize("metres", STEPS)
def test_a_known_step_is_measured(measures, metres):
    found = measures["moved", metres]
    assert found["translation_error"] == pytest.approx(metres, rel=0.1, abs=0.02) and found["rotation_error"] < 1
    assert found["navigation_accuracy"] == (metres < 0.25) and found["failed_frames"] == 0


@pytest.mark.parametrize("name", ["grey", "other room"])
def test_frames_without_a_camera_fail_and_count_as_the_unrelated_path(measures, name):
    wrong = measures["shuffled"]
    assert wrong["rotation_error"] > 30 and wrong["navigation_accuracy"] == 0
    assert measures[name] == wrong | {"failed_frames": 3}


def test_one_frame_is_located_as_it_is_among_others(room):
    frames, true = room.episode.target.rgb, room.episode.target_c2w
    found, alone = room.finder.find(frames), room.finder.find(frames[2:3])
    assert torch.equal(found.c2w[2:3], alone.c2w)
    assert (found.residual < 0.5).all()
    assert rotation_angle(found.c2w, true).max() < 2 and translation_distance(found.c2w, true).max() < 0.1


def test_nothing_is_located_in_a_scan_without_points(room):
    grey = torch.full((2, 128, 208, 3), 0.5)
    finder = PointFinder(reconstruct(grey, TASK.camera, room.episode.scan_c2w[:2]), TASK.camera)
    assert (finder.find(room.episode.target.rgb[:1]).residual == 1).all()
