"""What one place is, in rooms of which everything is known, and losses whose value is known."""

import math

import pytest
import torch

from v4s_lib.data.rooms import make_rooms
from v4s_lib.model.sight import KEY, LEAST_CELL, Seen
from v4s_lib.training.places import cell_log_depth, depth_loss, matching_loss, own_frame, shared_places
from v4s_lib.training.presets import SMALL
from v4s_lib.worlds.cameras import Camera, pose

CAMERA = Camera(16, 24)
CELLS = 4 * 6


def wall(*positions: tuple[float, float, float], far: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Cameras that look along +x at a wall ``far`` metres from the origin: depth (1, n, H, W) and c2w (1, n, 4, 4)."""
    place, zero = torch.tensor([positions], dtype=torch.float32), torch.zeros(1, len(positions))
    depth = (far - place[..., 0])[..., None, None].expand(-1, -1, CAMERA.height, CAMERA.width)
    return depth, pose(place, zero, zero)


def test_cells_of_one_wall_move_with_the_camera():
    """At 2 m and a focal length of 12 pixels a step of 2/3 m to the left moves the wall by one cell to the right."""
    shared = shared_places(*wall((0, 0, 1)), *wall((0, 0, 1), (0, 2 / 3 + 0.01, 1)), CAMERA)[0]
    assert shared.shape == (CELLS, 2 * CELLS)
    assert torch.equal(shared[:, :CELLS], torch.eye(CELLS, dtype=torch.bool))
    for cell in range(CELLS):
        row, column = divmod(cell, 6)
        expected = [row * 6 + column + 1] if column < 5 else []
        assert shared[cell, CELLS:].nonzero().flatten().tolist() == expected


def test_what_stands_before_it_hides_a_place():
    depth, c2w = wall((0, 0, 1), (0, 0, 1))
    depth = depth.clone()
    depth[0, 1, :, :12] = 0.5  # something near, in the left half of the second frame
    shared = shared_places(depth[:, :1], c2w[:, :1], depth[:, 1:], c2w[:, 1:], CAMERA)[0]
    seen = shared.any(dim=1).view(4, 6)
    assert not seen[:, :3].any() and seen[:, 3:].all()


def test_nothing_behind_the_camera_is_shared():
    c2w = pose(torch.tensor([[[0.0, 0, 1]]]), torch.tensor([[math.pi]]), torch.zeros(1, 1))
    assert not shared_places(*wall((0, 0, 1)), wall((0, 0, 1))[0], c2w, CAMERA).any()


def test_shared_places_have_like_colours_in_real_rooms():
    """Cells that show one place look alike; others of the same frame do not."""
    task = SMALL.task
    batch = make_rooms([5], task, 2)
    shared = shared_places(
        batch.start_depth, batch.target_c2w[:, :, 0], batch.scan_depth, batch.scan_c2w[:, :, -1], task.camera
    )[0]
    colors = [
        frames.unflatten(-2, (-1, LEAST_CELL)).unflatten(-4, (-1, LEAST_CELL)).mean(dim=(-4, -2)).flatten(0, -2)
        for frames in (batch.target_frames[0, :, 0], batch.scan_frames[0, :, -1])
    ]
    difference = torch.cdist(*colors)
    assert 0.5 < shared.any(dim=1).float().mean() <= 1
    assert difference[shared].median() < 0.1 < 0.3 < difference[~shared].median()


def test_depth_of_a_cell_is_that_of_its_middle():
    depth = torch.full((8, 8), math.e)
    depth[0, :] = 50.0  # the border of a cell
    depth[1:3, 5:7] = torch.tensor([[1.0, math.e**2], [1.0, math.e**2]])
    torch.testing.assert_close(cell_log_depth(depth), torch.ones(4))


def test_larger_cells_of_larger_frames_share_the_same_places():
    """What four pixels are in a frame, eight are in one of twice its size."""
    batch = make_rooms([5], SMALL.task, 2)
    frames = (batch.start_depth, batch.target_c2w[:, :, 0], batch.scan_depth, batch.scan_c2w[:, :, -1])
    double = [
        part.repeat_interleave(2, -1).repeat_interleave(2, -2) if n % 2 == 0 else part for n, part in enumerate(frames)
    ]
    camera = SMALL.task.camera
    shared = shared_places(*frames, camera)
    larger = shared_places(*double, Camera(2 * camera.height, 2 * camera.width, camera.horizontal_fov), 2 * LEAST_CELL)
    assert larger.shape == shared.shape
    both = (larger & shared).sum() / (larger | shared).sum()
    assert both > 0.95  # at the cells' edges, depths of other pixels are met


def test_own_cells_are_those_of_one_frame():
    own = own_frame(torch.zeros(1, 3, 8, 8))
    assert own.shape == (12, 12) and own[4:8, 4:8].all() and own.sum() == 3 * 16
    some = own_frame(torch.zeros(1, 3, 8, 8), every=2)
    assert some.shape == (8, 12) and some[4:8, 8:].all() and some.sum() == 2 * 16


def test_the_matching_loss_is_a_divergence():
    shared = torch.tensor([[[True, True, False], [False, False, False]]])
    perfect = torch.tensor([[[-99.0, 5, 5, -99], [5, -99, -99, -99]]])
    torch.testing.assert_close(matching_loss(perfect, shared), torch.zeros(2), atol=1e-5, rtol=0)
    even = matching_loss(torch.zeros(1, 2, 4), shared)
    torch.testing.assert_close(even, torch.tensor([math.log(4 / 2), math.log(4)]))


@pytest.mark.parametrize("doubt", [0.05, 0.1, 0.2])
def test_depth_is_best_doubted_by_its_own_error(doubt):
    depth = torch.full((1, 1, 8, 8), math.exp(0.1))  # an error of 0.1 in each log depth
    losses = {}
    for said in (0.05, 0.1, 0.2):
        seen = Seen(torch.zeros(1, 1, 4, KEY), torch.zeros(1, 1, 4), torch.full((1, 1, 4), math.log(said)))
        losses[said] = depth_loss(seen, depth).mean().item()
    assert losses[doubt] == pytest.approx(0.1 / doubt + math.log(doubt), abs=1e-5)
    assert min(losses, key=losses.get) == 0.1
