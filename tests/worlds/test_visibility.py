import math

import pytest
import torch

from v4s_lib.worlds.cameras import Camera, pose
from v4s_lib.worlds.paths import scan_path, target_path
from v4s_lib.worlds.raycast import render
from v4s_lib.worlds.scenes import make_scenes
from v4s_lib.worlds.visibility import covisibility, partition, seen_in

CAMERA = Camera(32, 48)


def level(position, yaw_degrees):
    yaw = torch.tensor([math.radians(yaw_degrees)])
    return pose(torch.tensor([position]), yaw, torch.zeros(1))


def show(scenes, c2w):
    return render(scenes, torch.zeros(len(c2w), dtype=torch.long), c2w, CAMERA, samples=1, chunk=16)


@pytest.fixture(scope="module")
def episode():
    """One room: its scenes, eight target frames and sixteen context frames, each with depth and poses."""
    scenes = make_scenes([41])
    generator = torch.Generator().manual_seed(0)
    target = target_path(scenes, generator, 29)[0, ::4]
    context = scan_path(scenes, generator, 93)[0, :64:4]
    return scenes, show(scenes, target).depth, target, show(scenes, context).depth, context


def test_a_frame_sees_all_of_itself(episode):
    _, depth, c2w, _, _ = episode
    share = covisibility(depth, c2w, depth, c2w, CAMERA)
    assert share.shape == (8, 8)
    assert share.diagonal().min() > 0.99  # rounding may lose pixels at the edges


def test_nothing_is_seen_behind_the_back(episode):
    scenes = episode[0]
    middle = ((scenes.free_min + scenes.free_max) / 2)[0].tolist() + [1.4]
    ahead, behind = level(middle, 20), level(middle, 200)
    assert not seen_in(show(scenes, ahead).depth, ahead, show(scenes, behind).depth, behind, CAMERA).any()


def test_after_a_quarter_turn_nothing_and_after_half_of_one_half_the_picture_is_left():
    """90 degrees of view: turned by 45, the columns right of the middle of the old frame fill half of the new one."""
    flat = torch.full((1, 32, 48), 2.0)  # a wall; the turned view's depth does not matter here
    origin = [0.0, 0.0, 0.0]
    everywhere = torch.full((1, 32, 48), 1e3)
    turned = covisibility(flat, level(origin, 45), everywhere, level(origin, 0), CAMERA)
    gone = covisibility(flat, level(origin, 90), everywhere, level(origin, 0), CAMERA)
    # Rows near the edge of the turned view leave the old frame above and below: a little less than half is left.
    assert 0.4 < turned.item() <= 0.5
    assert gone.item() == 0


def test_a_near_wall_hides_a_far_one():
    """A reference that shows things at 1 m has not seen those at 2 m; tilted surfaces within the tolerance it has."""
    here = level([0.0, 0.0, 0.0], 0)
    far, near = torch.full((1, 32, 48), 2.0), torch.full((1, 32, 48), 1.0)
    assert not seen_in(far, here, near, here, CAMERA).any()
    assert seen_in(near, here, near * 0.97, here, CAMERA).all()
    half = torch.where(torch.arange(48) < 24, near, far)
    assert torch.equal(seen_in(far, here, half, here, CAMERA)[0, 0], torch.arange(48) >= 24)


def test_agrees_with_rays_cast_at_the_points(episode):
    """The judge is the ray caster itself: a one-pixel camera at the reference, aimed at the point."""
    scenes, depth, c2w, reference_depth, reference_c2w = episode
    pick = torch.randperm(depth[1:].numel(), generator=torch.Generator().manual_seed(1))[:150]
    rays = CAMERA.rays().view(-1, 3)
    points = (depth.flatten(1)[..., None] * rays) @ c2w[:, :3, :3].transpose(1, 2) + c2w[:, None, :3, 3]
    point = points[1:].reshape(-1, 3)[pick]
    seen = torch.zeros(len(pick), dtype=torch.bool)
    for eye in reference_c2w:
        ray = point - eye[:3, 3]
        distance = ray.norm(dim=-1)
        aim = pose(eye[:3, 3].expand_as(point), torch.atan2(ray[:, 1], ray[:, 0]), torch.asin(ray[:, 2] / distance))
        hit = render(scenes, torch.zeros(len(pick), dtype=torch.long), aim, Camera(1, 1), 1, 256).depth.flatten()
        place, ahead = CAMERA.project(ray @ eye[:3, :3])
        inside = (ahead > 0) & (place >= 0).all(-1) & (place < torch.tensor([48, 32])).all(-1)
        seen |= inside & (hit > distance * 0.998 - 0.002)
    ours = seen_in(depth[1:], c2w[1:], reference_depth, reference_c2w, CAMERA).flatten()[pick]
    assert 0.3 < seen.float().mean() < 1
    assert (ours == seen).float().mean() > 0.97


def test_partition_is_exact_and_starts_all_seen(episode):
    _, depth, c2w, context_depth, context_c2w = episode
    known = partition(depth, c2w, context_depth, context_c2w, CAMERA)
    total = known.start_seen.int() + known.recalled.int() + known.never_seen.int()
    assert torch.equal(total, torch.ones(8, 32, 48).int())
    assert known.start_seen[0].all()
    assert known.recalled.any() and known.start_seen[1:].any()
    in_context = seen_in(depth, c2w, context_depth, context_c2w, CAMERA)
    assert not (known.recalled & ~in_context).any()
    assert not (known.never_seen & in_context).any()


def test_without_context_nothing_is_recalled(episode):
    _, depth, c2w, context_depth, context_c2w = episode
    known = partition(depth, c2w, context_depth[:0], context_c2w[:0], CAMERA)
    assert not known.recalled.any()


def test_a_reference_more_never_hides_a_pixel(episode):
    _, depth, c2w, context_depth, context_c2w = episode
    few = seen_in(depth, c2w, context_depth[:3], context_c2w[:3], CAMERA)
    all_of_them = seen_in(depth, c2w, context_depth, context_c2w, CAMERA)
    assert not (few & ~all_of_them).any()


def test_frames_of_another_size_are_refused(episode):
    _, depth, c2w, context_depth, context_c2w = episode
    with pytest.raises(ValueError, match="expected target depth"):
        seen_in(depth, c2w, context_depth, context_c2w, Camera(16, 24))
