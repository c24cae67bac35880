"""Filters of training windows: known answers for poses, depths, pictures and boxes."""

import math

import pytest
import torch
from skimage.filters import gaussian

from v4s_lib.data import curation_filters as filters
from v4s_lib.data.boxes import mask_box
from v4s_lib.data.episodes import EpisodeObject, load_episode
from v4s_lib.data.manifests import MANIFESTS
from v4s_lib.data.video import read_frames, write_video
from v4s_lib.worlds.cameras import Camera, pose

CAMERA = Camera(height=12, width=18, horizontal_fov=90.0)


def turned(*degrees: float) -> torch.Tensor:
    """Poses (F, 4, 4) at one place that look so far to the left of +x."""
    yaw = torch.deg2rad(torch.tensor(degrees))
    return pose(torch.zeros(len(degrees), 3), yaw, torch.zeros(len(degrees)))


@pytest.fixture(scope="module")
def scan():
    return load_episode(MANIFESTS / "scans/demo_0000")


@pytest.mark.parametrize(("angle", "share", "tolerance"), [(0, 1, 0), (45, 0.5, 0.1), (180, 0, 0)])
def test_frusta_overlap_by_how_far_the_camera_has_turned(angle, share, tolerance):
    assert filters.covisible(turned(0), turned(angle), CAMERA) == pytest.approx(share, abs=tolerance)
    assert filters.covisible(turned(0, 0), turned(180, angle), CAMERA) == pytest.approx(share, abs=tolerance)


def test_frusta_end_where_surfaces_are_no_longer_expected():
    ahead = turned(0)
    ahead[:, 0, 3] = -2 * filters.FARTHEST
    assert filters.covisible(turned(0), ahead, CAMERA) == 0


def test_a_wall_in_front_of_the_context_hides_what_the_frusta_share():
    surface, wall = torch.full((1, 12, 18), 3.0), torch.full((1, 12, 18), 1.0)
    assert filters.covisible(turned(0), turned(0), CAMERA, surface, surface) == 1
    assert filters.covisible(turned(0), turned(0), CAMERA, surface, wall) == 0
    half = torch.where(torch.arange(18) < 9, wall, surface)
    assert filters.covisible(turned(0), turned(0), CAMERA, surface, half) == pytest.approx(0.5)


def test_unknown_depths_are_left_out_and_nothing_is_seen_through_them():
    surface, holes = torch.full((1, 12, 18), 3.0), torch.full((1, 12, 18), 3.0)
    holes[..., :9] = 0
    assert filters.covisible(turned(0), turned(0), CAMERA, holes, surface) == 1  # of what is known, all
    assert filters.covisible(turned(0), turned(0), CAMERA, surface, holes) == pytest.approx(0.5)
    assert filters.covisible(turned(0), turned(0), CAMERA, 0 * surface, surface) == 0
    around = EpisodeObject("tent", 1, (-1.0, -1.0, -1.0), (4.0, 1.0, 1.0))  # the camera stands in it
    mask = filters.object_mask(around, turned(0), CAMERA, holes)
    assert mask[0, 6, 10] and not mask[..., :9].any()


def test_a_camera_is_still_only_if_it_neither_walks_nor_turns_and_jumps_if_it_does_either_too_fast():
    nothing, slow, fast = torch.zeros(7), torch.full((7,), 2.0), torch.tensor([0, 0, 0, 60.0, 0, 0, 0])
    assert filters.is_still(nothing, nothing)
    assert not filters.is_still(nothing, slow) and not filters.is_still(slow / 10, nothing)
    assert not filters.is_jumping(slow / 10, slow)
    assert filters.is_jumping(nothing, fast) and filters.is_jumping(fast / 20, nothing)


def test_a_scale_is_told_by_the_median_of_the_steps_that_are_taken():
    steps = torch.tensor([0.0, 0.0, 0.0, 0.0, 2.0, 4.0, 90.0])  # it rests, walks, and is lost once
    assert filters.nominal_scale(steps) * 4 == pytest.approx(filters.NOMINAL_STEP)
    assert filters.nominal_scale(torch.zeros(5)) == 1


def test_blur_shows_whatever_there_is_to_see(scan):
    frames = scan.frames[::4]
    blurred = torch.from_numpy(gaussian(frames[8:12] / 255, sigma=(0, 1, 1, 0)) * 255).round().byte()
    sharp = filters.sharpness(torch.cat([frames, blurred]))
    assert sharp[: len(frames)].min() > filters.LEAST_SHARP > sharp[len(frames) :].max()
    assert filters.sharpness(torch.full((3, 32, 48, 3), 90, dtype=torch.uint8)).tolist() == [0, 0, 0]
    assert filters.window_sharpness(torch.tensor([0.1, 0.1, 1, 1, 1, 1, 1, 1.0])) == pytest.approx(0.775)
    assert filters.window_sharpness(torch.tensor([0.1, 1, 1, 1, 1])) == 1  # it may blink


def test_a_frame_is_known_again_after_another_compression_and_a_new_view_is_new(scan, tmp_path):
    frames = scan.frames.repeat_interleave(6, dim=1).repeat_interleave(6, dim=2)  # large enough for decord
    write_video(tmp_path / "again.mp4", frames[40:48], crf=28, pixels="yuv420p")
    pictures = filters.small_pictures(frames)
    again = filters.small_pictures(read_frames(tmp_path / "again.mp4"))
    assert filters.least_difference(pictures[40:48], pictures[44:45]) == 0
    assert filters.least_difference(again, pictures) < filters.LEAST_AWAY
    assert filters.least_difference(again, pictures[:39]) > 3 * filters.LEAST_AWAY
    one = torch.zeros(1, 3)
    assert filters.least_difference(one, one + 7) == pytest.approx(7)


def test_a_box_ahead_covers_the_pixels_of_its_near_face():
    camera = Camera(32, 48, 90.0)  # focal length 24 pixels
    item = EpisodeObject("red crate", 20, (4.0, -1.0, -0.5), (5.0, 1.0, 0.5))
    mask = filters.object_mask(item, turned(0, 180), camera)
    assert mask_box(mask[0]).tolist() == [13, 18, 18, 29]  # +-3 and +-6 pixels around the middle, 16 and 24
    assert mask[0].sum() == 6 * 12 and not mask[1].any()


def test_with_depth_a_box_is_shown_where_its_surface_is():
    camera = Camera(32, 48, 90.0)
    item = EpisodeObject("red crate", 20, (4.0, -1.0, -0.5), (5.0, 1.0, 0.5))
    front = torch.full((1, 32, 48), 4.0)
    shown = filters.object_mask(item, turned(0), camera, front)
    assert torch.equal(shown, filters.object_mask(item, turned(0), camera))
    front[..., :24] = 2.0  # something stands before its left half
    assert mask_box(filters.object_mask(item, turned(0), camera, front)[0]).tolist() == [13, 18, 24, 29]


def test_nominal_depths_fill_their_range_evenly():
    depth = filters.nominal_depth(CAMERA, 2)
    assert depth.shape == (2, 12, 18) and torch.equal(depth[0], depth[1])
    low, high = math.log(filters.NEAREST), math.log(filters.FARTHEST)
    counts = depth[0].log().histc(8, low, high)
    assert counts.sum() == 12 * 18 and counts.min() >= 25 and counts.max() <= 29  # 27 on average
