"""Episodes of every world: the same walk in another scene."""

from dataclasses import replace

import pytest
import torch

from v4s_lib.data.navigation import navigation_episode
from v4s_lib.data.worlds import WORLDS, world_episode
from v4s_lib.training.presets import SMOKE
from v4s_lib.worlds.cameras import inverse


def test_rooms_are_the_navigation_episodes_bit_for_bit():
    one, other = navigation_episode("test", 1, SMOKE.task), world_episode("rooms", "test", 1, SMOKE.task)
    for part in ("scan", "target"):
        for name in ("rgb", "depth", "instance"):
            assert torch.equal(getattr(getattr(one, part), name), getattr(getattr(other, part), name))
        assert torch.equal(getattr(one, f"{part}_c2w"), getattr(other, f"{part}_c2w"))


def test_the_walk_is_the_same_in_every_world_and_the_pictures_are_not():
    episodes = [world_episode(world, "validation", 2, SMOKE.task, 6) for world in WORLDS]
    walks = [inverse(e.target_c2w[0]) @ torch.cat([e.scan_c2w, e.target_c2w]) for e in episodes]
    for episode, walk in zip(episodes[1:], walks[1:], strict=True):
        torch.testing.assert_close(walk, walks[0], atol=2e-5, rtol=0)
        assert len(episode.scan.rgb) == 21
        assert (episode.target.rgb - episodes[0].target.rgb).abs().mean() > 0.005
    park = episodes[list(WORLDS).index("park")]
    assert park.scan.depth.median() > 1.5 * episodes[0].scan.depth.median()
    known = park.known(torch.arange(21), SMOKE.task.camera)
    total = known.start_seen.int() + known.recalled.int() + known.never_seen.int()
    assert (total == 1).all() and known.recalled[1:].any()


def test_worlds_that_are_not_and_paths_that_leave_the_middle_are_refused():
    with pytest.raises(ValueError, match="^expected a world out of rooms, rooms_unseen, park, got 'moon': choose"):
        world_episode("moon", "test", 0, SMOKE.task)
    far = replace(SMOKE.task, reach=5.0)
    with pytest.raises(ValueError, match="^expected a path inside the empty middle of the world park, got one outside"):
        for index in range(20):
            world_episode("park", "test", index, far, 2)
