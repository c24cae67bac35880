"""LPIPS against known figures, on its authors' example pictures (data_manifests/weights/lpips/LICENSE)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from v4s_lib.evaluation.lpips import FOLDER, LEAST, Lpips, load_lpips, main
from v4s_lib.evaluation.picture import lpips
from v4s_lib.model.weights import WEIGHTS

EXAMPLES = Path(__file__).parent / "lpips"


def example(name: str) -> torch.Tensor:
    pixels = np.asarray(Image.open(EXAMPLES / f"{name}.png").convert("RGB"))
    return torch.from_numpy(pixels.copy())[None].float() / 255


def test_the_authors_examples_have_their_known_distances():
    """Their ``test_network.py`` prints "Distances: (0.722, 0.138)", as issue 120 of their repository quotes it."""
    reference, model = example("ex_ref"), load_lpips()
    distances = [model(reference, example(name)).item() for name in ("ex_p0", "ex_p1")]
    assert [round(distance, 3) for distance in distances] == [0.722, 0.138]


def test_a_picture_is_at_no_distance_from_itself_and_distance_has_no_direction():
    one, other, model = example("ex_ref"), example("ex_p1"), load_lpips()
    assert model(one, one).item() == 0
    assert model(one, other).item() == pytest.approx(model(other, one).item(), abs=1e-6)


def test_a_stack_has_each_pairs_distance_and_a_video_their_mean():
    """A seen defect: a last, short batch that counts as much as a whole one. Frames count alike here."""
    reference, model = example("ex_ref").expand(3, -1, -1, -1), load_lpips()
    others = torch.cat([example(name) for name in ("ex_p0", "ex_p1", "ex_ref")])
    distances = model(reference, others)
    assert distances.tolist() == pytest.approx([0.7219, 0.1376, 0], abs=1e-3)
    assert lpips(reference, others) == pytest.approx(distances.mean().item(), abs=1e-6)


@pytest.mark.parametrize("shape", [(2, 64, 64, 3), (1, 64, 64, 4), (64, 64, 3)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"^expected two stacks of pictures \(N, H, W, 3\), got "):
        load_lpips()(torch.zeros(1, 64, 64, 3), torch.zeros(shape))


def test_bytes_are_refused():
    with pytest.raises(ValueError, match="^expected values in 0..1, got torch.float32 and torch.uint8"):
        load_lpips()(torch.zeros(1, 64, 64, 3), torch.zeros(1, 64, 64, 3, dtype=torch.uint8))


def test_doubles_and_long_videos_are_measured_alike():
    reference, other = (example(name).expand(20, -1, -1, -1) for name in ("ex_ref", "ex_p0"))
    assert lpips(reference.double(), other.double()) == pytest.approx(0.7219, abs=1e-4)
    model = Lpips.from_pretrained(FOLDER, torch_dtype=torch.float64)
    assert model(reference[:1], other[:1]).item() == pytest.approx(0.7219, abs=1e-4)


def test_pictures_that_are_too_small_are_refused_or_not_measured():
    small = torch.rand(2, LEAST - 1, 48, 3)
    with pytest.raises(ValueError, match="^expected pictures of 31 pixels or more a side"):
        load_lpips()(small, small)
    assert np.isnan(lpips(small, small))
    assert lpips(torch.zeros(2, LEAST, LEAST, 3), torch.zeros(2, LEAST, LEAST, 3)) == 0


def test_the_file_is_made_from_torchvisions_and_the_authors(tmp_path, capsys):
    """Their files' names of weights, and their shapes; other weights are refused before anything is written."""
    made = load_lpips()
    names = [(number, f"features.{place}") for number, place in enumerate((0, 3, 6, 8, 10))]
    seen = {f"{place}.{kind}": getattr(made.layers[n], kind).data for n, place in names for kind in ("weight", "bias")}
    linear = {f"lin{n}.model.1.weight": made.importance[n].data[None, :, None, None] for n in range(5)}
    torch.save(seen | {"classifier.1.weight": torch.zeros(2, 2)}, tmp_path / "alexnet.pth")
    torch.save(linear, tmp_path / "alex.pth")
    files = [str(tmp_path / name) for name in ("alexnet.pth", "alex.pth")]
    assert main([*files, "--out", str(tmp_path / "out")]) == 0
    again = Lpips.from_pretrained(tmp_path / "out", torch_dtype=torch.float32)
    assert all(torch.equal(one, other) for one, other in zip(again.parameters(), made.parameters(), strict=True))
    assert (tmp_path / "out" / WEIGHTS).stat().st_size < 5 * 2**20
    assert main([*files[::-1], "--out", str(tmp_path / "wrong")]) != 0
    assert "give torchvision's AlexNet first" in capsys.readouterr().err
    assert not (tmp_path / "wrong").exists()
