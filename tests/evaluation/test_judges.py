"""Known verdicts: boxes that were drawn, cuts that were made, rooms that are the wrong one."""

import json
from dataclasses import replace

import pytest
import torch

from v4s_lib.data.boxes import box_tail, mask_box
from v4s_lib.data.grounding import grounding_episode
from v4s_lib.evaluation.camera import CameraFinder
from v4s_lib.evaluation.grounding import REACH, baselines, judge_clips, other_label
from v4s_lib.evaluation.judges import (
    LIMITS,
    Limits,
    best_of,
    box_overlap,
    largest_change,
    load_limits,
    read_box,
    spatial_distance,
)
from v4s_lib.evaluation.reader import load_reader
from v4s_lib.training.presets import get_preset

TASK = get_preset("small").task


@pytest.fixture(scope="module")
def episode():
    return grounding_episode("validation", 4, TASK)


@pytest.mark.parametrize("box", [(3, 8, 4, 9), (10, 20, 20, 40), (1, 5, 30, 45)])
def test_a_drawn_box_is_read_back(box):
    before = torch.rand((32, 48, 3), generator=torch.Generator().manual_seed(0))
    after = box_tail(before, torch.tensor(box), 4)[-1]
    assert read_box(before, after).tolist() == list(box)
    assert read_box(before, before) is None
    noisy = after + 0.02 * torch.randn(after.shape, generator=torch.Generator().manual_seed(1))
    assert box_overlap(read_box(before, noisy), torch.tensor(box)) > 0.6


def test_a_thick_box_is_read_back():
    before = torch.rand((256, 416, 3), generator=torch.Generator().manual_seed(0))
    after = box_tail(before, torch.tensor([60, 180, 150, 300]), 20)[-1]
    assert box_overlap(read_box(before, after), torch.tensor([60, 180, 150, 300])) > 0.93


def test_a_wall_of_the_boxs_colour_is_no_box():
    wall = torch.full((32, 48, 3), 0.9)
    wall[8:20, 10:30] = torch.tensor([1.0, 0.0, 1.0])
    assert read_box(wall, wall) is None


def test_overlaps():
    box = torch.tensor([2, 5, 2, 5])
    assert box_overlap(box, box) == 1
    assert box_overlap(box, torch.tensor([4, 7, 2, 5])) == pytest.approx(8 / 24)
    assert box_overlap(box, torch.tensor([6, 9, 6, 9])) == 0


def test_a_cut_changes_more_than_any_motion(episode):
    limits = load_limits()
    truth = episode.target.rgb
    cut = torch.cat([truth[:14], 1 - truth[14:]])
    assert largest_change(truth) <= limits.most_change < largest_change(cut)
    assert largest_change(truth[:1].expand(9, -1, -1, -1)) == 0


def test_best_of_k_is_the_chance_that_one_of_k_passes():
    assert [best_of(0, 5, k) for k in (1, 5)] == [0, 0]
    assert [best_of(2, 5, k) for k in (1, 2, 4, 5)] == pytest.approx([0.4, 0.7, 1, 1])  # 1 - 3/10 for two of five


def test_the_right_room_is_near_and_another_is_far(episode):
    other = grounding_episode("validation", 5, TASK)
    frames = torch.stack([episode.target.rgb[-1], other.target.rgb[-1], torch.full((32, 48, 3), 0.5)])
    distance, c2w = spatial_distance(CameraFinder(episode.scenes, TASK.camera, REACH), frames, load_limits())
    assert distance[0] < 0.1 < 0.2 < distance[1:].min()
    assert c2w.shape == (3, 4, 4)


