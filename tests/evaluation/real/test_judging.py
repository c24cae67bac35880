"""SD by points and its limits: the truth is near, everything else is far, and ``judge`` takes it from there."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from skimage.filters import gaussian

from tests.evaluation.real.detectors import save_detector
from v4s_lib.evaluation.judges import judge, largest_change
from v4s_lib.evaluation.real.detect import Detector
from v4s_lib.evaluation.real.judging import point_distance, scan_limits

LABELS = ["red kettle", "blue chair"]


@pytest.fixture(scope="module")
def detector(tmp_path_factory) -> Detector:
    return Detector(save_detector(tmp_path_factory.mktemp("detector")))


@pytest.fixture(scope="module")
def limits(room, other_room, detector):
    clips = [room.episode.target.rgb, other_room.episode.target.rgb]
    return scan_limits([room.finder, other_room.finder], clips, LABELS, detector)


def test_true_frames_are_near_and_all_others_far(room, other_room, limits):
    truth = room.episode.target.rgb[1:]
    noise = 0.05 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    blurred = torch.from_numpy(
        gaussian(truth.numpy(), (0, 17, 17, 0))
    )  # a twelfth of the width, as ``calibrate`` has it
    near = torch.cat([truth, (truth + noise).clamp(0, 1), room.episode.scan.rgb[[3, 11]]])
    mean, grey = room.episode.scan.rgb.mean(dim=0), torch.full_like(truth[0], 0.5)
    far = torch.cat([other_room.episode.target.rgb[:4], blurred.float(), torch.stack([mean, grey])])
    distance = point_distance(room.finder, torch.cat([near, far])) / limits.other_room
    assert distance[: len(near)].max() < 0.1
    assert distance[len(near) :].min() > 0.5


def test_limits_are_those_of_the_true_clips(room, other_room, detector, limits):
    clips = [room.episode.target.rgb, other_room.episode.target.rgb]
    scores = [detector.score(clip[-1:], [label]).item() for clip, label in zip(clips, LABELS, strict=True)]
    assert limits.least_score == pytest.approx(np.quantile(scores, 0.025))
    assert limits.most_change == pytest.approx(max(map(largest_change, clips)), rel=0.05)
    assert 0.7 < limits.other_room < 1.2


def test_the_verdict_needs_this_scan(room, other_room, detector, limits):
    """The detector's weights are random, so that its limit is set to what it always and what it never reaches."""
    clips = torch.stack([room.episode.target.rgb, other_room.episode.target.rgb])
    sd = point_distance(room.finder, clips[:, -1]) / limits.other_room
    lenient = replace(limits, least_score=0.0, most_change=1.0)
    verdicts = judge(clips, 4, LABELS[0], detector, sd, lenient)
    assert [(verdict["if"], verdict["if_sd01"]) for verdict in verdicts] == [(1, 1), (1, 0)]
    verdicts = judge(clips, 4, LABELS[0], detector, sd, replace(lenient, least_score=1.0))
    assert [(verdict["if"], verdict["if_sd01"]) for verdict in verdicts] == [(0, 0), (0, 0)]


def test_one_scan_is_refused(room, detector):
    with pytest.raises(
        ValueError, match=r"^expected a finder, a clip and a label for each of 2 scans or more, got 1, 1"
    ):
        scan_limits([room.finder], [room.episode.target.rgb], LABELS[:1], detector)
