"""A scale trained on a cache: the losses do not depend on the number of processes, on copies or shards, on a stop."""

import json
import os
import re
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint import FileSystemWriter

from tests.training.many import finish, run, start
from tests.training.tiny_cache import SCALE
from v4s_lib.data.files import sha256
from v4s_lib.data.instructions import NAVIGATION
from v4s_lib.model.transformer import ContextVideoTransformer
from v4s_lib.model.weights import WEIGHTS
from v4s_lib.training.checkpoints import list_checkpoints
from v4s_lib.training.finetune import main
from v4s_lib.training.full import SCALES
from v4s_lib.training.full_loop import Job, finetune

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes are forked and killed as on Unix")
ONE_WAY = {"context_attention": "one_way", "save_every": 2}


@pytest.fixture(scope="module")
def whole(cache, tmp_path_factory) -> Path:
    """Four steps in one process without a stop."""
    out = tmp_path_factory.mktemp("whole")
    run(finetune, (Job(SCALE, cache, out, **ONE_WAY),))
    return out


def lines(out: Path) -> list[dict]:
    log = out / "log.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []


def losses(out: Path) -> list[float]:
    """Loss and gradient norm of every step, one after the other."""
    return [line[key] for line in lines(out) for key in ("loss", "gradient_norm")]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "weights" / WEIGHTS)


def assert_same(out: Path, whole: Path) -> None:
    """The same losses to 1e-4 of them, and the same averaged weights."""
    assert [line["step"] for line in lines(out)] == [line["step"] for line in lines(whole)]
    assert losses(out) == pytest.approx(losses(whole), rel=1e-4)
    expected = weights(whole)
    assert weights(out).keys() == expected.keys()
    for name, value in weights(out).items():
        torch.testing.assert_close(value, expected[name], atol=2e-6, rtol=1e-4)


def die_while_saving(job: Job, step: int) -> None:
    """Train, and be killed when a part of the checkpoint of that step is to be written."""
    write = FileSystemWriter.write_data

    def write_or_die(self: FileSystemWriter, *arguments: object) -> object:
        if f"{step:07d}" in str(self.path):
            os.kill(os.getpid(), signal.SIGKILL)
        return write(self, *arguments)

    FileSystemWriter.write_data = write_or_die
    finetune(job)


def test_what_a_run_leaves(whole):
    assert sorted(path.name for path in whole.iterdir()) == ["checkpoints", "log.jsonl", "weights"]
    assert [place.name for place in list_checkpoints(whole / "checkpoints")] == [
        "checkpoint-0000002",
        "checkpoint-0000004",
    ]
    assert [line["step"] for line in lines(whole)] == [1, 2, 3, 4]
    assert [line["rate"] for line in lines(whole)] == [SCALE.learning_rate] * 4
    model = ContextVideoTransformer.from_pretrained(whole / "weights")
    assert model.config.context_attention == "one_way" and model.dtype == torch.float32
    assert model.pose_adapter[0].weight.any() and model.role_embedding.any()  # what began at zero has learnt


@pytest.mark.parametrize("sharded", [False, True], ids=["copies", "shards"])
def test_two_processes_give_the_losses_of_one(whole, cache, tmp_path, sharded):
    run(finetune, (Job(SCALE, cache, tmp_path, **ONE_WAY),), processes=2, sharded=sharded)
    assert_same(tmp_path, whole)


def test_samples_computed_together_give_the_same_losses(whole, cache, tmp_path):
    run(finetune, (Job(SCALE, cache, tmp_path, together=4, **ONE_WAY),))
    assert_same(tmp_path, whole)


@pytest.fixture(scope="module")
def killed(cache, tmp_path_factory) -> Path:
    """Two processes with shards, killed by SIGKILL in the middle of the second checkpoint."""
    out = tmp_path_factory.mktemp("killed")
    started = start(die_while_saving, (Job(SCALE, cache, out, **ONE_WAY), 4), processes=2, sharded=True)
    assert finish(started) == [-signal.SIGKILL] * 2
    found = sorted(path.name for path in (out / "checkpoints").iterdir())
    assert found == [".checkpoint-0000004.part", "checkpoint-0000002"] and len(lines(out)) == 4
    return out


@pytest.mark.parametrize(("processes", "sharded"), [(1, False), (2, True)])
def test_a_run_that_was_killed_goes_on_with_any_number_of_processes(killed, whole, cache, tmp_path, processes, sharded):
    out = shutil.copytree(killed, tmp_path / "out")
    run(finetune, (Job(SCALE, cache, out, **ONE_WAY),), processes, sharded)
    assert_same(out, whole)
    assert [path.name for path in sorted((out / "checkpoints").iterdir())] == [
        "checkpoint-0000002",
        "checkpoint-0000004",
    ]


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    assert condition()


def test_ctrl_c_in_one_process_saves_in_all(cache, tmp_path):
    started = start(_main, (cache, tmp_path), processes=2, sharded=True)
    wait_for(lambda: len(lines(tmp_path)) >= 2)
    os.kill(started[1].pid, signal.SIGINT)
    assert finish(started) == [130, 130]
    (place,) = list_checkpoints(tmp_path / "checkpoints")
    assert place.name == f"checkpoint-{lines(tmp_path)[-1]['step']:07d}"
    assert not (tmp_path / "weights").exists()


def _main(cache: Path, out: Path, *options: str) -> int:
    SCALES[SCALE.name] = SCALE
    return main(["--scale", SCALE.name, "--cache", str(cache), "--out", str(out), "--steps", "100000", *options])


