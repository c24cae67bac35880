import math

import torch

from v4s_lib.evaluation.baselines import context_mean, nearest_true_pose, repeat_start
from v4s_lib.worlds.cameras import Camera, pose
from v4s_lib.worlds.raycast import render
from v4s_lib.worlds.scenes import make_scenes

CAMERA = Camera(32, 48)


def look(yaws_degrees, x=2.5):
    yaw = torch.tensor(yaws_degrees).deg2rad()
    return pose(torch.tensor([x, 2.5, 1.4]).expand(len(yaw), 3), yaw, torch.zeros(len(yaw)))


def show(scenes, c2w):
    return render(scenes, torch.zeros(len(c2w), dtype=torch.long), c2w, CAMERA, samples=1)


def test_repeat_start():
    start = torch.rand(32, 48, 3)
    video = repeat_start(start, 29)
    assert video.shape == (29, 32, 48, 3)
    assert (video == start).all()


def test_context_mean():
    start, context = torch.rand(32, 48, 3), torch.stack([torch.zeros(32, 48, 3), torch.ones(32, 48, 3)])
    video = context_mean(start, context, 29)
    assert video.shape == (29, 32, 48, 3)
    assert torch.equal(video[0], start)
    assert (video[1:] == 0.5).all()


def test_nearest_true_pose_takes_the_view_nearest_in_direction():
    scenes = make_scenes([3])
    context_c2w, target_c2w = look([0.0, 90.0, 180.0, 270.0]), look([0.0, 100.0, 190.0, 350.0, 260.0])
    context, target = show(scenes, context_c2w), show(scenes, target_c2w)
    start = torch.rand(32, 48, 3)
    video = nearest_true_pose(start, context.rgb, context.depth, context_c2w, target.depth, target_c2w, CAMERA)
    assert torch.equal(video[0], start)
    assert torch.equal(video[1:], context.rgb[[1, 2, 0, 3]])


def test_nearest_true_pose_goes_by_what_is_seen_and_not_by_distance():
    """From the other end of the room, the frame that looks at the same wall beats the one at our place looking away."""
    scenes = make_scenes([3])
    c2w = torch.cat([look([180.0], 3.0), look([0.0], 1.6)])
    target_c2w = look([0.0, 0.0], 3.0)
    context, target = show(scenes, c2w), show(scenes, target_c2w)
    video = nearest_true_pose(target.rgb[0], context.rgb, context.depth, c2w, target.depth, target_c2w, CAMERA)
    assert torch.equal(video[1], context.rgb[1])
    assert math.isclose(target_c2w[1, 0, 3].item(), 3.0)
