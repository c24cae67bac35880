"""What teaches the box drawer, and the one that ships."""

import json
from dataclasses import fields

import pytest
import torch

from v4s_lib.data.boxes import BOX_COLOR, outline
from v4s_lib.data.manifests import MANIFESTS
from v4s_lib.evaluation.judges import box_overlap, read_box
from v4s_lib.model.cloud import NAMED
from v4s_lib.model.weights import weights_digest
from v4s_lib.training.box_drawer import Ends, main, see_ends, stored_ends, train_box_drawer
from v4s_lib.training.presets import SMALL, SMOKE
from v4s_lib.training.weights import load_pipeline

STEPS = 80


@pytest.fixture(scope="module")
def pipeline():
    return load_pipeline(SMOKE)


@pytest.fixture(scope="module")
def ends(pipeline) -> Ends:
    return see_ends(pipeline, SMOKE, 0)


def corners(line: torch.Tensor) -> torch.Tensor:
    """First and last row and column (4,) inside a line of one pixel."""
    rows, columns = line.any(dim=1).nonzero()[:, 0], line.any(dim=0).nonzero()[:, 0]
    return torch.stack([rows[0] + 1, rows[-1] - 1, columns[0] + 1, columns[-1] - 1])


def test_every_end_has_the_line_of_a_box_and_frames_without_it(ends):
    assert len(ends.frames) > 5
    for frame, line in zip(ends.frames, ends.line, strict=True):
        assert torch.equal(line, outline(corners(line), *line.shape))
        assert 0 <= frame.min() and frame.max() <= 1
        assert ((frame[line] - torch.tensor(BOX_COLOR)).abs().amax(dim=-1) > 0.01).any()
    assert 0 <= ends.named[..., NAMED].min() and ends.named[..., NAMED].max() <= 1


def test_rooms_are_the_same_again_and_others_in_another_group(pipeline, ends):
    again, other = see_ends(pipeline, SMOKE, 0), see_ends(pipeline, SMOKE, 1)
    assert all(torch.equal(getattr(again, field.name), getattr(ends, field.name)) for field in fields(Ends))
    assert other.frames.shape != ends.frames.shape or not torch.equal(other.frames, ends.frames)


def test_samples_are_kept_and_what_is_missing_is_seen_again(pipeline, ends, tmp_path):
    whole = stored_ends(pipeline, SMOKE, 2, tmp_path, progress=False)
    assert torch.equal(whole.line[: len(ends.line)], ends.line.half())
    first, second = sorted(tmp_path.rglob("*.safetensors"))
    made = first.stat().st_mtime_ns
    second.unlink()
    again = stored_ends(pipeline, SMOKE, 2, tmp_path, progress=False)
    assert first.stat().st_mtime_ns == made
    assert all(torch.equal(getattr(again, field.name), getattr(whole, field.name)) for field in fields(Ends))


def test_it_learns_and_learns_the_same_again(ends):
    drawer, loss = train_box_drawer(ends, STEPS, progress=False)
    again, same = train_box_drawer(ends, STEPS, progress=False)
    assert loss == same and weights_digest(drawer) == weights_digest(again)
    _, at_first = train_box_drawer(ends, 1, progress=False)
    assert loss < 0.8 * at_first


def test_the_command_writes_weights_and_what_they_came_from(tmp_path, capsys):
    asked = ["--preset", "smoke", "--groups", "1", "--steps", "2", "--store", str(tmp_path / "store")]
    assert main([*asked, "--out", str(tmp_path / "out")]) == 0
    facts = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (facts["groups"], facts["steps"]) == (1, 2) and facts["ends"] > 5
    assert "2 steps, loss" in capsys.readouterr().out
    assert main([*asked, "--steps", "0"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("expected 1 group and 1 step or more, got 1 and 0")
    assert main(["--preset", "huge"]) == 2


def test_the_shipped_one_goes_with_the_shipped_weights_and_draws_boxes_around_what_is_named():
    pipeline = load_pipeline(SMALL)
    facts = json.loads((MANIFESTS / "weights" / "small" / "box_drawer" / "run.json").read_text())
    assert facts["transformer_sha256"] == weights_digest(pipeline.transformer)
    assert load_pipeline(SMALL, variant="first_frame_only").box_drawer is None
    ends = see_ends(pipeline, SMALL, 0, seed=78)  # rooms that it has not met
    last = pipeline.box_drawer.tail(ends.frames, ends.named, 4)[:, -1]
    boxes = [read_box(frame, drawn) for frame, drawn in zip(ends.frames, last, strict=True)]
    overlaps = [
        0.0 if box is None else box_overlap(box, corners(line)) for box, line in zip(boxes, ends.line, strict=True)
    ]
    assert len(overlaps) > 10
    assert sum(box is not None for box in boxes) > 0.9 * len(boxes)
    assert sum(overlaps) > 0.5 * len(overlaps)
