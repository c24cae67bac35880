"""Known pictures: what is splatted onto itself, moved by one pixel, hidden, or seen by nobody."""

import pytest
import torch

from v4s_lib.data.navigation import navigation_episode
from v4s_lib.data.windows import grouped_frames
from v4s_lib.evaluation.baselines import context_mean
from v4s_lib.evaluation.picture import picture_measures
from v4s_lib.evaluation.splatting import splat, splat_sight, splat_true_geometry, unproject
from v4s_lib.training.presets import SMALL, SMOKE
from v4s_lib.training.weights import load_pipeline
from v4s_lib.worlds.cameras import Camera

CAMERA = Camera(8, 12)
HERE = torch.eye(4)[None]


def wall(far: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    """A wall's points and the random colours of their pixels."""
    colors = torch.rand((8, 12, 3), generator=torch.Generator().manual_seed(0))
    return unproject(torch.full((1, 8, 12), far), HERE, CAMERA), colors


def moved(x: float) -> torch.Tensor:
    c2w = HERE.clone()
    c2w[0, 0, 3] = x
    return c2w


def test_a_frame_comes_back_from_its_own_points():
    points, colors = wall()
    torch.testing.assert_close(splat(points, colors.flatten(0, 1), HERE, CAMERA)[0], colors, atol=2e-3, rtol=0)


def test_a_step_to_the_right_moves_the_wall_to_the_left():
    """2 m away and with a focal length of 6 pixels, a third of a metre is one pixel; the edge repeats its neighbour."""
    points, colors = wall()
    shown = splat(points, colors.flatten(0, 1), moved(1 / 3), CAMERA)[0]
    torch.testing.assert_close(shown[:, :-1], colors[:, 1:], atol=5e-3, rtol=0)
    torch.testing.assert_close(shown[:, -1], colors[:, -1], atol=5e-3, rtol=0)


def test_what_is_nearer_hides_what_is_behind():
    (far, colors), (near, _) = wall(4.0), wall(1.0)
    red = torch.tensor([1.0, 0, 0]).expand(len(near), 3)
    shown = splat(torch.cat([far, near]), torch.cat([colors.flatten(0, 1), red]), HERE, CAMERA)
    torch.testing.assert_close(shown[0], red.view(8, 12, 3), atol=1e-3, rtol=0)


def test_nothing_in_sight_is_grey():
    points, colors = wall(-2.0)
    assert (splat(points, colors.flatten(0, 1), HERE, CAMERA) == 0.5).all()


@pytest.mark.parametrize("index", [0, 1])
def test_true_geometry_explains_a_real_room(index):
    """Recalled pixels of a rendered room come out of its context frames, but for what lies between pixels."""
    episode = navigation_episode("validation", index, SMALL.task)
    frames = torch.arange(0, len(episode.scan.rgb), 2)
    clip = splat_true_geometry(episode, frames, SMALL.task.camera)
    assert torch.equal(clip[0], episode.target.rgb[0])
    known = episode.known(frames, SMALL.task.camera)
    assert picture_measures(clip, episode.target.rgb, known)["psnr_recall"] > 20


def test_sight_alone_recalls_a_room_it_has_never_seen():
    """The shipped weights' own poses and depths put the context's pixels nearer to the truth than the room's mean."""
    episode = navigation_episode("validation", 0, SMALL.task)
    index = torch.arange(1, 17)
    clip = splat_sight(load_pipeline("small"), episode, index, SMALL.task.camera)
    frames = grouped_frames(index).flatten()
    known = episode.known(frames, SMALL.task.camera)
    mean = context_mean(episode.target.rgb[0], episode.scan.rgb[frames], len(clip))
    own, plain = (picture_measures(video, episode.target.rgb, known)["psnr_recall"] for video in (clip, mean))
    assert own > plain


def test_sight_alone_makes_a_video_of_the_same_input():
    episode = navigation_episode("validation", 0, SMOKE.task)
    pipeline = load_pipeline("smoke")
    clip = splat_sight(pipeline, episode, torch.arange(4), SMOKE.task.camera)
    assert clip.shape == episode.target.rgb.shape and torch.isfinite(clip).all()
    assert torch.equal(clip[0], episode.target.rgb[0])
    changed = episode.scan_c2w.clone()
    changed[:, :3, 3] += 5  # true poses of the context are no input
    episode.scan_c2w = changed
    assert torch.equal(splat_sight(pipeline, episode, torch.arange(4), SMOKE.task.camera), clip)
    pipeline.transformer.sight = None
    assert splat_sight(pipeline, episode, torch.arange(4), SMOKE.task.camera) is None
