import io

import ipywidgets
import pytest
import torch
from PIL import Image

from v4s_lib.viewing import driver as module
from v4s_lib.viewing.driver import MOVES, SCALE, Driver, drive, extend_path
from v4s_lib.worlds.cameras import check_rigid, pose, rotation_angle, translation_distance

START = pose(torch.tensor([2.0, 3.0, 1.5]), torch.tensor(0.7), torch.tensor(-0.2))
FRAME = torch.full((4, 6, 3), 0.25)


def generate(path: torch.Tensor) -> torch.Tensor:
    """A clip whose grey value tells the frame's number."""
    return torch.linspace(0, 1, len(path))[:, None, None, None].expand(-1, 4, 6, 3)


def make_driver() -> Driver:
    return Driver(generate, FRAME, START, max_latents=3)


def shown(made: Driver) -> tuple[int, int, int]:
    return Image.open(io.BytesIO(made.image.value)).convert("RGB").getpixel((0, 0))


@pytest.mark.parametrize("move", MOVES)
def test_a_move_adds_four_poses_and_changes_none(move):
    path = extend_path(START[None], move)
    assert path.shape == (5, 4, 4)
    assert torch.equal(path[0], START)
    check_rigid(path, "path", tolerance=1e-5)


@pytest.mark.parametrize(
    ("move", "degrees", "metres"),
    [("turn left", 20, 0), ("turn right", 20, 0), ("forward", 0, 0.25), ("look up", 10, 0), ("look down", 10, 0)],
)
def test_a_move_turns_and_walks_by_its_known_amount(move, degrees, metres):
    path = extend_path(START[None], move)
    assert rotation_angle(path[0], path[-1]).item() == pytest.approx(degrees, abs=0.01)
    assert translation_distance(path[0], path[-1]).item() == pytest.approx(metres, abs=1e-5)
    steps = rotation_angle(path[:-1], path[1:])
    assert torch.allclose(steps, steps[:1].expand(4), atol=0.01)


def test_moves_go_the_way_they_are_called():
    forward, right, down = START[:3, 2], START[:3, 0], START[:3, 1]
    assert extend_path(START[None], "turn left")[-1, :3, 2] @ right < -0.3
    assert extend_path(START[None], "look up")[-1, :3, 2] @ down < -0.1
    walked = extend_path(START[None], "forward")[-1, :3, 3] - START[:3, 3]
    assert walked @ forward > 0.2
    assert walked[2] == 0  # along the ground, though the camera looks down


def test_left_and_right_cancel():
    path = extend_path(extend_path(START[None], "turn left"), "turn right")
    assert torch.allclose(path[-1], START, atol=1e-5)


def test_unknown_move_is_refused():
    with pytest.raises(ValueError, match="expected a move out of turn left, .* got 'fly'"):
        extend_path(START[None], "fly")


def test_a_click_lengthens_the_path_until_it_is_full():
    made = make_driver()
    assert made.buttons["generate"].disabled
    for clicks in range(1, 4):
        made.buttons["turn left"].click()
        assert made.path.shape == (1 + 4 * clicks, 4, 4)
    assert rotation_angle(made.path[0], made.path[-1]).item() == pytest.approx(60, abs=0.01)
    assert made.buttons["turn left"].disabled
    assert made.label.value == "3 of 3 moves: the path is full"


def test_generate_shows_the_clip_and_the_slider_walks_through_it():
    made = make_driver()
    assert isinstance(made.image, ipywidgets.Image)
    assert Image.open(io.BytesIO(made.image.value)).size == (6 * SCALE, 4 * SCALE)
    made.buttons["forward"].click()
    made.buttons["generate"].click()
    assert made.slider.max == 4
    assert shown(made) == (0, 0, 0)
    made.slider.value = 4
    assert shown(made) == (255, 255, 255)


def test_start_again_forgets_path_and_clip():
    made = make_driver()
    for name in ("forward", "generate", "start again"):
        made.buttons[name].click()
    assert torch.equal(made.path, START[None])
    assert made.slider.max == 0
    assert shown(made) == (64, 64, 64)


@pytest.mark.parametrize("interactive", [True, False])
def test_picture_first_and_widgets_only_when_asked(monkeypatch, interactive):
    shown = []
    monkeypatch.setattr(module, "display", shown.append)
    drive(generate, FRAME, START, ["turn left", "forward"], max_latents=3, interactive=interactive)
    assert shown[0].data.startswith(b"\x89PNG")
    assert [isinstance(thing, ipywidgets.Widget) for thing in shown] == [False, True][: 1 + interactive]


def test_an_object_is_chosen_and_looked_for():
    asked = []

    def find(name: str) -> torch.Tensor:
        asked.append(name)
        return generate(torch.zeros(9, 4, 4))

    made = Driver(generate, FRAME, START, 3, find, ["red ball", "blue lamp"])
    made.buttons["forward"].click()
    made.choice.value = "blue lamp"
    made.buttons["find it"].click()
    assert asked == ["blue lamp"] and made.slider.max == 8
    assert made.label.value == "looked for: blue lamp"
    assert torch.equal(made.path, START[None])  # no path of the reader's is mixed in
    assert "find it" not in make_driver().buttons
