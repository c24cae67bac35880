"""The classical baseline: it shows a room that it can reconstruct, and its failures are counted with the mean."""

import json

import pytest
import torch

from tests.evaluation.real.conftest import TASK
from v4s_lib.evaluation.real.sfm_splat import main, sfm_splat


def test_a_textured_room_is_reconstructed_and_shown_along_the_path(room):
    """Its points are sparse, so that the picture is coarse; but each frame is nearest to its own truth."""
    episode, frames = room.episode, torch.arange(len(room.episode.scan.rgb))
    clip, share = sfm_splat(episode, frames, TASK.camera)
    assert share > 0.9 and clip.shape == episode.target.rgb.shape
    assert torch.equal(clip[0], episode.target.rgb[0])
    error = (clip[1:, None] - episode.target.rgb[None, 1:]).square().mean(dim=(2, 3, 4))
    assert torch.equal(error.argmin(dim=1), torch.arange(4))


def test_every_room_of_the_smallest_size_fails_and_is_counted(tmp_path, capsys):
    assert main(["--rooms", "2", "--store", str(tmp_path)]) == 0
    lines = [json.loads(line) for line in (tmp_path / "sfm_splat-32x48.jsonl").read_text().splitlines()]
    for methods in (line["methods"] for line in lines):
        own, mean = methods["sfm_splat"], methods["context_mean"]
        assert own.pop("failure") == 1 and own.pop("registered") < 1
        assert own == pytest.approx(mean, nan_ok=True)
    assert "| sfm_splat | 1.00 [1.00, 1.00] |" in capsys.readouterr().out
