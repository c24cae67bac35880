"""Rooms: splits share no seed, a seed gives the same room, and everything stands where it may."""

import numpy as np
import pytest
import torch
from PIL import Image

from v4s_lib.worlds.__main__ import main
from v4s_lib.worlds.cameras import Camera, pose
from v4s_lib.worlds.objects import COLORS, KINDS, NEW_LABELS
from v4s_lib.worlds.raycast import render
from v4s_lib.worlds.scenes import FREE_MARGIN, SPLITS, Scenes, make_scenes, scene_seed


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return make_scenes([scene_seed("test", index) for index in range(100)])


def test_splits_share_no_seed():
    seeds = {split: {scene_seed(split, index) for index in range(5000)} for split in SPLITS}
    assert set(seeds) == {"train", "validation", "test", "demo"}
    assert len(set.union(*seeds.values())) == 4 * 5000
    with pytest.raises(ValueError, match="expected a split out of train, validation, test, demo, got 'val'"):
        scene_seed("val", 0)


def test_a_seed_gives_the_same_pixels_alone_or_in_a_batch_and_another_gives_others():
    c2w = pose(torch.tensor([[2.2, 2.2, 1.5]]), torch.tensor([0.3]), torch.tensor([-0.1]))

    def picture(seeds: list[int], place: int) -> torch.Tensor:
        return render(make_scenes(seeds), torch.tensor([place]), c2w, Camera(32, 48), samples=3).rgb

    first = picture([scene_seed("test", 1)], 0)
    assert torch.equal(first, picture([scene_seed("test", 1)], 0))
    assert torch.equal(first, picture([scene_seed("test", 0), scene_seed("test", 1)], 1))
    assert (first - picture([scene_seed("validation", 1)], 0)).abs().mean() > 0.05


def test_everything_stands_in_the_room_outside_the_free_middle(scenes):
    wide = torch.stack([scenes.taper.clamp(min=1)] * 2 + [torch.ones_like(scenes.taper)], dim=-1)
    low, high = scenes.center - scenes.half * wide, scenes.center + scenes.half * wide
    real = scenes.instance >= 0
    assert (low[real] > -1e-5).all()
    assert ((scenes.room[:, None] - high)[real] > -1e-5).all()
    overlaps = (low[..., :2] < scenes.free_max[:, None]) & (high[..., :2] > scenes.free_min[:, None])
    assert not (overlaps.all(dim=-1) & real).any()
    assert torch.equal(scenes.free_min, torch.full((100, 2), FREE_MARGIN))
    assert (scenes.free_max - scenes.free_min > 2).all()


def test_objects_have_unique_labels_known_names_and_boxes_that_hold_their_parts(scenes):
    assert min(map(len, scenes.objects)) >= 4 and max(map(len, scenes.objects)) == 6
    for room, objects in enumerate(scenes.objects):
        assert len({item.label for item in objects}) == len(objects)
        for item in objects:
            assert item.kind in KINDS and item.color in COLORS and item.label == f"{item.color} {item.kind}"
            parts = scenes.instance[room] == item.instance
            assert parts.sum() == len(KINDS[item.kind])
            scale = torch.stack([scenes.taper[room].clamp(min=1)] * 2 + [torch.ones_like(scenes.taper[room])], dim=-1)
            low = (scenes.center[room] - scenes.half[room] * scale)[parts].amin(0)
            high = (scenes.center[room] + scenes.half[room] * scale)[parts].amax(0)
            torch.testing.assert_close(low, torch.tensor(item.box_min), atol=1e-5, rtol=0)
            torch.testing.assert_close(high, torch.tensor(item.box_max), atol=1e-5, rtol=0)


def test_rooms_can_do_without_some_labels_and_colours_and_kinds_stay():
    names = {item.label for objects in make_scenes(list(range(60)), NEW_LABELS).objects for item in objects}
    assert len(NEW_LABELS) == len(set(NEW_LABELS)) == 16
    assert names.isdisjoint(NEW_LABELS) and len(names) > 50
    for part, every in ((0, COLORS), (1, KINDS)):
        assert {name.split()[part] for name in names} == {name.split()[part] for name in NEW_LABELS} == set(every)


def test_objects_do_not_stand_in_each_other_or_in_furniture(scenes):
    for objects in scenes.objects:
        for i, one in enumerate(objects):
            for other in objects[:i]:
                apart = np.maximum(np.subtract(one.box_min, other.box_max), np.subtract(other.box_min, one.box_max))
                assert apart.max() > -1e-6, (one, other)


def test_contact_sheet(tmp_path, capsys):
    main(["--rooms", "2", "--seed", "1", "--out", str(tmp_path / "sheets" / "rooms.png")])
    assert Image.open(tmp_path / "sheets" / "rooms.png").size == (6 * 144, 2 * 96)
    assert [path.name for path in (tmp_path / "sheets").iterdir()] == ["rooms.png"]
    assert f"room of seed {scene_seed('demo', 1)}: " in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--rooms", "0"])
