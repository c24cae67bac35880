import math

import torch

from v4s_lib.data.navigation import navigation_episode
from v4s_lib.evaluation.baselines import context_mean, nearest_true_pose, posed, repeat_start, true_poses
from v4s_lib.model.pose import relative_to_start
from v4s_lib.training.presets import get_preset
from v4s_lib.training.weights import load_pipeline
from v4s_lib.worlds.cameras import Camera, inverse, pose
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


def test_true_poses_stand_in_the_axes_of_the_last_context_frame():
    """The last context frame is the origin; the start frame and the path keep their places among the others."""
    episode = navigation_episode("validation", 0, get_preset("smoke").task)
    index = torch.tensor([1, 4, 6])
    path = relative_to_start(episode.target_c2w[None].double()).float()
    context, target = true_poses(episode.scan_c2w, index, episode.target_c2w[0], path)
    assert context.shape == (1, 3, 4, 4, 4) and target.shape == path.shape
    close = {"atol": 1e-5, "rtol": 0}
    torch.testing.assert_close(context[0, -1, -1], torch.eye(4), **close)
    between = inverse(episode.scan_c2w[4 * 4]) @ episode.target_c2w[-1]  # latent 4 ends with frame 16
    torch.testing.assert_close(inverse(context[0, 1, -1]) @ target[0, -1, -1], between, **close)


@torch.no_grad()
def test_a_posed_model_is_told_the_truth_and_forgets_it_afterwards():
    preset = get_preset("smoke")
    model = load_pipeline(preset).transformer
    torch.manual_seed(0)
    latents, start = (
        torch.randn(1, model.config.in_channels, 4, 2, 3),
        torch.randn(1, model.config.in_channels, 4, 2, 3),
    )
    path = pose(torch.zeros(16, 3), torch.arange(16) * 0.1, torch.zeros(16)).view(1, 4, 4, 4, 4)
    truth = path + 0.0, path.flip(2)
    arguments = (start, torch.tensor([500.0]), torch.arange(10, 14)[None], latents, torch.arange(4)[None])
    before = model(*arguments, camera_path=path, return_findings=True)[1]
    with posed(model, truth):
        told = model(*arguments, camera_path=path, return_findings=True)[1]
    after = model(*arguments, camera_path=path, return_findings=True)[1]
    torch.testing.assert_close(told.context_poses, truth[0])
    torch.testing.assert_close(told.target_poses, truth[1])
    torch.testing.assert_close(after.context_poses, before.context_poses)
    assert (before.context_poses - truth[0]).abs().max() > 0.1
