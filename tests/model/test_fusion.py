"""Known answers: depths seen from one place are averaged by their doubt, and rendered rooms come out truer."""

import math

import pytest
import torch

from v4s_lib.data.rooms import RoomTask, make_rooms
from v4s_lib.model.alignment import DOUBT
from v4s_lib.model.fusion import APART, MISPLACED, agree
from v4s_lib.model.sight import KEY, Seen, Sight
from v4s_lib.training.places import cell_log_depth
from v4s_lib.worlds.cameras import Camera

CELLS = 96  # of a frame of 32x48 pixels


@pytest.fixture(scope="module")
def sight() -> Sight:
    return Sight(16, (2, 3), 90.0)


def seen_at(log_depth: torch.Tensor, doubt: float = 0.05) -> Seen:
    """Frames (R, P, N) seen to be so far away."""
    return Seen(torch.zeros(*log_depth.shape, KEY), log_depth, torch.full_like(log_depth, math.log(doubt)))


@pytest.mark.parametrize(("apart", "moves"), [(0.1, True), (APART + 0.05, False)])
def test_two_frames_of_one_place_meet_by_their_doubt(sight, apart, moves):
    log_depth = torch.stack([torch.zeros(CELLS), torch.full((CELLS,), apart)])[None] + 1
    found = agree(sight, seen_at(log_depth), torch.eye(4).expand(1, 2, 4, 4)).log_depth
    own = DOUBT * 0.05
    share = (own**2 + MISPLACED**2) ** -1 / ((own**2 + MISPLACED**2) ** -1 + own**-2)
    change = share * apart if moves else 0.0
    expected = log_depth + torch.tensor([change, -change])[:, None]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_a_frame_agrees_with_others_that_stay():
    """One frame is pulled by two that saw the same place farther away; they are asked, not changed."""
    sight = Sight(16, (2, 3), 90.0)
    here, apart = torch.eye(4).expand(1, 1, 4, 4), 0.1
    others = seen_at(torch.full((1, 2, CELLS), 1 + apart))
    found = agree(sight, seen_at(torch.ones(1, 1, CELLS)), here, (others, here.expand(1, 2, 4, 4))).log_depth
    own, pull = DOUBT * 0.05, ((DOUBT * 0.05) ** 2 + MISPLACED**2) ** -1
    expected = 1 + apart * 2 * pull / (2 * pull + own**-2)
    torch.testing.assert_close(found, torch.full((1, 1, CELLS), expected), atol=1e-5, rtol=0)
    assert (others.log_depth == 1 + apart).all()


def test_frames_that_see_nothing_of_each_other_stay(sight):
    back = torch.diag(torch.tensor([-1.0, 1, -1, 1]))
    seen = seen_at(torch.ones(1, 2, CELLS))
    assert torch.equal(agree(sight, seen, torch.stack([torch.eye(4), back])[None]).log_depth, seen.log_depth)


def test_noisy_depths_of_a_room_come_nearer_to_the_truth(sight):
    batch = make_rooms([1_000, 1_001], RoomTask(Camera(32, 48), (20, 20), 16, reach=0.4), 1)
    truth = cell_log_depth(batch.scan_depth)
    noise = 0.08 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    found = agree(sight, seen_at(truth + noise), batch.scan_c2w[:, :, -1])
    assert (found.log_depth - truth).abs().mean() < 0.85 * noise.abs().mean()
