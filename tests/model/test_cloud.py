"""Known views: a frame seen from its own camera, from beside, from behind, and what noise adds to it."""

import torch

from v4s_lib.model.cloud import CHANNELS, Cloud, make_cloud, view
from v4s_lib.model.codec import PatchCodec
from v4s_lib.model.sight import Seen, Sight
from v4s_lib.worlds.cameras import Camera

CAMERA = Camera(16, 24)
CELLS = 4 * 6
HERE = torch.eye(4)[None, None]


def moved(x: float) -> torch.Tensor:
    c2w = HERE.clone()
    c2w[..., 0, 3] = x
    return c2w


def wall(far: float = 2.0, seed: int = 0) -> tuple[Sight, torch.Tensor, Seen]:
    """A frame of random colours, its latent, and a sight that takes all of it to be ``far`` metres away."""
    frames = torch.rand((1, 1, 16, 24, 3), generator=torch.Generator().manual_seed(seed))
    seen = Seen(torch.zeros(1, 1, CELLS, 64), torch.full((1, 1, CELLS), far).log(), torch.full((1, 1, CELLS), -2.0))
    return Sight(8, (2, 3), 90.0), PatchCodec(8).encode(frames), seen


def colors(sight: Sight, latents: torch.Tensor) -> torch.Tensor:
    return 2 * PatchCodec(8).decode(latents)[0, 0] - 1


def test_a_frame_comes_back_from_its_own_points():
    sight, latents, seen = wall()
    shown = view(make_cloud(sight, latents, seen, HERE), HERE, CAMERA)
    assert shown.shape == (1, 1, 16, 24, CHANNELS)
    torch.testing.assert_close(shown[0, 0, ..., :3], colors(sight, latents), atol=1e-4, rtol=0)
    assert shown[..., 3].max() < 1e-2 and (shown[..., 4] == 0).all()  # one point a pixel does not differ
    torch.testing.assert_close(shown[..., 5], torch.full((1, 1, 16, 24), 2.0).log() / 4)


def test_a_step_to_the_right_moves_the_wall_to_the_left():
    """2 m away and with a focal length of 12 pixels, a sixth of a metre is one pixel; past the edge nothing is seen."""
    sight, latents, seen = wall()
    shown = view(make_cloud(sight, latents, seen, HERE), moved(1 / 6 + 1e-4), CAMERA)[0, 0]
    torch.testing.assert_close(shown[:, :-1, :3], colors(sight, latents)[:, 1:], atol=1e-4, rtol=0)
    assert (shown[:, -1] == 0).all()


def test_what_is_nearer_hides_what_is_behind_and_what_is_surer_counts_for_more():
    (sight, far, seen_far), (_, near, seen_near) = wall(4.0), wall(1.0, seed=1)
    both = make_cloud(sight, far, seen_far, HERE).join(make_cloud(sight, near, seen_near, HERE))
    shown = view(both, HERE, CAMERA)[0, 0]
    torch.testing.assert_close(shown[..., :3], colors(sight, near), atol=1e-3, rtol=0)
    sure = Seen(seen_near.keys, seen_far.log_depth, seen_far.log_doubt - 2)  # as far away, and e**4 as sure
    both = make_cloud(sight, far, seen_far, HERE).join(make_cloud(sight, near, sure, HERE))
    shown = view(both, HERE, CAMERA)[0, 0]
    torch.testing.assert_close(shown[..., :3], colors(sight, near), atol=0.1, rtol=0)
    assert shown[..., 3].mean() > 0.01  # what the points of a pixel differ by


def test_noise_is_not_shown_and_nothing_in_sight_is_nothing():
    sight, latents, seen = wall()
    blind = make_cloud(sight, latents, seen, HERE, torch.tensor([True]))
    assert (view(blind, HERE, CAMERA) == 0).all()
    behind = HERE.clone()
    behind[..., 0, 0] = behind[..., 2, 2] = -1.0
    assert (view(make_cloud(sight, latents, seen, HERE), behind, CAMERA) == 0).all()


def test_a_name_marks_the_cells_that_a_finder_chose():
    sight, latents, seen = wall()
    logits = torch.full((2, 1 + CELLS), -20.0)
    logits[0, 1 + 2 * 6 + 3] = 20.0  # the cell in row 2 and column 3
    logits[1, 0] = 20.0  # nothing
    cloud = make_cloud(sight, latents, seen, HERE).name(logits, sight)
    named = view(cloud, HERE.expand(2, 1, 4, 4), CAMERA)[:, 0, ..., 4]
    assert named[0].argmax() // 24 in (9, 10) and named[0].argmax() % 24 in (13, 14)
    assert named[0].max() > 0.7 and named[0, :6].max() < 1e-3 and named[1].max() < 1e-6


def test_rooms_are_repeated_to_as_many_as_are_joined():
    sight, latents, seen = wall()
    one = make_cloud(sight, latents, seen, HERE)
    two = Cloud(*(torch.cat([value, value]) for value in vars(one).values()))
    assert one.join(two).place.shape == (2, 2 * 16 * 24, 3)


def test_frames_of_any_pose_come_back_from_their_own_cameras(make_path):
    """Two walls of random colours, each 2 m in front of a camera that is turned about all axes."""
    latents = torch.cat([wall(seed=seed)[1] for seed in (0, 1)], dim=2)
    sight, _, one = wall()
    seen = one.each(lambda value: value.repeat(1, 2, *[1] * (value.ndim - 2)))
    c2w = make_path(1, 2)
    c2w[:, 1, :3, 3] += 50.0  # far enough for either not to see the other's wall
    shown = view(make_cloud(sight, latents, seen, c2w), c2w, CAMERA)[0, ..., :3]
    frames = 2 * PatchCodec(8).decode_groups(latents)[0, :, -1] - 1
    torch.testing.assert_close(shown, frames, atol=1e-2, rtol=0)


def test_an_over_sure_finder_names_nothing_and_breaks_nothing():
    sight, latents, seen = wall()
    logits = torch.zeros(1, 1 + CELLS)
    logits[:, 0] = 500.0
    assert (make_cloud(sight, latents, seen, HERE).name(logits, sight).named == 0).all()


def test_a_point_at_the_lens_does_not_overflow():
    """5 cm away and as sure as can be: the weight is 1e30, and sums of it stay in fp32."""
    sight, latents, seen = wall(0.051)
    sure = Seen(seen.keys, seen.log_depth, seen.log_doubt - 10)
    assert torch.isfinite(view(make_cloud(sight, latents, sure, HERE), HERE, CAMERA)).all()
