"""Known answers: rendered frames, whose poses are disturbed, go home by their pixels alone."""

import pytest
import torch
from torch.nn.functional import interpolate

from tests.model.drawn import disturbed, errors, randn
from v4s_lib.data.rooms import RoomTask, make_rooms
from v4s_lib.model import refinement
from v4s_lib.model.refinement import ALL, Effort, Pictures, blurred, refine
from v4s_lib.worlds.cameras import Camera, check_rigid

CAMERA = Camera(32, 48)
FRAMES = 10
CLOSE = {"atol": 1e-5, "rtol": 0}


@pytest.fixture(scope="module")
def rooms() -> tuple[torch.Tensor, Pictures]:
    """True poses (2, FRAMES, 4, 4) of the last frames of two rooms' scans, and what they show."""
    task = RoomTask(CAMERA, scan_latents=(20, 20), pool_latents=FRAMES, reach=0.4)
    batch = make_rooms([1_000, 1_001], task, 1)
    color = 2 * batch.scan_frames[:, :, -1].permute(0, 1, 4, 2, 3) - 1
    return batch.scan_c2w[:, :, -1], Pictures(color, batch.scan_depth)


def lost(truth: torch.Tensor, turn: float = 3.0, shift: float = 0.12) -> torch.Tensor:
    """Poses as matches of cells leave them; the last frame stands where it does stand."""
    guess = disturbed(truth, turn, shift, seed=7)
    guess[:, -1] = truth[:, -1]
    return guess


def test_pixels_bring_all_frames_home(rooms):
    truth, pictures = rooms
    guess = lost(truth)
    found = refine(guess, pictures, CAMERA, slice(0, FRAMES - 1))
    turn, shift = errors(found, truth, "mean")
    assert turn < errors(guess, truth, "mean")[0] / 2
    assert shift < errors(guess, truth, "mean")[1] / 2
    assert torch.equal(found[:, -1], truth[:, -1])
    check_rigid(found, "poses")


def test_larger_frames_with_larger_cells_go_home_as_well():
    camera = Camera(64, 96)
    batch = make_rooms([1_000, 1_001], RoomTask(camera, (20, 20), FRAMES, reach=0.4, samples=1), 1)
    color = 2 * batch.scan_frames[:, :, -1].permute(0, 1, 4, 2, 3) - 1
    truth = batch.scan_c2w[:, :, -1]
    guess = lost(truth)
    found = refine(guess, Pictures(color, batch.scan_depth, cell=8), camera, slice(0, FRAMES - 1))
    before, after = errors(guess, truth, "mean"), errors(found, truth, "mean")
    assert after[0] < before[0] / 2 and after[1] < before[1] / 2


def test_one_frame_comes_home_among_others_that_stay(rooms):
    truth, pictures = rooms
    guess = truth.clone()
    guess[:, -1] = disturbed(truth[:, -1], 3.0, 0.12, seed=3)
    found = refine(guess, pictures, CAMERA, slice(FRAMES - 1, None))
    assert torch.equal(found[:, :-1], truth[:, :-1])
    turn, shift = errors(found, truth)
    assert turn < 1 and shift < 0.05 and errors(guess, truth)[0] > 3


def test_frames_are_compared_with_those_that_are_to_be_met(rooms):
    """The others may show anything: but for frames that are met, nothing tells where a free one stands."""
    truth, pictures = rooms
    guess = truth.clone()
    guess[:, 0] = disturbed(truth[:, 0], 3.0, 0.12, seed=3)
    strange = pictures.color.clone()
    strange[:, 1:5] = strange[:, 1:5].flip(-1)
    told = (Pictures(color, pictures.depth) for color in (pictures.color, strange))
    usual, other = (refine(guess, shown, CAMERA, slice(0, 1), met=slice(5, None)) for shown in told)
    assert torch.equal(usual, other) and torch.equal(usual[:, 1:], truth[:, 1:])
    assert errors(usual[:, :1], truth[:, :1], "mean")[0] < errors(guess[:, :1], truth[:, :1], "mean")[0] / 2


def test_own_pixels_are_looked_for_in_frames_with_wrong_depths(rooms):
    """The others' depths are 15% too large, the free frame's own are right: it helps to go by those, too."""
    truth, pictures = rooms
    guess = truth.clone()
    guess[:, -1] = disturbed(truth[:, -1], 3.0, 0.12, seed=3)
    deeper = torch.cat([1.15 * pictures.depth[:, :-1], pictures.depth[:, -1:]], dim=1)
    told, last = Pictures(pictures.color, deeper), slice(FRAMES - 1, None)
    one_way, mutual = (refine(guess, told, CAMERA, last, Effort(mutual=mutual)) for mutual in (False, True))
    assert torch.equal(mutual[:, :-1], truth[:, :-1])
    assert errors(mutual, truth)[1] < 0.8 * errors(one_way, truth)[1]


