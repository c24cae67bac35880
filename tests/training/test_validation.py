"""Known figures of the validation during training."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from v4s_lib.model.transformer import ContextVideoTransformer
from v4s_lib.training.presets import SMOKE
from v4s_lib.training.validation import CONDITIONS, Validation, masked_psnr, save_sheet


def test_psnr_of_a_known_error_counts_the_mask_alone():
    truth = torch.full((2, 4, 6, 3), 0.5)
    clip = truth + 0.1
    clip[1] = 0.0
    mask = torch.zeros(2, 4, 6, dtype=torch.bool)
    mask[0, 1:3] = True
    assert masked_psnr(clip, truth, mask) == pytest.approx(20, abs=1e-4)
    assert masked_psnr(truth, truth, mask) == pytest.approx(100)


def test_a_sheet_has_a_line_a_clip_and_eight_frames_a_line(tmp_path):
    clip = torch.linspace(0, 1, 9)[:, None, None, None].expand(9, 4, 6, 3)
    save_sheet([[clip, clip, clip]] * 2, tmp_path / "deep" / "sheet.png")
    with Image.open(tmp_path / "deep" / "sheet.png") as sheet:
        assert sheet.size == (2 * 8 * 6, 2 * 6 * 4)
        assert [sheet.getpixel((x, 0))[0] for x in (0, 95)] == [0, 255]


@pytest.mark.parametrize("use_context", [True, False])
def test_conditions_differ_by_the_context_alone(use_context):
    """A random model is moved by another context; one that is given none scores the same three times."""
    preset = replace(SMOKE, loss=replace(SMOKE.loss, use_context=use_context), validation_rooms=2)
    torch.manual_seed(0)
    model = ContextVideoTransformer(**preset.model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # what is painted should stay near the range of colours
            parameter.add_((0.02 if name.startswith("painter") else 0.2) * torch.randn_like(parameter))
    validation = Validation(preset, "cpu")
    scores = validation.scores(model)
    assert list(scores) == [f"psnr_recall_{name}" for name in CONDITIONS]
    assert all(3 < value < 40 for value in scores.values())
    assert len(set(scores.values())) == (3 if use_context else 1)
    assert validation.scores(model) == scores
