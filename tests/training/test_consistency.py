"""Frames that agree cost nothing, frames that do not cost what they differ by, and sampling knows nothing of it."""

import inspect
from dataclasses import replace

import pytest
import torch

from v4s_lib.model.pipeline import Video4SpatialPipeline
from v4s_lib.model.transformer import ContextVideoTransformer
from v4s_lib.training.consistency import consistency_loss, shared_pixels
from v4s_lib.training.data import RoomStream
from v4s_lib.training.loss import LossConfig, Sample, flow_matching_loss
from v4s_lib.training.presets import SMOKE
from v4s_lib.worlds.cameras import Camera

CAMERA = Camera(8, 16, 90.0)


@pytest.fixture(scope="module")
def sample() -> Sample:
    preset = replace(SMOKE, task=replace(SMOKE.task, turn=(10.0, 20.0), grounding=0.0))  # views that overlap
    return RoomStream(preset, 0, "cpu").sample(0)


def loss(sample: Sample, predicted: torch.Tensor, counted: bool = True) -> float:
    told = torch.full((len(predicted),), counted)
    path = sample.camera_path[:, :, -1]
    return consistency_loss(predicted, sample.target_latents, sample.target_depth, path, told, 90.0).item()


def facing_wall(shift: float) -> tuple[torch.Tensor, ...]:
    """A wall 2 m ahead of two cameras, of which the second stands ``shift`` metres to the right of the first."""
    c2w = torch.eye(4).repeat(1, 2, 1, 1)
    c2w[0, 1, 0, 3] = shift
    depth = torch.full((1, 2, 8, 16), 2.0)
    return depth[:, 1:], c2w[:, 1:], depth[:, :1], c2w[:, :1]


def test_a_pixel_is_found_where_geometry_says():
    """2 m ahead, 0.5 m to the right is 2 pixels of a focal length of 8."""
    place, same = shared_pixels(*facing_wall(0.5), CAMERA)
    column = (place[0, 0, 0, :, 0] + 1) * 8
    torch.testing.assert_close(column, torch.arange(16) + 0.5 + 2)
    assert same[0, 0, :, :14].all() and not same[0, 0, :, 14:].any()


def test_what_stands_before_it_hides_a_place():
    depth, c2w, other_depth, other_c2w = facing_wall(0.0)
    other_depth = other_depth.clone()
    other_depth[..., :4] = 1.0
    _, same = shared_pixels(depth, c2w, other_depth, other_c2w, CAMERA)
    assert not same[..., :4].any() and same[..., 4:].all()


def test_the_truth_agrees_with_itself_and_another_colour_costs_its_square(sample):
    truth = sample.target_latents
    own = loss(sample, truth)
    assert own < 0.01
    shifted = torch.cat([truth[:, :, :1], truth[:, :, 1:] + 0.5], dim=2)
    assert loss(sample, shifted) > own + 0.05  # the start frame is given, and differs by 0.5
    assert loss(sample, shifted, counted=False) == 0


def test_frames_of_another_room_cost_more_than_the_right_ones(sample):
    assert loss(sample, sample.target_latents.roll(SMOKE.task.targets, 0)) > 5 * loss(sample, sample.target_latents)


def test_it_is_added_in_training_and_off_by_default(sample):
    torch.manual_seed(0)
    model = ContextVideoTransformer(**SMOKE.model)
    plain, with_it = (
        flow_matching_loss(model, sample, LossConfig(consistency=weight), torch.Generator().manual_seed(0))
        for weight in (0.0, 2.0)
    )
    assert LossConfig().consistency == 0 and with_it > plain
    with_it.backward()
    assert model.proj_out.weight.grad.abs().max() > 0


def test_sampling_has_no_depth():
    for call in (Video4SpatialPipeline.__call__, ContextVideoTransformer.forward):
        assert not [name for name in inspect.signature(call).parameters if "depth" in name]