def test_the_truth_passes_every_judge_and_what_is_not_it_fails(episode):
    scores = judge_clips(
        baselines(episode, torch.arange(len(episode.scan.rgb))), episode, load_reader(), load_limits(), TASK
    )
    assert scores["ground_truth"]["if_sd01"] == 1 and scores["ground_truth"]["box"] == 1
    assert scores["ground_truth"]["box_overlap"] > 0.7
    assert scores["start_frame"]["if"] == 0 and scores["start_frame"]["smooth"] == 1
    cut = largest_change(baselines(episode, torch.arange(len(episode.scan.rgb)))["retrieve"][0])
    for allowed in (0.99 * cut, 1.01 * cut):
        limits = replace(load_limits(), most_change=allowed)
        found = judge_clips(
            baselines(episode, torch.arange(len(episode.scan.rgb))), episode, load_reader(), limits, TASK
        )["retrieve"]
        assert found["smooth"] == found["if_sd02"] == (allowed > cut)  # it reads well and is this room: a cut, no path
    assert {"passed", "samples"} <= set(scores["retrieve"])


def test_a_fade_passes_the_gates_and_is_told_half_way(episode):
    """What IF(SD) does not see: the last frame is a true one, no frame is a cut, and what lies between is no room."""
    clips = baselines(episode, torch.arange(len(episode.scan.rgb)))
    scores = judge_clips(clips, episode, load_reader(), load_limits(), TASK)
    faded, truth = scores["retrieve_faded"], scores["ground_truth"]
    assert faded["if_sd02"] == faded["smooth"] == 1 and faded["sd"] == scores["retrieve"]["sd"]
    assert truth["sd_way"] < 0.1 < 0.2 < faded["sd_way"]
    clip = clips["retrieve_faded"][0]
    assert torch.equal(clip[0], clips["retrieve"][0, 0]) and torch.equal(clip[-1], clips["retrieve"][0, -1])


def test_the_camera_that_explains_a_clip_is_aimed_at_what_is_named(episode):
    clips = baselines(episode, torch.arange(len(episode.scan.rgb)))
    clips["backwards"] = clips["ground_truth"].flip(1)
    clips["other room"] = grounding_episode("validation", 5, TASK).target_frames[None]
    scores = judge_clips(clips, episode, load_reader(), load_limits(), TASK)
    assert {name: scores[name]["aimed"] for name in clips if not name.startswith("retrieve")} == {
        "ground_truth": 1,
        "start_frame": 0,
        "backwards": 0,
        "other room": 0,
    }


def test_another_object_is_asked_for_when_the_instruction_is_shuffled(episode):
    label = other_label(episode)
    color, kind = label.split(" ")
    assert color != episode.item.color and kind != episode.item.kind
    assert label not in {item.label for item in episode.scenes.objects[0]}


def test_a_harder_name_shares_colour_or_kind(episode):
    held = {item.label for item in episode.scenes.objects[0]}
    for same in ("color", "kind"):
        color, kind = other_label(episode, same).split(" ")
        assert (color == episode.item.color, kind == episode.item.kind) == (same == "color", same == "kind")
        assert f"{color} {kind}" not in held


def test_the_gates_of_the_judges_hold():
    """DESIGN §7: asked of the judges before any model is scored, on validation rooms; stored by the calibration."""
    gates = json.loads(LIMITS.read_text())["gates"]
    assert gates["rooms"] >= 96
    assert all(share >= 0.95 for share in gates["sd"].values()), gates["sd"]
    assert gates["if"]["ground truth"] >= 0.97 and gates["if"]["start frame"] <= 0.02
    assert {"another kind of that colour named", "another colour of that kind named"} <= gates["if"].keys()


def test_without_a_calibration_one_sentence_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="^expected calibrated limits in .*: run python -m"):
        load_limits(tmp_path / "judges.json")
    (tmp_path / "judges.json").write_text(
        '{"limits": {"least_score": 0.5, "other_room": 0.2, "most_change": 0.1, "reader_sha256": "ab"}}'
    )
    assert load_limits(tmp_path / "judges.json") == Limits(0.5, 0.2, 0.1, "ab")


def test_a_box_around_nothing_cannot_be(episode):
    with pytest.raises(ValueError, match="expected a mask that holds the object"):
        mask_box(torch.zeros(4, 4, dtype=torch.bool))
