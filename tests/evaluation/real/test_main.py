"""``python -m v4s_lib.evaluation.real``: from curated scans and a saved pipeline to a table, and on after a stop."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from tests.evaluation.real.detectors import save_detector
from tests.evaluation.real.rooms import TASK
from tests.model.tiny_wan import save_pipeline
from v4s_lib.data.curation import curate, load_windows
from v4s_lib.data.curation_windows import Rules, as_seen
from v4s_lib.data.episodes import EpisodeObject, load_episode, write_episode
from v4s_lib.data.instructions import NAVIGATION, navigation_instruction
from v4s_lib.data.navigation import navigation_paths
from v4s_lib.data.rooms import render_one
from v4s_lib.data.windows import grouped_frames, sample_context
from v4s_lib.evaluation.real import scoring
from v4s_lib.evaluation.real.__main__ import main, parse, prepare, read_path
from v4s_lib.evaluation.real.detect import Detector
from v4s_lib.evaluation.real.sampling import Settings, WindowPipeline, sample_window
from v4s_lib.evaluation.real.scoring import read_scan
from v4s_lib.evaluation.results import find_row
from v4s_lib.evaluation.statistics import bootstrap
from v4s_lib.model.codec import PatchCodec
from v4s_lib.model.pipeline import Video4SpatialPipeline
from v4s_lib.model.stock import load_stock
from v4s_lib.model.text import tokenize, vocabulary
from v4s_lib.model.text_encoder import embed, pad_text
from v4s_lib.model.transformer import ContextVideoTransformer
from v4s_lib.model.wan import wan_pipeline
from v4s_lib.worlds.paths import latent_frames

GOAL = 44  # the window from latent 9 on ends at this frame
RULES = Rules(length=3, gap=1, context=6, step=9, height=128, width=208)
SCANS = {"a": (0, 21), "b": (1, 19)}  # room and latents: twice around, three windows and two


def make_pipeline(kind: type = Video4SpatialPipeline, **changes: object) -> Video4SpatialPipeline:
    """Tiny and untrained, for 128x208 pixels in patches of 16."""
    config = {"num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 1, "ffn_dim": 32, "freq_dim": 16}
    config |= {"in_channels": 4 * 3 * 16**2, "patch_size": (1, 1, 1), "rope_theta": 100.0, "pose_encoding": "ray_map"}
    config |= {"text_dim": 16, "vocabulary": vocabulary()} | changes
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ContextVideoTransformer(**config).eval()
    pipeline = kind(model, PatchCodec(16), FlowMatchEulerDiscreteScheduler())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def ahead(c2w: Tensor, label: str, instance: int) -> EpisodeObject:
    """A cube of 40 cm, 1.4 m in front of a camera (4, 4)."""
    middle = c2w[:3, 3] + 1.4 * c2w[:3, 2]
    return EpisodeObject(label, instance, tuple((middle - 0.2).tolist()), tuple((middle + 0.2).tolist()))


@dataclass
class Place:
    """Folders of scans, each with its windows beside it, and of the models."""

    scans: Path
    backwards: Path  # the same rooms filmed the other way round: for limits
    pipeline: Path
    detector: Path
    store: Path

    def arguments(self, task: str, **changes: object) -> list[str]:
        given = {"windows": self.scans / "windows.jsonl", "weights": self.pipeline, "task": task, "store": self.store}
        if task == "grounding":
            limits = {"limits_from": self.backwards / "windows.jsonl", "limits_episodes": self.backwards}
            given |= limits | {"detector": self.detector}
        given |= {"steps": 1, "point_frames": 18, "device": "cpu", "seed": 3} | changes
        flags = [(f"--{name.replace('_', '-')}", str(value)) for name, value in given.items() if value is not None]
        return [str(self.scans), *(word for flag in flags for word in flag)]


@pytest.fixture(scope="module", autouse=True)
def reconstructed_once() -> Iterator[None]:
    """Two tests score the same windows with other models: what the scan shows outside of each is reconstructed once."""
    finders, make = {}, scoring.window_finder

    def window_finder(scan, window, gap, count):
        seen = sha256(scan.frames.numpy().tobytes() + scan.c2w.numpy().tobytes()).hexdigest()
        key = seen, repr((scan.camera, window)), gap, count
        if key not in finders:
            finders[key] = make(scan, window, gap, count)
        return finders[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "window_finder", window_finder)
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Place:
    folder = tmp_path_factory.mktemp("real")
    place = Place(*(folder / name for name in ("scans", "backwards", "pipeline", "detector", "store")))
    make_pipeline().save_pretrained(place.pipeline)
    save_detector(place.detector)
    for name, (index, latents) in SCANS.items():
        scenes, scan, _ = navigation_paths("validation", index, TASK, scan_latents=41)
        scenes.textures = torch.rand(scenes.textures.shape, generator=torch.Generator().manual_seed(index))
        scan = scan[:, ::2][:, : latent_frames(latents)]
        frames = (255 * render_one(scenes, scan, TASK).rgb).round().byte()
        for where, shown, c2w in ((place.scans, frames, scan[0]), (place.backwards, frames.flip(0), scan[0].flip(0))):
            where.mkdir(exist_ok=True)
            write_episode(where / name, shown, c2w, TASK.camera, [ahead(c2w[GOAL], "orange stool", 7)])
    for where in (place.scans, place.backwards):
        curate(where, where / "windows.jsonl", RULES)
    return place


def refused(capsys, arguments: list[str]) -> str:
    """The one sentence with which the command refuses, after the bar of a loaded pipeline."""
    assert main(arguments) == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.fixture(scope="module")
def navigation(place) -> dict:
    """The results of one run over navigation windows."""
    out = place.store / "results" / "navigation.json"
    assert main(place.arguments("navigation", json=out)) == 0
    return json.loads(out.read_text())


def test_true_clips_are_located_and_noise_counts_as_an_unrelated_path(navigation):
    located = {m: find_row(navigation, "ground_truth", m) for m in ("rotation_error", "translation_error")}
    assert located["rotation_error"]["mean"] < 1 and located["translation_error"]["mean"] < 0.05
    assert find_row(navigation, "ground_truth", "navigation_accuracy")["mean"] == 1
    assert all(row["failed"] == 0 and row["n"] == 3 for row in located.values())
    for metric in ("rotation_error", "translation_error"):
        other, ours = (find_row(navigation, method, metric) for method in ("shuffled", "ours"))
        assert ours["mean"] == other["mean"] and ours["failed"] == 9  # three frames of each window
    assert find_row(navigation, "shuffled", "rotation_error")["mean"] > 90  # the two scans turn to either side


@pytest.fixture(scope="module")
def wan(tmp_path_factory) -> Path:
    """A tiny Wan pipeline of ours, with its text encoder."""
    folder = tmp_path_factory.mktemp("wan")
    stock = save_pipeline(folder / "stock")
    wan_pipeline(stock, load_stock(stock / "transformer", "one_way", "c2w_12")).save_pretrained(folder / "pipeline")
    return folder / "pipeline"


def test_a_wan_pipeline_is_scored_with_its_models_offloaded(place, wan, tmp_path):
    """Scan a alone: two windows."""
    out = tmp_path / "wan.json"
    curate(place.scans / "a", tmp_path / "windows.jsonl", RULES)
    changes = {"weights": wan, "windows": tmp_path / "windows.jsonl", "store": tmp_path, "guidance": 2, "json": out}
    arguments = place.arguments("navigation", **changes)
    assert main([str(place.scans / "a"), *arguments[1:], "--offload"]) == 0
    results = json.loads(out.read_text())
    assert {row["method"] for row in results["rows"]} == {"ours", "no_context", "ground_truth", "shuffled"}
    truth = find_row(results, "ground_truth", "rotation_error")
    assert truth["mean"] < 1 and (truth["n"], truth["failed"]) == (2, 0)
    assert find_row(results, "ours", "context_used")["mean"] == 1
    assert results["gain"]["ours - no_context"]["mean"] != 0  # the context is heard


def test_results_have_their_provenance_and_intervals_over_scans(navigation, place):
    keys = {"task", "weights_sha256", "commit", "seed", "episodes", "rows", "gain"}
    assert keys <= navigation.keys()
    asked = {"task": "navigation", "seed": 3, "episodes": 3, "scans": 2, "limits": None}
    assert {name: navigation[name] for name in asked} == asked
    assert navigation["settings"]["context_latents"] == navigation["rules"]["context"] == RULES.context
    (store,) = place.store.glob("real-navigation-*.jsonl")
    values = np.array([json.loads(line)["methods"]["ours"]["psnr"] for line in store.read_text().splitlines()])
    interval = bootstrap(values, np.array(["a", "a", "b"]))
    row = find_row(navigation, "ours", "psnr")
    assert (row["mean"], row["low"], row["high"]) == (interval.mean, interval.low, interval.high)
    assert set(navigation["gain"]) == {"ours - no_context"}


def test_the_same_command_reads_what_is_scored(navigation, place, capsys, tmp_path):
    (store,) = place.store.glob("real-navigation-*.jsonl")
    lines = [json.loads(line) for line in store.read_text().splitlines()]
    for line in lines:
        line["methods"]["ours"]["psnr"] = 77.0  # what no model would score
    copy = tmp_path / store.name
    copy.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(place.arguments("navigation", store=tmp_path)) == 0
    said = capsys.readouterr().out
    assert "| ours | 77.00 [77.00, 77.00] |" in said and "psnr, ours - no_context: +" in said
    assert [json.loads(line) for line in copy.read_text().splitlines()] == lines


def test_grounding_judges_the_scan_the_object_and_the_motion(place, capsys, tmp_path):
    """The true clip is of its scan; noise is not. The detector is random: its limit lets the truth of others pass."""
    out = tmp_path / "grounding.json"
    assert main(place.arguments("grounding", json=out, tail_latents=1)) == 0
    results = json.loads(out.read_text())
    assert results["episodes"] == 2 and results["limits"]["other_room"] > 0.5
    assert find_row(results, "ground_truth", "sd")["mean"] < 0.1 and find_row(results, "ours", "sd")["mean"] > 0.5
    assert find_row(results, "ours", "if_sd02")["mean"] == 0
    assert set(results["gain"]) == {"ours - no_context", "ours - ground_truth"}
    assert "| method | if_sd02 (1) |" in capsys.readouterr().out
    (limits,) = place.store.glob("real-limits-*.json")
    assert json.loads(limits.read_text())["gates"] == {"scans": ["a", "b"]}


def test_pipeline_and_detector_are_on_the_device_that_is_asked_for(place):
    """One without memory, for it is on every machine."""
    job = prepare(parse(place.arguments("grounding", device="meta")))
    assert (job.pipeline.device.type, job.detector.model.device.type) == ("meta", "meta")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_detector_on_a_gpu_scores_as_on_the_cpu(place):
    frames, labels = torch.rand((2, 128, 208, 3), generator=torch.Generator().manual_seed(0)), ["red kettle", "a bag"]
    scores = [Detector(place.detector, device).score(frames, labels) for device in ("cpu", "cuda")]
    torch.testing.assert_close(*scores, atol=1e-3, rtol=0)


@pytest.fixture(scope="module")
def scan(place):
    return as_seen(load_episode(place.scans / "a"), RULES)


def test_a_scan_of_unknown_unit_has_one_scale_in_paths_and_points(scan, tmp_path):
    write_episode(tmp_path / "scan", scan.frames, scan.c2w, scan.camera, scan.objects, metric=False)
    path = read_path(tmp_path / "scan", [], RULES, 6)
    assert torch.equal(path, read_scan(tmp_path / "scan", RULES).c2w)
    assert not torch.allclose(path, scan.c2w) and torch.equal(path[:, :3, :3], scan.c2w[:, :3, :3])


def test_a_context_is_what_the_scan_shows_outside_of_window_and_gap(place, scan):
    """Other pixels in window and gap, the start frame's aside, change nothing; others anywhere else do."""
    window = load_windows(place.scans / "windows.jsonl")[1]
    settings, pipeline = Settings("navigation", 14, inference_steps=1), make_pipeline(WindowPipeline)
    kept = sample_window(pipeline, scan, window, RULES.gap, settings, seed=5)
    outside = [4 * window.first, *range(4 * 7 + 1), *range(4 * 12 + 1, 81)]  # start frame, latents 0..7 and 13..20
    for changed in (True, False):
        other = scan.frames.clone()
        other[[n for n in range(81) if (n in outside) != changed] if changed else outside[1:]] = 99
        seen = sample_window(pipeline, replace(scan, frames=other), window, RULES.gap, settings, seed=5)
        assert torch.equal(seen["ours"].frames, kept["ours"].frames) == changed
        assert torch.equal(seen["no_context"].frames, kept["no_context"].frames)


