"""Rooms with unseen objects: another shape in the same place, and nothing else changes."""

import numpy as np
import pytest
import torch

from v4s_lib.worlds.objects import KINDS
from v4s_lib.worlds.scenes import Scenes, make_scenes, scene_seed
from v4s_lib.worlds.unseen import UNSEEN_KINDS, with_unseen_kinds

SEEDS = [scene_seed("test", index) for index in range(100)]


@pytest.fixture(scope="module")
def rooms() -> Scenes:
    return make_scenes(SEEDS)


@pytest.fixture(scope="module")
def unseen(rooms) -> Scenes:
    return with_unseen_kinds(rooms, SEEDS)


def test_no_kind_is_of_the_training_rooms(rooms, unseen):
    kinds = {item.kind for objects in unseen.objects for item in objects}
    assert kinds == set(UNSEEN_KINDS) and not kinds & set(KINDS)
    again = make_scenes(SEEDS)  # the rooms themselves are as they were
    assert torch.equal(rooms.center, again.center) and rooms.objects == again.objects


def test_objects_stand_where_the_others_stood(rooms, unseen):
    for before, after in zip(rooms.objects, unseen.objects, strict=True):
        for old, new in zip(before, after, strict=True):
            assert (new.color, new.instance) == (old.color, old.instance)
            foot = [(np.array(item.box_min) + np.array(item.box_max))[:2] / 2 for item in (old, new)]
            np.testing.assert_allclose(*foot, atol=0.15)  # a kettle's handle is on one side
            height = old.box_max[2] - old.box_min[2]
            assert new.box_min[2] == pytest.approx(old.box_min[2], abs=1e-5)
            assert new.box_max[2] - new.box_min[2] == pytest.approx(height, abs=1e-5)
            assert (np.array(new.box_max) - new.box_min <= height * 1.001).all()


def test_only_the_objects_primitives_change(rooms, unseen):
    for name in ("room", "textures", "light", "free_min", "free_max"):
        assert torch.equal(getattr(rooms, name), getattr(unseen, name))
    furniture = (rooms.instance >= 6) & (rooms.instance < 20)
    assert torch.equal(furniture, (unseen.instance >= 6) & (unseen.instance < 20))
    for name in ("center", "half", "taper", "color"):
        assert torch.equal(getattr(rooms, name)[furniture], getattr(unseen, name)[furniture])
    for room, objects in enumerate(unseen.objects):
        ids, counts = unseen.instance[room][unseen.instance[room] >= 20].unique(return_counts=True)
        assert ids.tolist() == [item.instance for item in objects] and (counts == 2).all()


def test_no_object_reaches_into_the_empty_middle(unseen):
    for room, objects in enumerate(unseen.objects):
        for item in objects:
            low, high = np.array(item.box_min[:2]), np.array(item.box_max[:2])
            inside = (low < unseen.free_max[room].numpy()) & (high > unseen.free_min[room].numpy())
            assert not inside.all()
