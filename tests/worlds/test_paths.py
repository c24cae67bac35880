"""Camera paths stay in the free middle, start and end at rest, and turn as asked."""

import math

import pytest
import torch

from v4s_lib.worlds.cameras import check_rigid, rotation_angle, translation_distance
from v4s_lib.worlds.paths import bspline, latent_frames, scan_path, target_path
from v4s_lib.worlds.scenes import SLOTS, Scenes, make_scenes, scene_seed


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return make_scenes([scene_seed("validation", index) for index in range(40)])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def yaws(c2w: torch.Tensor) -> torch.Tensor:
    """Direction of view in degrees, (S, F), without jumps at 180."""
    yaw = torch.rad2deg(torch.atan2(c2w[:, :, 1, 2], c2w[:, :, 0, 2]))
    step = (yaw.diff(dim=1) + 180) % 360 - 180
    return torch.cat([yaw[:, :1], yaw[:, :1] + step.cumsum(dim=1)], dim=1)


def test_latents_to_frames():
    assert [latent_frames(latents) for latents in (1, 2, 24, 84)] == [1, 5, 93, 333]


def test_bspline_of_equal_points_stays_and_of_a_line_is_the_line():
    control = torch.arange(6.0).view(1, 6, 1)
    torch.testing.assert_close(bspline(control, 7)[0, :, 0], torch.linspace(1, 4, 7))
    assert torch.equal(bspline(torch.full((1, 5, 2), 3.0), 4), torch.full((1, 4, 2), 3.0))


@pytest.mark.parametrize("reach", [0.3, 0.8, 5.0])
@pytest.mark.parametrize("make", [scan_path, target_path])
def test_paths_stay_in_the_free_middle_and_out_of_everything(scenes, make, reach):
    c2w = make(scenes, generator(), frames=97, reach=reach)
    assert c2w.shape == (40, 97, 4, 4)
    check_rigid(c2w, "path")
    place = c2w[:, :, :3, 3]
    middle = (scenes.free_min + scenes.free_max)[:, None] / 2
    assert ((place[..., :2] - middle).abs() <= reach + 1e-4).all()
    assert (place[..., :2] >= scenes.free_min[:, None]).all() and (place[..., :2] <= scenes.free_max[:, None]).all()
    assert (place[..., 2] >= 1.3).all() and (place[..., 2] <= 1.6).all()
    # (S, F, P, 3): in no primitive's bounding box, furniture (slots of boxes) and objects alike.
    half = scenes.half * torch.stack([scenes.taper.clamp(min=1)] * 2 + [torch.ones_like(scenes.taper)], dim=-1)
    inside = ((place[:, :, None] - scenes.center[:, None]).abs() < half[:, None]).all(dim=-1)
    assert (scenes.half[:, : SLOTS["box"], 0] > 0.1).sum() > 100  # there is furniture to run into
    assert not inside.any()


def test_a_scan_turns_one_way_at_a_steady_pace(scenes):
    rate = yaws(scan_path(scenes, generator(), frames=93)).diff(dim=1)
    assert (rate.sign() == rate[:, :1].sign()).all()
    assert rate.abs().min() > 0.8 * 4 and rate.abs().max() < 1.2 * 5 * 93 / 92
    mean = rate.abs().mean(dim=1)
    assert 3.6 < mean.min() and mean.max() < 5.5
    assert (rate[:, 0] > 0).any() and (rate[:, 0] < 0).any()


@pytest.mark.parametrize("turn", [(60.0, 200.0), (30.0, 40.0), (0.0, 0.0)])
def test_a_target_path_turns_within_the_range_asked(scenes, turn):
    yaw = yaws(target_path(scenes, generator(), frames=161, turn=turn))
    total = (yaw[:, -1] - yaw[:, 0]).abs()
    assert total.min() >= turn[0] - 0.01 and total.max() <= turn[1] + 0.01
    if turn[1] > turn[0]:
        assert total.max() - total.min() > 0.7 * (turn[1] - turn[0])  # the range is used
        assert (yaw.diff(dim=1).sign() * (yaw[:, -1:] - yaw[:, :1]).sign() >= 0).all()  # and there is no way back


def test_a_target_path_starts_and_ends_at_rest(scenes):
    c2w = target_path(scenes, generator(), frames=161)
    speed = translation_distance(c2w[:, :-1], c2w[:, 1:])
    turning = rotation_angle(c2w[:, :-1], c2w[:, 1:])
    for motion in (speed, turning):
        peak = motion.amax(dim=1)
        assert (motion[:, 0] < 0.01 * peak).all() and (motion[:, -1] < 0.01 * peak).all()
    assert speed.sum(dim=1).mean() > 0.5  # metres: it walks


def test_a_target_path_starts_around_the_pose_asked(scenes):
    last = scan_path(scenes, generator(1), frames=20)[:, -1]
    first = target_path(scenes, generator(2), frames=41, around=last, spread=25.0)[:, 0]
    away = (yaws(torch.stack([last, first], dim=1)).diff(dim=1)).abs()
    assert away.max() <= 25.01 and away.max() > 15


def test_a_seed_gives_the_same_path_in_each_batch(scenes):
    assert torch.equal(target_path(scenes, generator(3), 9), target_path(scenes, generator(3), 9))
    assert not torch.equal(target_path(scenes, generator(3), 9), target_path(scenes, generator(4), 9))
    assert math.isclose(scan_path(scenes, generator(3), 13)[0, 0, 3, 3].item(), 1)
