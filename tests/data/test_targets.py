"""What training rooms ask for: objects that are there, named truly, and boxes around them and nothing else."""

import math
from dataclasses import replace

import pytest
import torch

from v4s_lib.data.boxes import BOX_COLOR, is_centred, is_shown
from v4s_lib.data.instructions import GROUNDING, NAVIGATION
from v4s_lib.data.rooms import RoomBatch, make_rooms, training_seeds
from v4s_lib.data.targets import bearing, choose_object, middle, neighbours, turn
from v4s_lib.training.presets import get_preset
from v4s_lib.worlds.scenes import make_scenes

TASK = replace(get_preset("small").task, samples=1)
NAME = GROUNDING.split("{name}")[0]


@pytest.fixture(scope="module")
def rooms() -> list[RoomBatch]:
    return [make_rooms(training_seeds(7, index, 1), TASK, 4) for index in range(4)]


def test_half_of_the_targets_seek_an_object_and_nearly_all_find_it(rooms):
    said = [[sentence != NAVIGATION for sentence in room.instructions[0]] for room in rooms]
    assert not any(flag for room in said for flag in room[2:])
    assert sum(flag for room in said for flag in room[:2]) >= 6


def test_a_box_is_drawn_where_an_object_is_sought_and_nowhere_else(rooms):
    magenta = torch.tensor(BOX_COLOR)
    for room in rooms:
        for sentence, frames in zip(room.instructions[0], room.target_frames[0], strict=True):
            assert frames.shape == (33, 32, 48, 3)
            boxed = ((frames - magenta).abs().amax(dim=-1) < 1e-5).flatten(1).any(dim=1)
            assert boxed.tolist() == [False] * 32 + [sentence != NAVIGATION]


def test_the_camera_stands_still_in_the_tail(rooms):
    for room in rooms:
        for sentence, c2w in zip(room.instructions[0], room.target_c2w[0], strict=True):
            assert torch.equal(c2w[-4:], c2w[-5].expand(4, 4, 4)) or sentence == NAVIGATION


def test_what_is_named_is_in_the_centre_at_the_end(rooms):
    for room in rooms:
        objects = {item.label: item for item in room.scenes.objects[0]}
        for sentence, c2w in zip(room.instructions[0], room.target_c2w[0], strict=True):
            if sentence != NAVIGATION:
                item = objects[" ".join(sentence.removeprefix(NAME).split()[1:3])]
                away = c2w[-1, :3, :3].T @ (middle(item) - c2w[-1, :3, 3])
                assert math.degrees(math.atan2(away[:2].norm(), away[2])) < 1
                assert is_centred(torch.ones(32, 48)) and away[2] < 4


def test_objects_are_chosen_that_the_start_frame_does_not_look_at():
    scenes = make_scenes(list(range(8)))
    generator = torch.Generator().manual_seed(0)
    for room in range(8):
        for _ in range(4):
            item = choose_object(scenes, room, generator, torch.eye(4)[[1, 2, 0, 3]], 10.0)  # looks along y
            assert item is None or abs(turn(bearing(scenes, room, item) - math.pi / 2)) > math.radians(70)


def test_left_and_right_are_opposite_and_seen_from_the_middle():
    scenes = make_scenes(list(range(8)))
    for room, objects in enumerate(scenes.objects):
        for item in objects:
            for relation, other in neighbours(scenes, room, item):
                back = {found.label: name for name, found in neighbours(scenes, room, other)}
                assert {relation, back[item.label]} == {"left of", "right of"}
                # To the left is where a turn to the left brings what one looks at: counterclockwise from above.
                assert (turn(bearing(scenes, room, item) - bearing(scenes, room, other)) > 0) == (relation == "left of")


def test_a_lone_start_frame_asks_for_what_the_scan_shows():
    """Nothing to go to, so the object need not end in the middle; the frame is left as it was rendered."""
    task = replace(TASK, target_latents=1, tail_latents=0, grounding=1.0)
    asked = 0
    for index in range(4):
        room = make_rooms(training_seeds(7, index, 1), task, 4)
        assert room.target_frames.shape[2] == 1
        for sentence, sought in zip(room.instructions[0], room.sought[0].tolist(), strict=True):
            assert (sentence == NAVIGATION) == (sought == -1)
            assert sought == -1 or is_shown(room.scan_instance[0] == sought)
            asked += sought != -1
    assert asked > 10
