"""The training command as accelerate launches it, and adapters with their frozen weights in bf16."""

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.training.many import run
from tests.training.test_adapters import INPUTS, base
from tests.training.test_full_loop import assert_same, losses
from tests.training.tiny_cache import SCALE
from v4s_lib.training.adapters import adapter_config, add_adapters, hold_frozen
from v4s_lib.training.full_loop import Job, finetune
from v4s_lib.training.sharding import trained

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import sys
from tests.training.tiny_cache import SCALE
from v4s_lib.training.finetune import main
from v4s_lib.training.full import SCALES
SCALES[SCALE.name] = SCALE
sys.exit(main())
"""


@pytest.fixture(scope="module")
def whole(cache, tmp_path_factory) -> Path:
    """Four steps in one process without a stop."""
    out = tmp_path_factory.mktemp("whole")
    run(finetune, (Job(SCALE, cache, out),))
    return out


def test_accelerate_launches_two_processes_that_give_the_losses_of_one(whole, cache, tmp_path):
    (tmp_path / "train.py").write_text(SCRIPT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launch = ["--cpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
    launch += ["--dynamo_backend", "no", "--main_process_port", port, str(tmp_path / "train.py")]
    asked = ["--scale", SCALE.name, "--cache", str(cache), "--out", str(tmp_path / "out")]
    command = [sys.executable, "-m", "accelerate.commands.launch", *launch, *asked]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    subprocess.run(command, env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}, check=True, timeout=120)
    assert_same(tmp_path / "out", whole)


def test_two_processes_go_on_as_four(whole, cache, tmp_path):
    job = Job(SCALE, cache, tmp_path / "out", save_every=2)
    run(finetune, (job, 2), processes=2, sharded=True)
    run(finetune, (job,), processes=4, sharded=True)
    assert_same(tmp_path / "out", whole)


def loss_and_gradients(held: bool) -> list[torch.Tensor]:
    """Of adapters of random values, in autocast; ``held`` keeps what they adapt in bf16."""
    model = base()
    adapted = add_adapters(model, adapter_config(2))
    torch.manual_seed(1)
    for parameter in trained(model).values():
        torch.nn.init.normal_(parameter, std=0.1)
    if held:
        hold_frozen(adapted, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(**INPUTS).float().square().mean()
    loss.backward()
    return [loss.detach(), *(parameter.grad for parameter in trained(model).values())]


def test_frozen_weights_in_bf16_change_no_loss_and_no_gradient():
    model = base()
    adapted = add_adapters(model, adapter_config(2))
    frozen = [value for name, value in model.named_parameters() if ".base_layer." in name]
    before = sum(value.nbytes for value in frozen)
    hold_frozen(adapted, torch.bfloat16)
    assert 2 * sum(value.nbytes for value in frozen) == before > 0
    assert all(value.dtype == torch.float32 for value in trained(model).values())
    for value, expected in zip(loss_and_gradients(True), loss_and_gradients(False), strict=True):
        assert torch.equal(value, expected)


def test_adapters_train_in_bf16_near_fp32(cache, tmp_path):
    for precision in ("no", "bf16"):
        scale = replace(SCALE, mixed_precision=precision, lora_learning_rate=1e-2)
        run(finetune, (Job(scale, cache, tmp_path / precision, lora=2),))
    assert losses(tmp_path / "bf16")[::2] == pytest.approx(losses(tmp_path / "no")[::2], rel=0.02)
    assert losses(tmp_path / "bf16") != losses(tmp_path / "no")
    job = Job(scale, cache, tmp_path / "two", lora=2, save_every=2)
    run(finetune, (job, 2), processes=2)
    run(finetune, (job,), processes=2)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "bf16"), rel=1e-3)