def test_time_indices_are_places_in_the_scan(place, scan):
    window = load_windows(place.scans / "windows.jsonl")[1]
    settings, pipeline = Settings("navigation", 9, inference_steps=1), make_pipeline(WindowPipeline)
    asked = []
    pipeline.transformer.register_forward_pre_hook(
        lambda _, given, named: asked.append((given, named)), with_kwargs=True
    )
    sample_window(pipeline, scan, window, RULES.gap, settings, seed=5)
    drawn = sample_context(21, 9, torch.Generator().manual_seed(5), window.first, window.length, RULES.gap)
    for (_, _, target), named in asked:  # with a context, and without
        assert target.tolist() == [[9, 10, 11]]
        assert torch.equal(named["context_time_index"][0], drawn)
    (_, ours), (_, without) = asked
    shown = scan.frames[grouped_frames(drawn)].float() / 255
    torch.testing.assert_close(pipeline.codec.decode_groups(ours["context_latents"])[0], shown)
    assert (without["context_timestep"] == 1000).all() and pipeline.config.gap == 4


def test_a_path_is_told_with_the_words_of_the_training(place, scan, wan):
    """A text encoder reads those of the window, a vocabulary the sentence that it was trained with."""
    window = load_windows(place.scans / "windows.jsonl")[1]
    window = replace(window, instruction=navigation_instruction("place"))
    settings, asked = Settings("navigation", 9, inference_steps=1), []
    pipelines = WindowPipeline.from_pretrained(wan), make_pipeline(WindowPipeline)
    for pipeline in pipelines:
        pipeline.set_progress_bar_config(disable=True)
        pipeline.transformer.register_forward_pre_hook(lambda _, given, named: asked.append(named), with_kwargs=True)
        sample_window(pipeline, scan, window, RULES.gap, settings, seed=5)
    encoder, limit = pipelines[0], pipelines[0].config.text_tokens
    there, room = (
        pad_text(embed(encoder.text_encoder, encoder.tokenizer, sentence, limit, "cpu"), limit)
        for sentence in ("The camera moves smoothly in a place.", NAVIGATION)
    )
    assert not torch.equal(there, room)
    assert all(torch.equal(named["encoder_hidden_states"][0], there) for named in asked[:2])
    words = tokenize([NAVIGATION], pipelines[1].transformer.config.vocabulary)
    assert all(torch.equal(named["words"], words) for named in asked[2:]) and len(asked) == 4


