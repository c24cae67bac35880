import io

import pytest
import torch
from PIL import Image

from v4s_lib.viewing.sheets import BORDER, BORDERS, LABEL, SPACE, Strip, contact_sheet, evenly, picture, tint, to_image
from v4s_lib.worlds.visibility import Partition


def clip(frames: int, value: float = 0.5) -> torch.Tensor:
    return torch.full((frames, 4, 6, 3), value)


def test_enlarging_repeats_pixels_and_invents_no_color():
    frame = torch.tensor([[[0.0, 0, 0], [1, 1, 1]], [[1, 0, 0], [0, 0, 1]]])
    image = to_image(frame, scale=3)
    assert image.size == (6, 6)
    assert sorted(image.getcolors()) == sorted([(9, (0, 0, 0)), (9, (255,) * 3), (9, (255, 0, 0)), (9, (0, 0, 255))])


def test_eight_bit_and_floating_point_frames_look_alike():
    frame = torch.randint(0, 256, (4, 6, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert to_image(frame).tobytes() == to_image(frame / 255).tobytes()


@pytest.mark.parametrize(("frames", "columns", "expected"), [(9, 3, [0, 4, 8]), (2, 8, [0, 1]), (5, 1, [0])])
def test_frames_are_taken_evenly_from_first_to_last(frames, columns, expected):
    assert evenly(torch.arange(frames), columns).tolist() == expected


def test_every_role_has_its_border_and_the_frame_inside():
    sheet = contact_sheet([Strip("", clip(2), role) for role in BORDERS], scale=2)
    width, height = 6 * 2 + 2 * BORDER, 4 * 2 + 2 * BORDER
    assert sheet.size == (2 * width + SPACE, 3 * (LABEL + height + SPACE))
    for row, color in enumerate(BORDERS.values()):
        top = row * (LABEL + height + SPACE) + LABEL
        for left in (0, width + SPACE):
            assert sheet.getpixel((left, top)) == sheet.getpixel((left + width - 1, top + height - 1)) == color
            assert sheet.getpixel((left + BORDER, top + BORDER)) == (128, 128, 128)


def test_a_long_label_widens_the_sheet():
    short, long = (contact_sheet([Strip(label, clip(1), "truth")]) for label in ("a", "a" * 50))
    assert long.width > short.width + 200


@pytest.mark.parametrize(
    ("strips", "message"),
    [
        ([], "at least one strip"),
        ([Strip("x", clip(1), "oracle")], "expected a role out of context, generated, truth, got 'oracle'"),
        ([Strip("x", clip(1)[0], "truth")], r"expected frames \(F, H, W, 3\), got \(4, 6, 3\)"),
    ],
)
def test_bad_strips_are_refused(strips, message):
    with pytest.raises(ValueError, match=message):
        contact_sheet(strips)


def test_a_sheet_of_forty_different_frames_is_stored_in_under_100_kilobytes():
    smooth = torch.rand(5, 8, 4, 6, 3, generator=torch.Generator().manual_seed(0))
    large = smooth.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)  # 32 x 48, as the small preset
    noise = torch.randn(large.shape, generator=torch.Generator().manual_seed(1)) * 0.02
    data = picture(contact_sheet([Strip("room", frames, "truth") for frames in (large + noise).clamp(0, 1)])).data
    assert len(data) < 100_000
    assert Image.open(io.BytesIO(data)).format == "PNG"


def test_masks_are_shown_in_their_colors():
    empty = torch.zeros(1, 1, 3, dtype=torch.bool)
    first, second, third = (empty.clone() for _ in range(3))
    first[..., 0], second[..., 1], third[..., 2] = True, True, True
    green, orange, purple = tint(torch.full((1, 1, 3, 3), 0.5), Partition(first, second, third))[0, 0]
    assert green.argmax() == 1
    assert orange[0] > orange[1] > orange[2]
    assert purple[1] == purple.min()
