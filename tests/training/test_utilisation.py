"""What a step's time goes into: counted operations against a count by hand, and parts that add up."""

import pytest
import torch

from v4s_lib.training.presets import SMOKE
from v4s_lib.training.utilisation import KINDS, PARTS, Utilisation, count_flops, main, measure, product_rate, table


def test_shares_are_of_the_whole_time_and_the_peak_that_is_named():
    row = Utilisation("draw", {"rooms": 1.0, "loss": 1.0, "gradients": 1.5, "update": 0.5}, flops=2e12, peak=1e12)
    assert row.share() == 0.5 and row.share(4e12) == 0.125
    line = table([row], None).splitlines()[-1]
    assert line == "| draw | 4 | 25% | 25% | 38% | 12% | 2e+03 | 50% |"
    assert "the peak of h200" in table([row], "h200")


def test_parts_are_timed_and_operations_counted():
    row = measure(SMOKE, "draw", steps=1)
    assert set(row.seconds) == set(PARTS) and min(row.seconds.values()) > 0
    # The first of the products alone: patches of context and targets become tokens, forwards once, backwards once (the
    # pixels want no gradient).
    task, model = SMOKE.task, SMOKE.model
    latents = SMOKE.contexts * (task.context_latents + task.targets * (task.target_latents + task.tail_latents))
    width = model["num_attention_heads"] * model["attention_head_dim"]
    rows, columns = model["position_size"]
    embedding = 2 * 2 * latents * rows * columns * model["in_channels"] * width
    assert embedding < row.flops < 250 * embedding
    assert count_flops(SMOKE, "locate") < row.flops
    assert count_flops(SMOKE, "draw, told where") < row.flops == count_flops(SMOKE, "draw")


def test_a_matrix_product_is_timed():
    assert 1e8 < product_rate(torch.device("cpu"), torch.float32) < 1e15


def test_what_cannot_be_compared_is_refused(capsys):
    assert main(["--preset", "smoke", "--steps", "0"]) != 0
    assert "expected 1 step or more, got 0" in capsys.readouterr().err
    assert main(["--preset", "smoke", "--gpu", "tpu"]) != 0
    assert "expected a GPU out of" in capsys.readouterr().err


@pytest.mark.parametrize("kind", KINDS)
def test_counting_leaves_no_trace(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    count_flops(SMOKE, kind)
    assert not any(tmp_path.iterdir())
