"""Known answers: causes of failures that are made on purpose."""

import pytest
import torch

from v4s_lib.data.grounding import grounding_episode
from v4s_lib.data.navigation import navigation_episode
from v4s_lib.data.targets import middle
from v4s_lib.evaluation.causes import grounding_cause, navigation_cause
from v4s_lib.training.presets import get_preset
from v4s_lib.worlds.cameras import inverse, pose, turning

TASK = get_preset("small").task
TURN = torch.eye(4)
TURN[:3, :3] = turning(torch.tensor([0.0, 0.2, 0.0]))  # 11 degrees


@pytest.fixture
def placed():
    """A room, and poses of its context and start frame that are all as they should be."""
    episode = navigation_episode("validation", 0, TASK)
    frames = torch.arange(16).reshape(4, 4)
    to_axes = inverse(episode.scan_c2w[frames[-1, -1]])
    context, start = to_axes @ episode.scan_c2w[frames], to_axes @ episode.target_c2w[:1]
    target = start[:, None].expand(-1, 4, -1, -1)
    return episode, {"frames": frames, "to_axes": to_axes, "context": context, "target": target}


def test_places_that_are_right_are_not_to_blame(placed):
    episode, found = placed
    assert navigation_cause(found, episode, 0.4).startswith("errors of depths or drawing, for it gains 0.4 dB")
    assert navigation_cause(found, episode, 8.0).startswith("small errors of places, for it gains 8.0 dB")


def test_a_start_frame_that_is_turned_is_misplaced(placed):
    episode, found = placed
    cause = navigation_cause(found | {"target": found["target"] @ TURN}, episode, 8.0)
    assert cause == "the start frame is misplaced (start frame 11.5° and 0.00 m off, 0% of the context's frames astray)"


def test_context_frames_that_are_moved_are_misplaced(placed):
    episode, found = placed
    context = found["context"].clone()
    context[0, :, 0, 3] += 0.3
    cause = navigation_cause(found | {"context": context}, episode, 8.0)
    assert cause.startswith("context frames are misplaced") and "25% of" in cause


def test_one_bad_frame_accuses_no_other(placed):
    episode, found = placed
    context = found["context"].clone()
    context[-1, -1] = context[-1, -1] @ TURN
    cause = navigation_cause(found | {"context": context}, episode, 8.0)
    assert cause.startswith("small errors of places") and "0.00 m off, 6% of" in cause


def facing(goal: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """The pose (4, 4) at ``place`` that has ``goal`` in its middle."""
    x, y, z = goal - place
    return pose(place, torch.atan2(y, x), torch.atan2(z, torch.hypot(x, y)))


def test_what_a_plan_ends_on_is_named():
    episode = grounding_episode("validation", 0, TASK)
    frames, end = torch.arange(len(episode.scan.rgb)), episode.target_c2w[-1]
    asked = episode.item
    told = grounding_cause(end, frames, episode, TASK)
    assert told == f"the plan ends with the {asked.label} in its middle: what is drawn there is not taken for it"
    other = next(item for item in episode.scenes.objects[0] if item.label != asked.label)
    told = grounding_cause(facing(middle(other), end[:3, 3]), frames, episode, TASK)
    assert told == f"the plan ends on the {other.label}, not on the {asked.label}"
    below = end[:3, 3] - torch.tensor([0.0, 0.0, 1.0])
    assert grounding_cause(facing(below, end[:3, 3]), frames, episode, TASK).endswith(f"° off the {asked.label}")
    far = middle(asked) + 8 * (end[:3, 3] - middle(asked))
    assert "small there, or hidden" in grounding_cause(facing(middle(asked), far), frames, episode, TASK)
    blind = (episode.scan.instance == asked.instance).flatten(1).sum(dim=1).argmin()[None]
    assert grounding_cause(end, blind, episode, TASK) == f"no frame of the context shows the {asked.label}"
