"""A run that is stopped, interrupted, killed or torn goes on to the same losses and the same weights."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from v4s_lib.model.transformer import ContextVideoTransformer
from v4s_lib.training.__main__ import main
from v4s_lib.training.checkpoints import latest_checkpoint
from v4s_lib.training.loop import Run, learning_rate, make_optimizer, train
from v4s_lib.training.presets import SMOKE, get_preset
from v4s_lib.training.processor import make_accelerator
from v4s_lib.training.weights import load_pipeline

ROOT = Path(__file__).resolve().parents[2]
PRESET = replace(SMOKE, steps=6, validate_every=100, validation_rooms=1)


def run(out: Path, **options: object) -> Path:
    return train(options.pop("preset", PRESET), out, progress=False, **options)


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def losses(out: Path) -> list[tuple]:
    return [(line["step"], line["loss"], line["gradient_norm"], line["rate"]) for line in lines(out) if "loss" in line]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "weights" / "diffusion_pytorch_model.safetensors")


def assert_same_end(out: Path, whole: Path) -> None:
    assert losses(out) == losses(whole)
    expected = weights(whole)
    assert all(torch.equal(value, expected[key]) for key, value in weights(out).items())


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """Six steps without a stop."""
    out = tmp_path_factory.mktemp("whole")
    run(out)
    return out


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Path:
    """The same run, stopped after three steps."""
    out = tmp_path_factory.mktemp("stopped")
    run(out, stop_at=3)
    return out


@pytest.fixture
def half(stopped, tmp_path) -> Path:
    """A copy of the stopped run, to go on with."""
    return shutil.copytree(stopped, tmp_path / "half")


def test_a_run_of_some_minutes_goes_on_to_the_same_end(whole, tmp_path):
    run(tmp_path, minutes=1e-6)  # the step under way is finished and saved
    assert latest_checkpoint(tmp_path / "checkpoints").name.endswith("1") and len(losses(tmp_path)) == 1
    run(tmp_path, minutes=60)
    assert_same_end(tmp_path, whole)


def test_the_command_says_how_far_it_came(tmp_path, capsys, seldom_validated):
    arguments = ["--preset", "smoke", "--out", str(tmp_path)]
    assert main([*arguments, "--minutes", "1e-6"]) == 0
    assert "step 1 of 4: run the same command to go on" in capsys.readouterr().err
    assert main(arguments) == 0
    assert "run the same command" not in capsys.readouterr().err


@pytest.mark.parametrize("minutes", [0, -1, float("nan")])
def test_no_minutes_are_refused(minutes, tmp_path):
    with pytest.raises(ValueError, match="^expected to train for more than 0 minutes, got "):
        run(tmp_path, minutes=minutes)
    assert not any(tmp_path.iterdir())


def test_what_a_run_leaves(whole):
    assert sorted(path.name for path in whole.iterdir()) == ["checkpoints", "log.jsonl", "samples", "weights"]
    assert sorted(path.name for path in (whole / "weights").iterdir()) == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ]
    checkpoints = sorted(path.name for path in (whole / "checkpoints").iterdir())
    assert checkpoints == ["checkpoint-0000004", "checkpoint-0000006"]
    assert [path.name for path in (whole / "samples").iterdir()] == ["step-0000006.png"]
    assert [step for step, *_ in losses(whole)] == [1, 2, 3, 4, 5, 6]
    assert "psnr_recall_ours" in lines(whole)[-1]


def test_the_exported_weights_are_the_average_and_make_a_pipeline(whole):
    """Two steps of EMA: the average lags behind the weights that were trained."""
    trained = load_file(whole / "checkpoints" / "checkpoint-0000006" / "model.safetensors")
    average = weights(whole)
    assert average.keys() == trained.keys()
    assert not torch.equal(average["proj_out.weight"], trained["proj_out.weight"])
    pipeline = load_pipeline("smoke", whole / "weights")
    assert torch.equal(pipeline.transformer.proj_out.weight, average["proj_out.weight"])


def test_a_stopped_run_goes_on_to_the_same_end(half, whole):
    assert len(losses(half)) == 3
    run(half)
    assert_same_end(half, whole)


def test_a_finished_run_is_left_as_it_is(whole, tmp_path):
    out = shutil.copytree(whole, tmp_path / "again")
    run(out)
    assert_same_end(out, whole)
    assert lines(out) == lines(whole)


def test_a_torn_checkpoint_costs_the_steps_since_the_one_before(half, whole):
    newest = latest_checkpoint(half / "checkpoints")
    content = bytearray((newest / "model.safetensors").read_bytes())
    content[-9] ^= 1
    (newest / "model.safetensors").write_bytes(content)
    assert (newest.name, latest_checkpoint(half / "checkpoints").name) == ("checkpoint-0000003", "checkpoint-0000002")
    with (half / "log.jsonl").open("a") as log:
        log.write('{"step": 3, "loss": 1.')  # and the log is torn, too
    run(half)
    assert_same_end(half, whole)


def test_a_log_without_a_checkpoint_begins_again(half, whole):
    shutil.rmtree(half / "checkpoints")
    run(half)
    assert_same_end(half, whole)


def test_a_restart_replaces_checkpoints_log_and_weights(whole, tmp_path):
    out = shutil.copytree(whole, tmp_path / "again")
    run(out, resume=False, seed=1, stop_at=3)
    checkpoints = sorted(path.name for path in (out / "checkpoints").iterdir())
    assert checkpoints == ["checkpoint-0000002", "checkpoint-0000003"]
    assert [step for step, *_ in losses(out)] == [1, 2, 3]
    assert losses(out)[0] != losses(whole)[0]
    assert not torch.equal(weights(out)["proj_out.weight"], weights(whole)["proj_out.weight"])


def test_other_settings_do_not_go_on(half):
    with pytest.raises(
        ValueError, match="^expected to resume .*checkpoint-0000003 with the same seed, got another: use"
    ):
        run(half, seed=1)
    with pytest.raises(ValueError, match="with the same steps, loss, got another"):
        run(half, preset=replace(PRESET, steps=7, loss=replace(PRESET.loss, drop_context=0.5)))
    assert len(losses(half)) == 3


def test_initial_weights_are_of_the_presets_model(whole, tmp_path):
    start = replace(PRESET, adamw_lr=0.0, weight_decay=0.0, steps=1)
    run(tmp_path / "a", preset=start, init=whole / "weights")
    assert all(torch.equal(value, weights(whole)[key]) for key, value in weights(tmp_path / "a").items())
    other = replace(PRESET, model=PRESET.model | {"num_layers": 3, "position_size": (1, 3)})
    with pytest.raises(
        ValueError, match=r"^expected in .*weights a model with the num_layers, position_size of preset"
    ):
        run(tmp_path / "b", preset=other, init=whole / "weights")
    with pytest.raises(FileNotFoundError, match=r"^expected a trained transformer in .*, got no config.json"):
        run(tmp_path / "b", init=tmp_path / "nowhere")
    assert not (tmp_path / "b").exists()


def test_a_model_that_cannot_read_can_be_the_start_of_one_that_does(tmp_path):
    mute = PRESET.model | {"text_dim": None, "vocabulary": None, "find_words": None}
    run(tmp_path / "mute", preset=replace(PRESET, model=mute, steps=2, find_steps=0))
    still = replace(PRESET, adamw_lr=0.0, weight_decay=0.0, steps=1)
    run(tmp_path / "reads", preset=still, init=tmp_path / "mute" / "weights")
    reads = weights(tmp_path / "reads")
    assert all(torch.equal(value, reads[key]) for key, value in weights(tmp_path / "mute").items())
    new = {key.split(".")[0] for key in reads.keys() - weights(tmp_path / "mute").keys()}
    assert {"finder", "word_embedding"} <= new


def test_a_loss_that_is_not_finite_ends_the_run_and_saves_nothing(half, capsys):
    preset = replace(PRESET, adamw_lr=float("inf"))
    with pytest.raises(FloatingPointError, match="^expected a finite loss, got nan in step 5: lower the learning rate"):
        run(half, preset=preset)
    assert latest_checkpoint(half / "checkpoints").name in ("checkpoint-0000003", "checkpoint-0000004")


def test_a_gradient_that_is_not_finite_changes_no_weight(tmp_path):
    unstable = Run(replace(PRESET, locate_steps=0, find_steps=0), tmp_path, 0, make_accelerator("no"), None)
    before = [parameter.detach().clone() for parameter in unstable.model.parameters()]
    next(unstable.model.parameters()).register_hook(lambda gradient: gradient / 0)
    with pytest.raises(
        FloatingPointError, match="^expected a finite gradient, got norm (nan|inf) in step 1: lower the"
    ):
        unstable.train_step()
    assert all(torch.equal(one, other) for one, other in zip(unstable.model.parameters(), before, strict=True))


def test_the_learning_rate_warms_up_stays_and_cools_down():
    preset = replace(SMOKE, steps=100, locate_steps=0, find_steps=0, warmup=10, cooldown=0.2)
    expected = {0: 0.1, 4: 0.5, 9: 1, 50: 1, 80: 1, 90: 0.5, 99: 0.05}
    assert {step: learning_rate(step, preset) for step in expected} == pytest.approx(expected)
    # the steps before have a rise and a fall of their own
    preset = replace(preset, steps=250, locate_steps=50, find_steps=100)
    before = {0: 0.1, 9: 1, 40: 1, 45: 0.5} | {50 + step: rate for step, rate in expected.items()}
    expected = before | {150 + step: rate for step, rate in expected.items()}
    assert {step: learning_rate(step, preset) for step in expected} == pytest.approx(expected)


def test_the_optimizer_takes_every_parameter():
    model = ContextVideoTransformer(**SMOKE.model)
    taken = [id(p) for group in make_optimizer(model, SMOKE).param_groups for p in group["params"]]
    assert sorted(taken) == sorted(id(p) for p in model.parameters())


def test_smoke_trains_from_the_command_line_without_context(tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["--preset", "smoke", "--no-context", "--steps", "4", "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out / "weights")
    assert [step for step, *_ in losses(out)] == [1, 2]  # without those that teach to locate and to find
    scores = {value for key, value in lines(out)[-1].items() if key.startswith("psnr_recall")}
    assert len(scores) == 1  # whatever it is given, it is shown none


REFUSED = {
    "preset": (["--preset", "huge"], "expected a preset out of .*, got 'huge': choose one of them"),
    "steps": (["--steps", "0"], "expected to train for 1 step or more, got 0: ask for more steps"),
    "drawing": (
        ["--steps", "2"],
        "expected more than the 2 steps that teach to locate and to find, got --steps 2: add those that are to teach "
        "drawing",
    ),
    "no drawing without context": (
        ["--no-context", "--steps", "1"],
        "expected more than the 2 steps that teach to locate and to find, got --steps 1: add those that are to teach "
        "drawing",
    ),
    "minutes": (["--minutes", "0"], "expected to train for more than 0 minutes, got 0: ask for some, or for steps"),
    "stop": (["--stop-at", "0"], "expected to train for 1 step or more, got 0: ask for more steps"),
    "init": (["--init", "nowhere"], "expected a trained transformer in nowhere, got no config.json: train one first"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_arguments_end_in_one_sentence(tmp_path, capsys, name):
    arguments, message = REFUSED[name]
    assert main(["--preset", "smoke", "--out", str(tmp_path / "out"), *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(message + "\n", captured.err)
    assert not (tmp_path / "out").exists()


def start(out: Path) -> subprocess.Popen:
    """``python -m v4s_lib.training`` in a process that hears Ctrl-C even if this one is run in the background."""
    command = [sys.executable, "-m", "v4s_lib.training", "--preset", "smoke", "--steps", "200", "--out", str(out)]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def wait_for(process: subprocess.Popen, condition: Callable[[], bool]) -> None:
    while process.poll() is None and not condition():
        time.sleep(0.05)
    assert process.returncode is None, process.communicate()


@pytest.mark.slow  # two processes that import everything: 14 s of one core
def test_a_run_that_is_interrupted_and_then_killed_goes_on_to_the_same_losses(tmp_path, seldom_validated):
    out = tmp_path / "out"
    process = start(out)
    wait_for(process, lambda: (out / "log.jsonl").is_file() and len(losses(out)) >= 1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "interrupted: run the same command to go on from the last checkpoint"
    assert "Traceback" not in errors
    saved = latest_checkpoint(out / "checkpoints")
    interrupted_at = losses(out)[-1][0]
    assert saved.name == f"checkpoint-{interrupted_at:07d}"  # of the last step in the log: nothing was lost
    assert not list(out.rglob("*.part"))

    process = start(out)
    wait_for(process, lambda: (out / "log.jsonl").read_text().count('"loss"') >= interrupted_at + 3)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    killed_at = losses(out)[-1][0]
    saved_at = int(latest_checkpoint(out / "checkpoints").name.removeprefix("checkpoint-"))
    assert interrupted_at < saved_at <= killed_at

    last = killed_at + 1
    assert main(["--preset", "smoke", "--steps", "200", "--out", str(out), "--stop-at", str(last)]) == 0
    train(get_preset("smoke", steps=200), tmp_path / "whole", stop_at=last, progress=False)
    assert_same_end(out, tmp_path / "whole")


TWO_PROCESSES = """
from dataclasses import replace
from pathlib import Path
from v4s_lib.training.loop import train
from v4s_lib.training.presets import SMOKE

preset = replace(SMOKE, steps=6, validate_every=100, validation_rooms=1)
for out, stop_at in (("both", 4), ("half", 2), ("half", 4)):
    train(preset, Path(__file__).parent / out, stop_at=stop_at, progress=False)
"""


@pytest.mark.slow  # two processes that import everything
def test_two_processes_train_one_model_on_other_rooms_and_resume(whole, tmp_path):
    (tmp_path / "script.py").write_text(TWO_PROCESSES)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [*command, str(tmp_path / "script.py")], env=environment, capture_output=True, text=True, timeout=280
    )
    assert result.returncode == 0, result.stderr
    assert_same_end(tmp_path / "half", tmp_path / "both")
    assert [step for step, *_ in losses(tmp_path / "both")] == [1, 2, 3, 4]  # logged once, by the main process
    assert all(one != both for one, both in zip(losses(whole)[:4], losses(tmp_path / "both"), strict=True))
