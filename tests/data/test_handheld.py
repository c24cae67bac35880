"""A phone's video of a room: the same each time, still the same room, and worse in every way it is said to be."""

import torch

from v4s_lib.data.handheld import CRF, PIXELS, SHAKE, by_phone, drift, handheld, open_shutter, shake
from v4s_lib.data.navigation import navigation_episode
from v4s_lib.data.video import through_file
from v4s_lib.training.presets import SMOKE
from v4s_lib.worlds.cameras import check_rigid, rotation_angle, translation_distance


def psnr(one: torch.Tensor, other: torch.Tensor) -> float:
    return -10 * (one - other).square().mean().log10().item()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_room_stays_the_same_room_and_its_video_gets_worse():
    episode = navigation_episode("validation", 0, SMOKE.task)
    frames = handheld(episode.scenes, episode.scan_c2w, SMOKE.task, generator())
    assert frames.shape == episode.scan.rgb.shape and frames.min() >= 0 and frames.max() <= 1
    assert torch.equal(frames, handheld(episode.scenes, episode.scan_c2w, SMOKE.task, generator()))
    other = navigation_episode("validation", 1, SMOKE.task).scan.rgb
    assert 15 < psnr(frames, episode.scan.rgb) < 30
    assert psnr(frames, episode.scan.rgb) > psnr(other, episode.scan.rgb) + 3


def test_the_phone_and_the_targets_noise_are_drawn_apart():
    """With one seed for both, the sensor's noise would be that of the target's latents."""
    episode = navigation_episode("validation", 0, SMOKE.task)
    phone = by_phone(episode, SMOKE.task, 5)
    assert torch.equal(phone.scan.rgb, handheld(episode.scenes, episode.scan_c2w, SMOKE.task, generator(500_000_005)))
    assert not torch.equal(phone.scan.rgb, by_phone(episode, SMOKE.task, 6).scan.rgb)
    assert phone.target.rgb.shape == (1, *episode.target.rgb.shape[1:])
    assert torch.equal(phone.target_c2w, episode.target_c2w) and torch.equal(phone.scan.depth, episode.scan.depth)


def test_drift_is_smooth_and_keeps_its_size():
    values = drift((4000, 2), generator())
    assert 0.9 < values.std() < 1.1 and abs(values.mean()) < 0.15
    assert 0.75 < torch.corrcoef(torch.stack([values[1:, 0], values[:-1, 0]]))[0, 1] < 0.85


def test_a_hand_shakes_as_much_as_it_is_said_to():
    c2w = torch.eye(4).expand(2000, 4, 4)
    shaken = shake(c2w, generator())
    check_rigid(shaken, "shaken poses")
    assert abs(rotation_angle(shaken, c2w).deg2rad().square().mean().sqrt() / (SHAKE[0] * 3**0.5) - 1) < 0.1
    assert abs(translation_distance(shaken, c2w).square().mean().sqrt() / (SHAKE[1] * 3**0.5) - 1) < 0.1


def test_the_shutter_is_open_around_its_frame():
    """A camera that moves 0.4 m and turns 8 degrees a frame: a quarter of each before, and a quarter after."""
    angle = torch.arange(5) * torch.pi * 8 / 180
    c2w = torch.eye(4).repeat(5, 1, 1)
    c2w[:, 0, 0] = c2w[:, 2, 2] = angle.cos()
    c2w[:, 0, 2], c2w[:, 2, 0] = angle.sin(), -angle.sin()
    c2w[:, 0, 3] = 0.4 * torch.arange(5)
    poses = open_shutter(c2w)
    assert torch.allclose(poses[1], c2w, atol=1e-5)
    check_rigid(poses, "poses of an open shutter")
    torch.testing.assert_close(rotation_angle(poses[0], poses[2]), torch.full((5,), 4.0), atol=0.02, rtol=0)
    torch.testing.assert_close(translation_distance(poses[0], poses[2]), torch.full((5,), 0.2), atol=1e-4, rtol=0)


def test_compression_loses_colour_detail():
    frames = torch.rand((5, 16, 24, 3), generator=generator())
    grey = torch.full((5, 16, 24, 3), 0.4)
    assert psnr(through_file(frames, CRF, PIXELS), frames) < 20
    assert psnr(through_file(grey, CRF, PIXELS), grey) > 35
