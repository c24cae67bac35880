import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from v4s_lib.evaluation.ledger import Check, Checked, Entry
from v4s_lib.viewing.plots import attention_patterns, forest, margins, read_log, top_view, training_curves
from v4s_lib.viewing.sheets import BORDERS
from v4s_lib.worlds.objects import COLORS
from v4s_lib.worlds.paths import scan_path
from v4s_lib.worlds.scenes import make_scenes, scene_seed


def share(shown, color: tuple[float, ...]) -> float:
    """Share of a picture's pixels that have nearly this colour (0..255)."""
    pixels = np.asarray(Image.open(io.BytesIO(shown.data)).convert("RGB"), float)
    return (np.abs(pixels - np.array(color)).max(axis=-1) < 12).mean()


def test_paths_and_objects_are_drawn_from_above():
    scenes = make_scenes([scene_seed("demo", 0)])
    c2w = scan_path(scenes, torch.Generator().manual_seed(0), 29)[0]
    scan, both = top_view(scenes, {"scan": c2w}), top_view(scenes, {"scan": c2w, "target path": c2w.flip(0)})
    assert share(scan, BORDERS["context"]) > 0.001
    assert share(scan, BORDERS["generated"]) < share(both, BORDERS["generated"])
    looks = top_view(scenes, {"scan": c2w}, looks={"planned": c2w})
    assert share(scan, BORDERS["generated"]) < share(looks, BORDERS["generated"])
    near = top_view(scenes, {"scan": c2w}, near=True)
    assert share(scan, BORDERS["context"]) < share(near, BORDERS["context"])  # the second plan is larger
    colors = [tuple(255 * value for value in COLORS[item.color]) for item in scenes.objects[0]]
    assert all(share(scan, color) > 0.0005 for color in colors)


def test_one_way_attention_closes_the_corner_where_context_would_see_the_target():
    """Of 4 * 4 squares in each pattern, columns 0 and 1 are context; one_way closes 2 * 2 of the target's."""
    shown = attention_patterns(context=2, target=2)
    orange, blue = share(shown, BORDERS["context"]), share(shown, BORDERS["generated"])
    assert blue / orange == pytest.approx((8 + 4) / (8 + 8), rel=0.05)


def test_log_is_read_and_drawn_with_and_without_validation(tmp_path):
    lines = [{"step": step, "loss": 1 / step} for step in range(1, 5)]
    scores = {f"psnr_recall_{name}": 10.0 for name in ("ours", "other_context", "no_context")}
    for extra in ([], [{"step": 4, **scores}]):
        (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines + extra))
        log = read_log(tmp_path / "log.jsonl")
        assert log == lines + extra
        assert training_curves(log).data.startswith(b"\x89PNG")


def test_a_check_is_blue_where_it_holds_and_stands_on_that_side():
    """Bars 2 and -1; a value of 3 is half a bar to the right, one of -1.5 half a bar to the left."""
    held, missed = Checked("a", 3.0, (2.5, 3.5), 2.0, True), Checked("b", -1.5, None, -1.0, True)
    assert held.holds and held.margin(held.value) == pytest.approx(0.5)
    assert not missed.holds and missed.margin(missed.value) == pytest.approx(-0.5)
    assert Checked("c", 3.0, None, 2.0, False).margin(3.0) == pytest.approx(-0.5)
    claim = {"id": "X1"}
    blue = margins([Entry(claim, "reproduced", [Check([held], True, 1)])])
    both = margins([Entry(claim, "reproduced in part", [Check([held, missed], True, 2)])])  # one seed holds, one misses
    assert share(blue, BORDERS["generated"]) > 0.0005 > share(blue, BORDERS["context"])
    assert share(both, BORDERS["context"]) > 0.0001


def test_a_check_beyond_the_picture_is_drawn_at_its_edge():
    """A bar of 0 and values of 7 and -7: an arrow and a number on either side."""
    held, missed = Checked("a", 7.0, None, 0.0, True), Checked("b", -7.0, None, 0.0, True)
    for seed, name in ((held, "generated"), (missed, "context")):
        shown = margins([Entry({"id": "X1"}, "reproduced", [Check([seed], True, 1)])])
        assert share(shown, BORDERS[name]) > 0.0002


def test_a_difference_is_coloured_where_it_is_sure():
    """An interval above zero is blue, one below it orange, one that reaches over it neither."""
    for low, high, role in ((0.5, 1.5, "generated"), (-1.5, -0.5, "context"), (-0.5, 1.5, "truth")):
        gain = {"mean": (low + high) / 2, "low": low, "high": high, "by_seed": [{"mean": low}, {"mean": high}]}
        shown = forest({"arm - reference": gain}, "dB")
        assert share(shown, BORDERS[role]) > 0.001
        assert all(share(shown, BORDERS[other]) < 1e-4 for other in ("generated", "context") if other != role)
