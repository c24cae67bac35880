"""Camera following: offsets that were put in come out, and pictures without a camera fail."""

import math
from dataclasses import replace

import pytest
import torch

from v4s_lib.data.navigation import navigation_episode
from v4s_lib.data.rooms import render_many
from v4s_lib.evaluation.baselines import context_mean
from v4s_lib.evaluation.following import following_measures, looked_at, replayed
from v4s_lib.training.presets import get_preset
from v4s_lib.worlds.cameras import rotation_angle

PRESET = get_preset("small")
TURNS, STEPS = (1.0, 3.0, 10.0, 30.0), (0.05, 0.2, 0.5)  # degrees and metres


def offset(path: torch.Tensor, degrees: float = 0.0, metres: float = 0.0) -> torch.Tensor:
    """The path (F, 4, 4) with every camera turned about the room's z axis and moved along its x axis."""
    angle = math.radians(degrees)
    turn = torch.eye(4)
    turn[0, 0], turn[0, 1], turn[1, 0], turn[1, 1] = math.cos(angle), -math.sin(angle), math.sin(angle), math.cos(angle)
    moved = path.clone()
    moved[:, :3, :3] = turn[:3, :3] @ path[:, :3, :3]
    moved[:, 0, 3] += metres
    return moved


@pytest.fixture(scope="module")
def measures():
    episode = navigation_episode("validation", 7, PRESET.task)  # one room; the floor over 128 is in the README
    true, start = episode.target_c2w, episode.target.rgb[0]
    paths = {f"{d:g} deg": offset(true, degrees=d) for d in TURNS}
    paths |= {f"{m:g} m": offset(true, metres=m) for m in STEPS}
    clips = {name: render_many(episode.scenes, path[None], PRESET.task).rgb[0] for name, path in paths.items()}
    clips["ground_truth"] = episode.target.rgb
    clips["grey"] = torch.full_like(episode.target.rgb, 0.5)
    clips["context mean"] = context_mean(start, episode.scan.rgb, len(true))
    clips["other room"] = navigation_episode("validation", 8, PRESET.task).target.rgb
    return following_measures(clips, episode, offset(true, degrees=90.0), PRESET)


def test_ground_truth_follows_and_an_unrelated_path_does_not(measures):
    floor = measures["ground_truth"]
    assert floor["navigation_accuracy"] == 1 and floor["rotation_error"] < 2 and floor["translation_error"] < 0.1
    assert floor["sd"] < 0.05
    ceiling = measures["shuffled"]
    assert ceiling["navigation_accuracy"] == 0 and ceiling["rotation_error"] == pytest.approx(90, abs=0.1)


@pytest.mark.parametrize("degrees", TURNS)
def test_a_known_turn_is_measured(measures, degrees):
    found = measures[f"{degrees:g} deg"]
    assert found["rotation_error"] == pytest.approx(degrees, abs=1.5)
    assert found["navigation_accuracy"] == (1 if degrees < 5 else 0)


def test_a_camera_that_only_turns_is_off_by_the_way_it_did_not_go(measures):
    path = navigation_episode("validation", 7, PRESET.task).target_c2w
    away = (path[looked_at(len(path)), :3, 3] - path[0, :3, 3]).norm(dim=-1).mean().item()
    still = measures["turn_only"]
    assert still["rotation_error"] == 0 and still["translation_error"] == pytest.approx(away) and away > 0.1


@pytest.mark.parametrize("latents", [2, 6])
def test_errors_are_means_over_frames_and_do_not_grow_with_the_clip(latents):
    """Every frame is turned by 20 degrees and moved by half a metre, however many there are."""
    preset = replace(PRESET, task=replace(PRESET.task, target_latents=latents))
    episode = navigation_episode("validation", 7, preset.task)
    clips, unrelated = {"truth": episode.target.rgb}, offset(episode.target_c2w, 20.0, 0.5)
    found = following_measures(clips, episode, unrelated, preset)["shuffled"]
    assert found["rotation_error"] == pytest.approx(20, abs=0.1)
    assert found["translation_error"] == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("metres", STEPS)
def test_a_known_step_is_measured(measures, metres):
    found = measures[f"{metres:g} m"]
    assert found["translation_error"] == pytest.approx(metres, abs=0.07)
    assert found["navigation_accuracy"] == (1 if metres < 0.25 else 0)


@pytest.mark.parametrize("name", ["grey", "context mean", "other room"])
def test_pictures_without_a_camera_in_the_room_fail_and_count_as_the_unrelated_path(measures, name):
    assert measures[name]["failed_frames"] == 3 and measures[name]["navigation_accuracy"] == 0
    assert measures[name]["rotation_error"] == measures["shuffled"]["rotation_error"]
    assert measures[name]["sd"] > 0.4


def test_never_the_start_frame_and_always_the_last():
    for frames in (5, 29):
        assert looked_at(frames)[0] > 0 and looked_at(frames)[-1] == frames - 1


def test_a_replayed_path_begins_at_the_start_and_turns_as_much():
    path = navigation_episode("validation", 0, get_preset("smoke").task).target_c2w
    start = offset(path, degrees=70.0, metres=1.0)[3]
    again = replayed(path, start)
    torch.testing.assert_close(again[0], start, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        rotation_angle(again[0], again[-1]), rotation_angle(path[0], path[-1]), atol=0.05, rtol=0
    )
