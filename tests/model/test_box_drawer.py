"""The box drawer in the pipeline: it draws where something was found and a path planned, and nowhere else."""

import pytest
import torch
from torch import Tensor

from v4s_lib.data.boxes import BOX_COLOR
from v4s_lib.data.grounding import GroundingEpisode, grounding_episode
from v4s_lib.model.box_drawer import BoxDrawer
from v4s_lib.model.cloud import CHANNELS, NAMED
from v4s_lib.model.pipeline import Video4SpatialOutput, Video4SpatialPipeline
from v4s_lib.training.presets import SMOKE
from v4s_lib.training.weights import load_pipeline, make_pipeline

TAIL = 4  # frames


def certain() -> BoxDrawer:
    """It takes every pixel for one of the line."""
    drawer = BoxDrawer((4, 4, 4))
    torch.nn.init.zeros_(drawer.line.weight)
    torch.nn.init.constant_(drawer.line.bias, 50.0)
    return drawer.eval()


@pytest.fixture(scope="module")
def episode() -> GroundingEpisode:
    return grounding_episode("validation", 0, SMOKE.task)


@pytest.fixture(scope="module")
def pipelines() -> tuple[Video4SpatialPipeline, Video4SpatialPipeline]:
    """One model of scale ``smoke``, without a drawer and with one that is certain."""
    plain = load_pipeline(SMOKE)
    return plain, make_pipeline(plain.transformer, SMOKE, certain())


def sample(pipeline: Video4SpatialPipeline, episode: GroundingEpisode, **changes: object) -> Video4SpatialOutput:
    given = {
        "context_video": episode.scan.rgb,
        "start_frame": episode.target_frames[:1].expand(2, -1, -1, -1),
        "instruction": episode.instruction,
        "num_frames": len(episode.target_frames),
        "num_context_latents": 4,
        "num_inference_steps": 1,
        "generator": torch.Generator().manual_seed(0),
    }
    return pipeline(**given | changes)


def test_the_box_fades_in_over_the_tail_and_the_frames_before_stay(pipelines, episode):
    plain, drawn = (sample(pipeline, episode) for pipeline in pipelines)
    assert None not in plain.boxes and [box.tolist() for box in plain.boxes] == [box.tolist() for box in drawn.boxes]
    assert torch.equal(plain.frames[:, :-TAIL], drawn.frames[:, :-TAIL])
    last, color = drawn.frames[:, -TAIL - 1], torch.tensor(BOX_COLOR)
    for frame, strength in enumerate((0.25, 0.5, 0.75, 1.0)):
        expected = (1 - strength) * last + strength * color
        torch.testing.assert_close(drawn.frames[:, frame - TAIL], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("missing", ["context", "plan"])
def test_nothing_is_drawn_without_a_context_or_on_a_given_path(pipelines, episode, missing):
    path = torch.cat([episode.target_c2w, episode.target_c2w[-1:].expand(TAIL, -1, -1)])[None].expand(2, -1, -1, -1)
    changes = {"context": {"context_video": None}, "plan": {"camera_path": path, "num_frames": None}}[missing]
    plain, drawn = (sample(pipeline, episode, **changes) for pipeline in pipelines)
    assert torch.equal(plain.frames, drawn.frames)


def test_a_clip_in_which_nothing_is_named_stays_as_it_is_and_one_no_longer_than_the_tail(pipelines):
    clips = torch.rand(3, 9, 16, 24, 3, generator=torch.Generator().manual_seed(0))
    named = torch.zeros(3, 16, 24, CHANNELS)
    named[1, 4:8, 10:14, NAMED] = 0.9
    named[2, 4:8, 10:14, NAMED] = 0.05  # too little
    before = clips.clone()
    boxes = pipelines[1]._draw_boxes(clips, named)
    assert boxes[0] is None and boxes[2] is None and boxes[1].tolist() == [4, 7, 10, 13]
    assert torch.equal(clips[[0, 2]], before[[0, 2]]) and torch.equal(clips[1, :-TAIL], before[1, :-TAIL])
    assert not torch.equal(clips[1, -1], before[1, -1])
    short = before[:, :TAIL].clone()
    assert pipelines[1]._draw_boxes(short, named)[1] is not None and torch.equal(short, before[:, :TAIL])


def test_every_pixel_is_told_the_most_of_its_row_and_column():
    """A change in one corner is felt in the opposite one through row and column alone, however small the network."""
    torch.manual_seed(0)
    drawer = BoxDrawer((4, 4, 4)).eval()
    frames, named = torch.zeros(1, 64, 96, 3), torch.zeros(1, 64, 96, CHANNELS)
    other = frames.clone()
    other[0, :4, :4] = 1

    def change() -> Tensor:
        return (drawer(other, named) - drawer(frames, named))[0].abs() > 1e-6

    with torch.no_grad():
        felt = change()
        assert felt[:4].any() and felt[:4, -1].any() and felt[-1, :4].any() and not felt[-20:, -20:].any()


def test_it_is_saved_with_the_pipeline(pipelines, episode, tmp_path):
    pipelines[1].save_pretrained(tmp_path / "saved")
    loaded = Video4SpatialPipeline.from_pretrained(tmp_path / "saved")
    loaded.set_progress_bar_config(disable=True)
    assert loaded.config.tail_latents == 1
    assert torch.equal(sample(loaded, episode).frames, sample(pipelines[1], episode).frames)
    (tmp_path / "saved" / "box_drawer" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(OSError, match="no file named diffusion_pytorch_model.safetensors"):
        Video4SpatialPipeline.from_pretrained(tmp_path / "saved")
