"""The classical baseline: it shows a room that it can reconstruct, and its failures are counted with the mean."""

import json

import pytest
import torch

from tests.evaluation.real.rooms import TASK
from v4s_lib.evaluation.baselines import context_mean
from v4s_lib.evaluation.picture import pooled_psnr
from v4s_lib.evaluation.real.classical import frame_depth, sfm_splat
from v4s_lib.evaluation.real.sfm_splat import main


def test_depth_between_the_points_is_that_of_the_walls(room):
    depth = torch.stack([frame_depth(room.finder.structure, number, TASK.camera) for number in range(4)])
    off = (depth / room.episode.scan.depth[:4] - 1).abs()
    assert off.median() < 0.05 and off.quantile(0.9) < 0.3


def test_a_textured_room_is_reconstructed_and_shown_along_the_path(room):
    episode, frames = room.episode, torch.arange(len(room.episode.scan.rgb))
    clip, share = sfm_splat(episode, frames, TASK.camera)
    assert share > 0.9 and clip.shape == episode.target.rgb.shape
    start, truth = episode.target.rgb[0], episode.target.rgb
    assert torch.equal(clip[0], start)
    mean = context_mean(start, episode.scan.rgb, len(clip))
    assert pooled_psnr(clip[1:3], truth[1:3]) > 15 > 13 > pooled_psnr(mean[1:3], truth[1:3])
    error = (clip[1:, None] - truth[None, 1:]).square().mean(dim=(2, 3, 4))
    assert torch.equal(error.argmin(dim=1), torch.arange(4))  # each frame is most like its own truth


def test_a_room_of_the_smallest_size_fails_and_is_counted(tmp_path, capsys):
    assert main(["--rooms", "1", "--store", str(tmp_path), "--json", str(tmp_path / "sfm.json")]) == 0
    (store,) = tmp_path.glob("sfm_splat-32x48-*.jsonl")
    methods = json.loads(store.read_text())["methods"]
    own, mean = methods["sfm_splat"], methods["context_mean"]
    assert own.pop("failure") == 1 and own.pop("registered") < 1
    assert own == pytest.approx(mean, nan_ok=True)
    assert "| sfm_splat | scale | 1.00 |" in capsys.readouterr().out
    found = json.loads((tmp_path / "sfm.json").read_text())
    assert (found["split"], found["height"], found["width"], found["episodes"]) == ("validation", 32, 48, 1)
    assert found["gain"]["sfm_splat - context_mean"]["mean"] == 0
    rows = {(row["method"], row["metric"]): row["mean"] for row in found["rows"]}
    assert rows["sfm_splat", "failure"] == 1 and rows["sfm_splat", "psnr"] == pytest.approx(mean["psnr"])
