"""From a finished run to shipped weights and back, with every byte accounted for."""

import json

import pytest
import torch

from v4s_lib.data.files import verify
from v4s_lib.data.manifests import load_manifest
from v4s_lib.evaluation.results import load_models, models_digest
from v4s_lib.model.transformer import ContextVideoTransformer
from v4s_lib.training import ship
from v4s_lib.training.loop import train
from v4s_lib.training.presets import get_preset


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    train(get_preset("smoke", validate_every=100, validation_rooms=1), folder, progress=False)
    return folder


@pytest.fixture
def shipped(run, tmp_path, monkeypatch):
    monkeypatch.setattr(ship, "MANIFESTS", tmp_path)
    return ship.ship(run, "smoke", "ours", "a test")


def test_shipped_weights_are_the_averaged_ones_rounded_to_half_precision(run, shipped):
    average = ContextVideoTransformer.from_pretrained(run / "weights").state_dict()
    stored = ContextVideoTransformer.from_pretrained(shipped.parent / "weights" / "smoke" / "ours").state_dict()
    assert stored.keys() == average.keys()
    for name, value in average.items():
        torch.testing.assert_close(stored[name], value.half().float(), rtol=0, atol=0)


def test_the_manifest_is_valid_and_says_what_was_trained(shipped):
    assert load_manifest(shipped)["access"] == "shipped"
    facts = json.loads((shipped.parent / "weights" / "smoke" / "ours" / "run.json").read_text())
    preset = get_preset("smoke")
    assert facts["step"] == preset.steps
    assert facts["targets_seen"] == (preset.steps - preset.draws_from) * preset.contexts * preset.task.targets


def test_a_flipped_byte_in_the_weights_is_refused(shipped):
    file = shipped.parent / "weights" / "smoke" / "ours" / "diffusion_pytorch_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    entry = next(f for f in load_manifest(shipped)["files"] if f["path"].endswith(".safetensors"))
    with pytest.raises(ValueError, match="expected sha256"):
        verify(file, entry["size"], entry["sha256"])


def test_an_unfinished_training_does_not_ship(tmp_path, monkeypatch):
    monkeypatch.setattr(ship, "MANIFESTS", tmp_path / "manifests")
    train(get_preset("smoke", validation_rooms=1), tmp_path / "run", stop_at=1, progress=False)
    with pytest.raises(
        ValueError, match="^expected a training that has ended, got .* of step 1 of 4: run the training"
    ):
        ship.ship(tmp_path / "run", "smoke", "ours", "a test")
    assert not (tmp_path / "manifests").exists()


def test_another_seed_ships_its_record_and_is_known_by_it(run, shipped):
    """The manifest lists no weights of it, and its record names the digest that results of it and the baseline bear."""
    root = shipped.parent / "weights" / "smoke"
    ship.ship(run, "smoke", "first_frame_only", "a test")
    ship.ship(run, "smoke", "seed2", "a test")
    assert {file["path"].split("/")[2] for file in load_manifest(shipped)["files"]} == {"ours", "first_frame_only"}
    models = load_models(get_preset("smoke"), root / "seed2", root / "first_frame_only")
    assert json.loads((root / "seed2" / "run.json").read_text())["compared_sha256"] == models_digest(models)


def test_a_variant_that_is_none_is_refused(run, capsys):
    assert ship.main([str(run), "--preset", "smoke", "--variant", "second"]) == 2
    assert "expected a variant out of ours, first_frame_only or seedN, got 'second'" in capsys.readouterr().err


def test_a_clock_that_starts_again_is_added_up():
    lines = [{"seconds": s} for s in (1.0, 5.0, 2.0, 4.0)]
    assert ship.training_seconds(lines) == 9.0


def test_a_run_without_a_whole_checkpoint_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a checkpoint"):
        ship.ship(tmp_path, "smoke", "ours", "a test")


def test_runs_that_were_started_from_others_count_all_of_them(run, tmp_path, monkeypatch):
    monkeypatch.setattr(ship, "MANIFESTS", tmp_path)
    folder = ship.ship(run, "smoke", "ours", "a test").parent / "weights" / "smoke" / "ours"
    once = json.loads((folder / "run.json").read_text())
    ship.ship(run, "smoke", "ours", "a test", [run, run])
    facts = json.loads((folder / "run.json").read_text())
    assert facts["targets_seen"] == 3 * once["targets_seen"] and facts["earlier_stages"] == [once, once]
    ship.ship(run, "smoke", "ours", "a test", [folder])
    again = json.loads((folder / "run.json").read_text())
    assert again["targets_seen"] == 4 * once["targets_seen"] and again["earlier_stages"] == [facts]
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in log if "loss" in line]
    assert steps == list(range(1, 4 * once["step"] + 1))
    assert ship.training_seconds(log) / 60 == pytest.approx(again["minutes"], abs=0.3)
