"""A real OWLv2 of tiny size: which of its boxes count as the middle of the picture."""

import pytest
import torch

from tests.evaluation.real.detectors import save_detector
from v4s_lib.evaluation.real.detect import Detector

LABELS = ["red kettle", "blue chair", "a bag on top"]


@pytest.fixture(scope="module")
def detector(tmp_path_factory) -> Detector:
    return Detector(save_detector(tmp_path_factory.mktemp("detector")))


def test_the_score_is_that_of_the_one_box_in_the_middle(detector):
    """OWLv2 pads 32x48 below to 48x48. Of boxes centred at 12, 24, 36 and 48, only (12, 24) is near (16, 24)."""
    frames = torch.rand((3, 32, 48, 3), generator=torch.Generator().manual_seed(0))
    scores = detector.score(frames, LABELS)
    for frame, label, score in zip(frames, LABELS, scores, strict=True):
        inputs = detector.processor(images=(frame * 255).round().byte().numpy(), text=[[label]], return_tensors="pt")
        with torch.no_grad():
            outputs = detector.model(**inputs)
        torch.testing.assert_close(outputs.pred_boxes[0, 1], torch.tensor([0.5, 0.25, 0.25, 0.25]), atol=1e-3, rtol=0)
        torch.testing.assert_close(score, outputs.logits[0, 1, 0].sigmoid())
        assert outputs.logits[0, :, 0].sigmoid().max() > score  # of a box that is not in the middle
    assert len(scores.unique()) == 3


def test_nothing_scores_where_no_box_is_in_the_middle(detector):
    """64x64 is not padded: of boxes centred at 16, 32, 48 and 64 one is in the middle; in 24x96 none is."""
    generator = torch.Generator().manual_seed(0)
    assert detector.score(torch.rand((1, 64, 64, 3), generator=generator), LABELS[:1]) > 0
    assert detector.score(torch.rand((1, 24, 96, 3), generator=generator), LABELS[:1]) == 0


def test_bad_input_is_refused(detector, tmp_path):
    with pytest.raises(ValueError, match=r"^expected frames \(N, H, W, 3\) and a label for each, got \(2, 32, 48, 3\)"):
        detector.score(torch.zeros(2, 32, 48, 3), LABELS[:1])
    with pytest.raises(FileNotFoundError, match=r"^expected a detector in .*, got no config.json: download one"):
        Detector(tmp_path)
