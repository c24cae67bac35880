"""The camera finder recovers cameras it was not told, and is at a loss where there is nothing to recover."""

import pytest
import torch

from v4s_lib.data.navigation import navigation_episode
from v4s_lib.evaluation.camera import CameraFinder
from v4s_lib.training.presets import get_preset
from v4s_lib.worlds.cameras import rotation_angle, translation_distance

TASK = get_preset("small").task


@pytest.fixture(scope="module")
def found():
    """An episode, the frames that were looked at, and what the finder says of them, of grey, and of another room."""
    episode, other = (navigation_episode("validation", index, TASK) for index in (0, 1))
    finder = CameraFinder(episode.scenes, TASK.camera, TASK.reach)
    frames = torch.tensor([12, 28])
    grey = torch.full((1, TASK.camera.height, TASK.camera.width, 3), 0.5)
    pictures = torch.cat([episode.target.rgb[frames], grey, other.target.rgb[frames]])
    return episode.target_c2w[frames], finder.find(pictures)


def test_ground_truth_is_found_well_within_the_bars_of_navigation_accuracy(found):
    true, result = found
    rotation, translation = rotation_angle(result.c2w[:2], true), translation_distance(result.c2w[:2], true)
    assert rotation.mean() < 2 and rotation.max() < 5  # degrees; the bar is 5
    assert translation.mean() < 0.1 and translation.max() < 0.25  # metres; the bar is 0.25


def test_grey_and_another_room_are_explained_far_worse_than_ground_truth(found):
    _, result = found
    assert result.residual[2:].min() > 4 * result.residual[:2].max()


def test_a_frame_of_another_size_is_refused():
    episode = navigation_episode("validation", 0, TASK)
    finder = CameraFinder(episode.scenes, TASK.camera, TASK.reach)
    with pytest.raises(ValueError, match="expected finite frames"):
        finder.find(torch.zeros(1, 16, 24, 3))
