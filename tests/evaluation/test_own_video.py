"""A video of one's own: any size and length, read evenly, gone on from one of its frames."""

import pytest
import torch

from v4s_lib.data.video import write_video
from v4s_lib.evaluation.own_video import navigate, read_scan
from v4s_lib.training.presets import SMOKE
from v4s_lib.training.weights import load_pipeline
from v4s_lib.viewing.driver import extend_path
from v4s_lib.worlds.cameras import pose
from v4s_lib.worlds.paths import latent_frames

PATH = extend_path(pose(torch.zeros(1, 3), torch.zeros(1), torch.zeros(1)), "turn left")


@pytest.fixture(scope="module")
def pipeline():
    return load_pipeline(SMOKE)


@pytest.fixture(scope="module")
def phone(tmp_path_factory):
    """A portrait video of 60 frames, larger than decord's least size: frame k is of grey k / 60."""
    path = tmp_path_factory.mktemp("phone") / "IMG 1.mov.mp4"
    grey = (torch.arange(60) / 60 * 255).round().byte()
    write_video(path, grey[:, None, None, None].expand(-1, 256, 192, 3), fps=30)
    return path


def test_a_long_video_is_read_evenly_and_made_to_fit(phone):
    scan = read_scan(phone, SMOKE)
    assert scan.shape == (latent_frames(SMOKE.task.scan_latents[1]), 16, 24, 3)
    chosen = torch.linspace(0, 59, len(scan)).round()
    torch.testing.assert_close(scan.mean(dim=(1, 2, 3)), chosen / 60, atol=0.02, rtol=0)


def test_the_clip_goes_on_from_the_frame_asked(pipeline, phone):
    scan = read_scan(phone, SMOKE)
    for start in (-1, 3):
        output = navigate(pipeline, SMOKE, scan, PATH, start)
        assert output.frames.shape == (1, 5, 16, 24, 3) and len(output.context_index) == SMOKE.task.context_latents
        torch.testing.assert_close(output.frames[0, 0], scan[start], atol=1e-5, rtol=0)
    again = navigate(pipeline, SMOKE, scan, PATH, 3)
    assert torch.equal(output.frames, again.frames)
    assert not torch.equal(output.frames, navigate(pipeline, SMOKE, scan, PATH, 3, seed=1).frames)


def test_a_short_video_gives_all_it_has(pipeline, phone):
    scan = read_scan(phone, SMOKE)[:7]
    assert navigate(pipeline, SMOKE, scan, PATH).context_index.tolist() == [0, 1]


def test_what_is_no_video_and_no_frame_of_it_is_refused(pipeline, phone, tmp_path):
    with pytest.raises(FileNotFoundError, match="^expected a video file at"):
        read_scan(tmp_path / "none.mp4", SMOKE)
    (tmp_path / "page.mp4").write_text("<html>")
    with pytest.raises(ValueError, match="^expected a video in .*, got a web page"):
        read_scan(tmp_path / "page.mp4", SMOKE)
    with pytest.raises(ValueError, match="^expected a start frame out of the scan's 29, got 29: choose"):
        navigate(pipeline, SMOKE, read_scan(phone, SMOKE), PATH, 29)