def test_pixels_that_hang_on_their_depth_count_less(rooms, monkeypatch):
    """Depths are off by some 20%, smoothly. True poses drift less if that is known."""
    truth, pictures = rooms
    off = interpolate(
        0.2 * randn(*truth.shape[:2], 4, 6, seed=5), size=(CAMERA.height, CAMERA.width), mode="bilinear"
    ).exp()
    told, free = Pictures(pictures.color, pictures.depth * off), slice(0, FRAMES - 1)
    knowing = errors(refine(truth, told, CAMERA, free, ALL), truth, "mean")
    monkeypatch.setattr(refinement, "DEEPER", 0.0)
    believing = errors(refine(truth, told, CAMERA, free, ALL), truth, "mean")
    assert knowing[0] < believing[0] and knowing[1] < 0.97 * believing[1]


def test_exposure_may_differ(rooms):
    truth, pictures = rooms
    gain = torch.linspace(0.8, 1.2, FRAMES)[[3, 0, 8, 5, 1, 9, 2, 7, 4, 6]]
    darker = Pictures((pictures.color + 1) * gain[:, None, None, None] - 1, pictures.depth)
    found = refine(lost(truth), darker, CAMERA, slice(0, FRAMES - 1))
    usual = refine(lost(truth), pictures, CAMERA, slice(0, FRAMES - 1))
    turn, shift = errors(found, truth, "mean")
    assert turn < errors(usual, truth, "mean")[0] + 0.3 and shift < errors(usual, truth, "mean")[1] + 0.02


def test_rooms_do_not_touch_each_other(rooms):
    truth, pictures = rooms
    both = refine(lost(truth), pictures, CAMERA, slice(0, FRAMES - 1))
    second = Pictures(pictures.color[1:], pictures.depth[1:])
    alone = refine(lost(truth)[1:], second, CAMERA, slice(0, FRAMES - 1))
    torch.testing.assert_close(both[1:], alone, atol=1e-4, rtol=0)


def test_frames_may_be_compared_a_few_at_a_time(rooms, monkeypatch):
    truth, pictures = rooms
    guess = lost(truth)
    whole = refine(guess, pictures, CAMERA, slice(0, FRAMES - 1), ALL)
    monkeypatch.setitem(refinement.AT_ONCE, "cpu", 1)
    torch.testing.assert_close(refine(guess, pictures, CAMERA, slice(0, FRAMES - 1), ALL), whole, atol=1e-4, rtol=0)


def test_moving_all_cameras_together_changes_no_colour(rooms, monkeypatch):
    """The normal equations know no force against a rigid motion of the whole room."""
    truth, pictures = rooms
    systems = []
    monkeypatch.setattr(refinement, "change", lambda poses, moved, normal, *others: systems.append(normal))
    refine(lost(truth), pictures, CAMERA, slice(None), Effort((0.25,)))
    system = systems[0].unflatten(0, (2, FRAMES, FRAMES)).transpose(2, 3).reshape(2, 6 * FRAMES, 6 * FRAMES)
    turn, shift = torch.tensor([0.3, -0.5, 0.8]), torch.tensor([0.2, 0.7, -0.4])
    shifts = torch.linalg.cross(turn.expand(2, FRAMES, 3), lost(truth)[..., :3, 3]) + shift
    motion = torch.cat([turn.expand(2, FRAMES, 3), shifts], dim=-1).flatten(1)
    force, alone = (system @ motion[..., None])[..., 0], system.diagonal(dim1=1, dim2=2) * motion
    assert force.norm() < 1e-4 * alone.norm()


def test_grey_frames_leave_the_guess(rooms):
    truth, pictures = rooms
    guess = lost(truth)
    grey = Pictures(torch.zeros_like(pictures.color), pictures.depth)
    torch.testing.assert_close(refine(guess, grey, CAMERA, slice(0, FRAMES - 1)), guess, **CLOSE)


def test_what_is_hidden_does_not_pull(rooms):
    """All but the last frame stand behind its walls, far away: none of their pixels is to be seen there."""
    truth, pictures = rooms
    guess = lost(truth)
    guess[:, :-1, 2, 3] += 50
    torch.testing.assert_close(refine(guess, pictures, CAMERA, slice(FRAMES - 1, None)), guess, **CLOSE)


def test_a_blur_keeps_what_is_even_and_spreads_a_point():
    even = blurred(torch.full((1, 2, 9, 9), 0.7), 1.0)
    torch.testing.assert_close(even, torch.full((1, 2, 9, 9), 0.7), **CLOSE)
    point = torch.zeros(1, 1, 9, 9)
    point[0, 0, 4, 4] = 1
    spread = blurred(point, 1.0)[0, 0]
    torch.testing.assert_close(spread.sum(), torch.tensor(1.0), **CLOSE)
    assert spread[4, 4] == spread.max() and torch.allclose(spread, spread.T) and (spread[0] == 0).all()
