"""Grounding episodes keep their promises, measured on the rendered truth."""

from dataclasses import replace

import pytest
import torch

from v4s_lib.data.boxes import BOX_COLOR, box_tail, is_centred, is_shown, mask_box, outline
from v4s_lib.data.grounding import grounding_episode
from v4s_lib.training.presets import get_preset
from v4s_lib.worlds.cameras import Camera
from v4s_lib.worlds.objects import COLORS

TASK = get_preset("small").task


@pytest.fixture(scope="module")
def episodes():
    return [grounding_episode("validation", index, TASK) for index in range(6)]


def test_the_object_is_unseen_at_the_start_seen_by_the_scan_and_centred_at_the_end(episodes):
    for episode in episodes:
        shown = episode.target.instance == episode.item.instance
        assert not shown[0].any()
        assert is_centred(shown[-1]) and shown[-1].sum() >= 12
        assert is_shown(episode.scan.instance == episode.item.instance)
        assert episode.item.label in episode.instruction
        assert torch.equal(mask_box(shown[-1]), episode.box)


def test_paths_are_smooth_and_stay_in_the_free_middle(episodes):
    for episode in episodes:
        place = episode.target_c2w[:, :2, 3]
        assert (place >= episode.scenes.free_min[0]).all() and (place <= episode.scenes.free_max[0]).all()
        turned = episode.target_c2w[1:, :3, 2] - episode.target_c2w[:-1, :3, 2]
        assert turned.norm(dim=-1).max() < 0.35  # 20 degrees a frame: half a turn eases in and out in 28 frames


def test_the_tail_stands_still_and_the_box_fades_in(episodes):
    episode = episodes[0]
    moving, tail = episode.target_frames[:-4], episode.target_frames[-4:]
    assert torch.equal(moving, episode.target.rgb)
    line = outline(episode.box, *moving.shape[1:3])
    assert torch.equal(tail[:, ~line], moving[-1, ~line].expand(4, -1, -1))
    torch.testing.assert_close(tail[-1, line], torch.tensor(BOX_COLOR).expand(int(line.sum()), 3))
    half = (moving[-1, line] + torch.tensor(BOX_COLOR)) / 2
    torch.testing.assert_close(tail[1, line], half)


def test_an_episode_is_a_function_of_split_and_index(episodes):
    again = grounding_episode("validation", 2, TASK)
    assert torch.equal(again.target_frames, episodes[2].target_frames)
    assert again.instruction == episodes[2].instruction


def test_the_box_goes_around_the_object_and_has_a_colour_of_its_own():
    mask = torch.zeros(8, 10, dtype=torch.bool)
    mask[3:5, 4:7] = True
    assert mask_box(mask).tolist() == [3, 4, 4, 6]
    line = outline(mask_box(mask), 8, 10)
    assert not (line & mask).any() and line.sum() == 14  # a 4 x 5 rectangle's edge
    assert box_tail(torch.zeros(8, 10, 3), mask_box(mask), 2).shape == (2, 8, 10, 3)
    assert min((torch.tensor(BOX_COLOR) - torch.tensor(color)).norm() for color in COLORS.values()) > 0.5
    with pytest.raises(ValueError, match="expected a mask that holds the object"):
        mask_box(torch.zeros(8, 10, dtype=torch.bool))


def test_a_box_has_a_thicker_line_in_larger_frames():
    line = outline(torch.tensor([100, 119, 200, 229]), 256, 416)
    assert line.sum() == 26 * 36 - 20 * 30  # three pixels around 20 x 30
    assert not line[100:120, 200:230].any() and line[97, 197] and not line[96, 196]


def test_centred_means_near_the_middle_and_large_enough():
    mask = torch.zeros(30, 48, dtype=torch.bool)
    mask[13:17, 22:26] = True
    assert is_centred(mask)
    assert not is_centred(mask.roll(12, dims=1)) and not is_centred(mask.roll(8, dims=0))
    mask[:, :23] = False
    assert is_centred(mask)  # 12 pixels are left, of 1440
    mask[:14] = False
    assert not is_centred(mask)


def test_a_task_in_which_nothing_can_be_asked_for_is_refused():
    task = replace(get_preset("smoke").task, camera=Camera(16, 24, horizontal_fov=170))  # every object is too small
    with pytest.raises(ValueError, match="^expected an object to ask for in one of 200 rooms, got none"):
        grounding_episode("validation", 0, task)
