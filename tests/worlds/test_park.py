"""Parks: the same from a seed, nothing in anything else or in the way, grass below and sky above."""

import numpy as np
import pytest
import torch

from v4s_lib.worlds.cameras import Camera, pose
from v4s_lib.worlds.park import FREE_HALF, PARK_KINDS, make_parks
from v4s_lib.worlds.raycast import render
from v4s_lib.worlds.scenes import Scenes, make_scenes, scene_seed
from v4s_lib.worlds.things import free_slots, put


@pytest.fixture(scope="module")
def parks() -> Scenes:
    return make_parks([scene_seed("test", index) for index in range(60)])


def look(scenes: Scenes, place: torch.Tensor, yaw: float, pitch: float):
    c2w = pose(place, *torch.deg2rad(torch.tensor([yaw, pitch])))[None]
    return render(scenes, torch.zeros(1, dtype=torch.long), c2w, Camera(24, 36), samples=1)


def test_a_seed_gives_one_park_and_no_other_split_has_it():
    first, again = make_parks([scene_seed("test", 3)]), make_parks([scene_seed("demo", 3), scene_seed("test", 3)])
    assert torch.equal(first.center[0], again.center[1]) and torch.equal(first.textures[0], again.textures[1])
    assert first.objects[0] == again.objects[1] and first.objects[0] != again.objects[0]


def test_nothing_stands_in_the_empty_middle_in_another_thing_or_outside(parks):
    for park, objects in enumerate(parks.objects):
        low, high = (np.array([getattr(item, end) for item in objects]) for end in ("box_min", "box_max"))
        assert (low > -1e-5).all() and (high < parks.room[park].numpy()).all()
        free_min, free_max = parks.free_min[park].numpy(), parks.free_max[park].numpy()
        assert not ((low[:, :2] < free_max) & (high[:, :2] > free_min)).all(axis=1).any()
        middle, half = (low + high)[:, :2] / 2, (high - low)[:, :2] / 2
        square = np.array([item.kind in ("bench", "hedge") for item in objects])
        radius = np.where(square, np.linalg.norm(half, axis=1), half.max(axis=1))
        for place in range(len(objects)):
            apart = np.linalg.norm(middle - middle[place], axis=1) - radius - radius[place]
            assert np.delete(apart, place).min() > -0.1  # a bench is not quite round its middle
    assert torch.allclose(parks.free_max - parks.free_min, torch.tensor(2 * FREE_HALF), atol=1e-4)


def test_every_park_has_every_kind(parks):
    for objects in parks.objects:
        counts = {name: sum(item.kind == name for item in objects) for name in PARK_KINDS}
        assert all(kind.count[0] <= counts[name] <= kind.count[1] for name, kind in PARK_KINDS.items())
    assert len({tuple(item.kind for item in objects) for objects in parks.objects}) > 50


def test_a_park_has_grass_below_sky_above_and_its_things_around():
    park = make_parks([scene_seed("test", 0)])
    eye = torch.tensor([*((park.free_min + park.free_max)[0] / 2).tolist(), 1.5])
    down, up = look(park, eye, 0, -80), look(park, eye, 0, 80)
    assert (down.instance == 4).all() and (up.instance == 5).all()
    assert up.depth.min() > 5
    red, green, blue = up.rgb.mean(dim=(0, 1, 2)).tolist()
    assert blue > max(red, green)
    seen = {i for yaw in range(0, 360, 45) for i in look(park, eye, yaw, -10).instance.unique().tolist()}
    near = [item for item in park.objects[0] if item.kind != "pond"]  # a pond can hide behind a hedge
    assert {0, 1, 2, 3, 4} < seen and sum(item.instance in seen for item in near) >= len(near) - 2


def test_a_thing_has_the_box_of_its_parts_and_a_full_scene_takes_no_more():
    slots = free_slots()
    parts = (("box", 0.5, 0, 0, 1, 2, 0.5, 1, None), ("frustum", 0, 0, 0.5, 0.4, 0.4, 0.5, 3, (0.1, 0.2, 0.3)))
    low, high = put(slots, parts, (4.0, 5.0, 1.0), 2.0, (0.7, 0.8, 0.9), 21)
    np.testing.assert_allclose(low, [2.8, 3, 1])
    np.testing.assert_allclose(high, [6, 7, 3])
    rows = np.flatnonzero(slots["instance"] == 21)
    np.testing.assert_allclose(slots["center"][rows], [[5, 5, 1.5], [4, 5, 2.5]])
    np.testing.assert_allclose(slots["color"][rows], [[0.7, 0.8, 0.9], [0.1, 0.2, 0.3]], rtol=1e-6)
    for _ in range(9):
        put(slots, parts, (4.0, 5.0, 1.0), 2.0, (0.7, 0.8, 0.9), 22)
    with pytest.raises(ValueError, match="^expected a free slot for each of 2 parts, got a full scene"):
        put(slots, parts, (4.0, 5.0, 1.0), 2.0, (0.7, 0.8, 0.9), 23)


def test_free_slots_are_those_of_a_room():
    room, slots = make_scenes([0]), free_slots()
    unused = (room.instance[0] == -1).numpy()
    for name, values in slots.items():
        stored = getattr(room, name)[0].numpy()
        assert stored.dtype == values.dtype and np.array_equal(stored[unused], values[unused])