def test_frames_are_encoded_in_tiles_where_that_is_asked_for(place, wan, capsys):
    job = prepare(parse([*place.arguments("navigation", weights=wan), "--tiling"]))
    assert job.pipeline.codec.use_tiling and job.settings.tiling
    said = refused(capsys, [*place.arguments("navigation"), "--tiling"])
    assert said == "expected Wan's autoencoder for --tiling, got exact patches: leave it out"


def test_input_that_cannot_be_scored_is_refused_before_any_work(place, capsys, tmp_path):
    def said(task: str = "navigation", **changes: object) -> str:
        return refused(capsys, place.arguments(task, store=tmp_path / "store", **changes))

    windows = tmp_path / "windows.jsonl"
    curate(place.scans / "a", windows, RULES)
    assert said("grounding", windows=windows).startswith(f"expected 2 grounding windows or more in {windows}, got 1 of")
    assert said(windows=tmp_path / "no.jsonl").startswith("expected whole windows with their report in")
    assert said(weights=tmp_path).startswith(f"expected a saved pipeline in {tmp_path}, got no model_index.json: save")
    assert said(context_latents=20).startswith("expected 1 to 17 context latents (the scan has 21,")
    assert said(point_frames=1).startswith("expected --tail-latents from 0 and --point-frames from 2, got 0 and 1")
    assert said(steps=0).startswith("expected num_inference_steps of 1 or more, got 0")
    missing = "expected --detector and --limits-from for grounding, got no --"
    assert said("grounding", detector=None).startswith(f"{missing}detector: give the folder of a detector")
    assert said("grounding", limits_from=None).startswith(f"{missing}limits-from: give")
    assert said("grounding", detector=tmp_path).startswith(f"expected a detector in {tmp_path}, got no config.json")
    other = tmp_path / "other.jsonl"
    curate(place.backwards, other, replace(RULES, gap=2))
    assert said("grounding", limits_from=other).startswith(f"expected {other} curated as")
    same = {"limits_from": place.scans / "windows.jsonl", "limits_episodes": None}
    assert "got 2 and 2 of both: choose limits on other scans" in said("grounding", **same)
    assert not (tmp_path / "store").exists()


def test_models_and_scans_that_do_not_fit_the_windows_are_refused(place, capsys, tmp_path):
    small, short = tmp_path / "small", tmp_path / "short"
    make_pipeline(position_size=(2, 3)).save_pretrained(small)
    arguments = place.arguments("navigation", weights=small)
    expected = "expected windows for the model's frames of 32x48 pixels (H x W), got 128x208: curate with --height 32"
    assert refused(capsys, arguments).startswith(expected)
    make_pipeline(rope_max_seq_len=20).save_pretrained(short)
    expected = "expected scans of at most 20 latents for the model's time indices, got one of 21 and a tail of 0"
    assert refused(capsys, place.arguments("navigation", weights=short)).startswith(expected)
    scans = tmp_path / "scans"
    shutil.copytree(place.scans, scans)
    arguments = [str(scans), *place.arguments("navigation")[1:]]
    (scans / "b" / "transforms.json").unlink()
    assert refused(capsys, arguments).startswith(f"expected cameras of the scan {scans / 'b'}, got none: what was")
    shutil.rmtree(scans / "b")
    assert refused(capsys, arguments).startswith(f"expected the scan b in {scans}, got others: give the episodes")