def _main_on_a_full_disk(cache: Path, out: Path) -> int:
    """No file may grow past 500 kB: the parts of a checkpoint have 1.9 MB each, the log and the rest far less."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
    return _main(cache, out, "--context-attention", "one_way", "--save-every", "2")


def test_a_full_disk_ends_every_process_in_a_sentence_and_leaves_what_was_there(killed, cache, tmp_path):
    out = shutil.copytree(killed, tmp_path / "out")
    started = start(_main_on_a_full_disk, (cache, out), processes=2, sharded=True, errors=tmp_path / "errors")
    assert finish(started) == [2, 2]
    errors = (tmp_path / "errors").read_text()
    assert "File too large" in errors and "Traceback" not in errors
    assert "free disk space and run the command again" in errors
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["checkpoint-0000002"]


def _first_version(cache: Path, out: Path) -> int:
    os.environ["FSDP_VERSION"] = "1"
    return _main(cache, out)


def test_the_first_version_of_fsdp_is_refused(cache, tmp_path):
    started = start(_first_version, (cache, tmp_path / "out"), sharded=True, errors=tmp_path / "errors")
    assert finish(started) == [2]
    sentence = "expected fsdp_version 2, got 1: set it in accelerate's config file"
    assert (tmp_path / "errors").read_text().splitlines()[-1] == sentence
    assert not (tmp_path / "out").exists()


def test_bf16_in_shards_is_near_fp32(whole, cache, tmp_path):
    job = Job(replace(SCALE, mixed_precision="bf16"), cache, tmp_path, **ONE_WAY)
    run(finetune, (job, 2), processes=2, sharded=True)
    assert losses(tmp_path) == pytest.approx(losses(whole)[:4], rel=0.02)
    assert losses(tmp_path) != pytest.approx(losses(whole)[:4], rel=1e-5)


def _quietly(cache: Path, out: Path) -> None:
    for stop_at in (1, 2):  # the second time it saves and loads
        finetune(Job(SCALE, cache, out, **ONE_WAY), stop_at, progress=False)


def test_a_process_alone_and_without_a_bar_says_what_is_left_out_and_no_more(cache, tmp_path):
    started = start(_quietly, (cache, tmp_path / "out"), errors=tmp_path / "errors")
    assert finish(started) == [0]
    assert (tmp_path / "errors").read_text() == 2 * "3 scans to draw from; too short: 1, such as short\n"


def test_shorter_windows_fit_a_shorter_scan(cache, tmp_path):
    shorter = "--length", "2", "--gap", "0", "--context", "1", "--steps", "1"
    started = start(_main, (cache, tmp_path / "out", *shorter), errors=tmp_path / "errors")
    assert finish(started) == [0]
    assert "too short" not in (tmp_path / "errors").read_text()
    assert [line["step"] for line in lines(tmp_path / "out")] == [1]


def test_other_settings_do_not_go_on(whole, cache, tmp_path):
    out = shutil.copytree(whole, tmp_path / "out")
    for changes, names in ({"seed": 1}, "seed, weights"), ({"scale": replace(SCALE, batch=8)}, "batch"):
        job = replace(Job(SCALE, cache, out, **ONE_WAY), **changes)
        message = f"^expected to resume .*checkpoint-0000004 with the same {names}, got another: use the old"
        with pytest.raises(ValueError, match=message):
            finetune(job)
    assert_same(out, whole)


REFUSED = {
    "cache": (["--cache", "nowhere"], "expected a latent cache with a whole index.json in nowhere, got none: run .*"),
    "scale": (["--scale", "huge"], "expected a scale out of .*, got 'huge': choose one of them"),
    "together": (["--together", "3"], "expected processes times .* batch of 4, got 1 x 3: take other numbers"),
    "steps": (["--steps", "0"], "expected steps, .* samples together from 1, got 0, 250 and 1: choose others"),
    "window": (
        ["--length", "1", "--gap", "-1"],
        "expected a target of 2 latents or more, a context of 1 .* got 1, 5 and -1: choose others",
    ),
    "rank": (["--lora", "0"], "expected a rank from 1, got 0: choose another, or train all weights"),
    "weights": (["--weights", "nowhere"], "expected a transformer in nowhere, got no config.json: give its folder"),
    "way": (["--context-attention", "both"], "expected context_attention to be one of .*, got 'both': choose one .*"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_arguments_end_in_one_sentence(cache, tmp_path, capsys, monkeypatch, name):
    arguments, message = REFUSED[name]
    monkeypatch.setitem(SCALES, SCALE.name, SCALE)
    out = tmp_path / "out"
    assert main(["--scale", SCALE.name, "--cache", str(cache), "--out", str(out), *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and re.fullmatch(message + "\n", captured.err)
    assert not out.exists()


def write_windows(file: Path, *firsts: int) -> Path:
    """Curated windows of scan "a", with the report that belongs to them."""
    rest = {"length": 3, "kind": "navigation", "instruction": NAVIGATION, "object": None, "box": None, "scores": {}}
    file.write_text("".join(json.dumps({"scan": "a", "first": first, **rest}) + "\n" for first in firsts))
    file.with_suffix(".report.json").write_text(json.dumps({"sha256": sha256(file)}))
    return file


def test_curated_windows_are_what_is_trained_on(cache, whole, tmp_path):
    """Other targets, other losses; the same file gives the same ones, another is refused when the run goes on."""
    one = write_windows(tmp_path / "one.jsonl", 0, 13)
    for out in ("first", "again"):
        run(finetune, (Job(SCALE, cache, tmp_path / out, windows=one, **ONE_WAY), 2))
    assert losses(tmp_path / "first") == losses(tmp_path / "again") != losses(whole)[:4]
    other = write_windows(tmp_path / "other.jsonl", 0)
    with pytest.raises(ValueError, match="with the same windows, got another"):
        finetune(Job(SCALE, cache, tmp_path / "first", windows=other, **ONE_WAY))
