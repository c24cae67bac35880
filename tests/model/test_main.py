"""The command that samples from a folder of weights: a video file comes out, or one sentence and nothing."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.model.drawn import randn
from tests.model.tiny_wan import save_pipeline
from v4s_lib.data.episodes import flip_axes
from v4s_lib.data.video import read_frames, write_video
from v4s_lib.model.__main__ import chosen_frames, main, read_path, read_start
from v4s_lib.model.pipeline import Video4SpatialPipeline
from v4s_lib.model.stock import load_stock
from v4s_lib.model.wan import main as save
from v4s_lib.model.wan import wan_pipeline
from v4s_lib.training.presets import SMOKE
from v4s_lib.training.weights import load_pipeline

SAID = "the camera moves smoothly in a room"


@pytest.fixture(scope="module")
def place(tmp_path_factory, make_path) -> Path:
    """A saved pipeline, a transformer alone beside a Wan pipeline, a video of another size, an image, a path."""
    folder = tmp_path_factory.mktemp("sample")
    save_pipeline(folder / "wan")
    transformer = load_stock(folder / "wan" / "transformer", "one_way", "c2w_12")
    transformer.save_pretrained(folder / "trained")
    wan_pipeline(folder / "wan", transformer).save_pretrained(folder / "pipeline")
    frames = (randn(13, 40, 64, 3).sigmoid() * 255).byte()
    write_video(folder / "scan.mp4", frames)
    Image.fromarray(frames[5].numpy()).save(folder / "start.png")
    poses = flip_axes(make_path(1, 9)[0]).tolist()
    entries = [{"transform_matrix": pose} for pose in poses]
    (folder / "path.json").write_text(json.dumps({"frames": entries}))
    (folder / "other.json").write_text(json.dumps({"poses": poses}))
    return folder


def arguments(place: Path, out: Path, **changes: object) -> list[str]:
    given = {
        "weights": place / "pipeline",
        "context": place / "scan.mp4",
        "start_frame": 0,
        "path": place / "path.json",
    }
    given |= {"out": out, "steps": 1, "context_latents": 2, "height": 32, "width": 48, "device": "cpu"} | changes
    given = {name: value for name, value in given.items() if value is not None}
    return [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", str(value))]


def test_a_path_is_followed_from_a_frame_of_the_context(place, tmp_path, capsys):
    out = tmp_path / "new" / "video.mp4"
    assert main(arguments(place, out)) == 0
    assert capsys.readouterr().out.strip() == str(out)
    assert read_frames(out).shape == (9, 32, 48, 3)


def test_words_are_followed_from_an_image_with_a_transformer_beside_wan(place, tmp_path):
    out = tmp_path / "video.mp4"
    changes = {"weights": place / "trained", "wan": place / "wan", "start_frame": place / "start.png"}
    changes |= {"path": None, "instruction": SAID, "frames": 13, "guidance": 2, "stride": 2, "dtype": "bfloat16"}
    assert main([*arguments(place, out, **changes), "--tiling", "--offload"]) == 0
    assert read_frames(out).shape == (13, 32, 48, 3)


def test_a_long_video_is_thinned_out_to_a_scan_as_in_training(place):
    """Of 401 frames 5 evenly spread ones, where no training saw more than 2 latents; all, where none is on record."""
    pipeline = Video4SpatialPipeline.from_pretrained(place / "pipeline")
    assert pipeline.config.longest_scan is None and list(chosen_frames(9, None, pipeline)) == list(range(9))
    pipeline.register_to_config(longest_scan=2)
    assert list(chosen_frames(401, None, pipeline)) == [0, 100, 200, 300, 400]
    assert list(chosen_frames(4, None, pipeline)) == [0, 1, 2, 3]
    assert list(chosen_frames(401, 150, pipeline)) == [0, 150, 300]
    assert load_pipeline("smoke").config.longest_scan == SMOKE.task.scan_latents[1]


def test_paths_and_start_frames_are_read_as_they_were_written(place, make_path):
    torch.testing.assert_close(read_path(place / "path.json").float(), make_path(1, 9)[0])
    assert torch.equal(read_start("5", place / "scan.mp4")[0], read_frames(place / "scan.mp4")[5])
    image = torch.from_numpy(np.array(Image.open(place / "start.png")))
    assert torch.equal(read_start(str(place / "start.png"), place / "scan.mp4")[0], image)


REFUSED = {
    "no pipeline": ({"weights": "wan"}, "expected a saved pipeline in .*, got no model_index.json: save one with"),
    "no video": ({"context": "none.mp4"}, "expected a video file at .*, got nothing there: check the path"),
    "a frame past the end": ({"start_frame": 13}, "expected frame indices from 0 to 12 for .*, got 13: ask for"),
    "no such image": ({"start_frame": "none.png"}, "expected a frame's number or an image, got .*: give one of both"),
    "no such path": ({"path": "none.json"}, "expected {.*transform_matrix.* in .*none.json, got FileNotFoundError"),
    "no image": ({"start_frame": "path.json"}, "expected a frame's number or an image, got .*: give one of both"),
    "no poses": ({"path": "other.json"}, "expected {.*transform_matrix.* in .*other.json, got KeyError.*: correct"),
    "neither words nor path": ({"path": None}, "expected an instruction, a camera_path or both, got neither: pass one"),
    "no whole tokens": ({"width": 40}, r"expected start_frame in multiples of 16x16 pixels \(H x W\), got shape"),
    "too few frames": ({"context_latents": 5}, "expected 0 to 4 context latents .*, got 5: ask for fewer or use"),
    "no film": ({"out": "video.gif"}, "expected a file name that ends in .mp4 for --out, got .*: choose another"),
    "no stride": ({"stride": 0}, "expected --stride from 1 and --fps above 0, got 0 and 10: choose others"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_gives_one_sentence_and_no_file(place, tmp_path, capsys, name):
    changes, sentence = REFUSED[name]
    changes = {key: place / value if isinstance(value, str) else value for key, value in changes.items()}
    out = tmp_path / "video.mp4"
    assert main(arguments(place, **{"out": out} | changes)) == 2
    printed = [line for line in capsys.readouterr().err.splitlines() if line and "it/s" not in line]
    assert len(printed) == 1 and re.match(sentence, printed[0])
    assert not list(tmp_path.iterdir()) and not (place / "video.gif").exists()


def test_wans_parts_and_trained_weights_become_one_pipeline(place, tmp_path, capsys):
    arguments = [str(place / "wan"), "--weights", str(place / "trained"), "--out", str(tmp_path / "pipeline")]
    assert save([*arguments, "--dtype", "float32"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "pipeline")
    for part in ("transformer", "codec", "text_encoder"):
        names = [file.name for file in (place / "pipeline" / part).glob("*.safetensors")]
        assert names
        for name in names:
            one, other = (load_file(folder / part / name) for folder in (place / "pipeline", tmp_path / "pipeline"))
            assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    assert save(arguments) == 0  # by itself in half the memory
    stored = load_file(next((tmp_path / "pipeline" / "transformer").glob("*.safetensors")))
    assert torch.bfloat16 in {value.dtype for value in stored.values()}


def test_a_wan_folder_without_its_parts_is_refused(place, tmp_path, capsys):
    assert save([str(tmp_path), "--weights", str(place / "trained"), "--out", str(tmp_path / "pipeline")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("expected ") and said.count("\n") == 1
    assert not (tmp_path / "pipeline").exists()
