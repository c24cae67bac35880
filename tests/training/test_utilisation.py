"""What a step's time goes into: counted operations against a count by hand, and parts that add up."""

import json
from dataclasses import asdict, replace

import pytest
import torch

from v4s_lib.data.provenance import current_commit
from v4s_lib.training.presets import SMOKE
from v4s_lib.training.utilisation import (
    KINDS,
    PARTS,
    Utilisation,
    all_minutes,
    count_flops,
    kinds_of,
    main,
    measure,
    product_rate,
    table,
)


def test_shares_are_of_the_whole_time_and_the_peak_that_is_named():
    row = Utilisation("draw", {"rooms": 1.0, "loss": 1.0, "gradients": 1.5, "update": 0.5}, flops=2e12, peak=1e12)
    assert row.share(row.peak) == 0.5 and row.share(4e12) == 0.125
    found = {"gpu": None, "all_steps": 10, "minutes": 2.4, "rows": [asdict(row) | {"share": row.share(row.peak)}]}
    *_, line, _, last = table(found).splitlines()
    assert last == "All 10 steps: 2 minutes, with validation and compiling left out."
    assert line == "| draw | 4 | 25% | 25% | 38% | 12% | 2e+03 | 50% |"
    assert "the peak of h200" in table(found | {"gpu": "h200"})


def test_the_minutes_of_all_steps_are_known():
    taken = {"locate": 6.0, "find": 0.6, "draw, told where": 12.0, "draw": 24.0}
    rows = [Utilisation(kind, {"loss": seconds}, flops=1.0, peak=1.0) for kind, seconds in taken.items()]
    preset = replace(SMOKE, locate_steps=10, find_steps=100, steps=120, told_poses=(1.0, 0.5))
    assert all_minutes(preset, rows) == pytest.approx(1 + 1 + 10 * (0.75 * 12 + 0.25 * 24) / 60)
    assert all_minutes(replace(preset, find_steps=0), rows[:1] + rows[2:]) == pytest.approx(1 + 110 * 15 / 60)


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
    assert count_flops(SMOKE, "find") < count_flops(SMOKE, "locate") < row.flops
    assert count_flops(SMOKE, "draw, told where") < row.flops == count_flops(SMOKE, "draw")


def test_a_matrix_product_is_timed():
    assert 1e8 < product_rate(torch.device("cpu"), torch.float32) < 1e15


def test_every_kind_of_step_is_stored(tmp_path, capsys):
    assert main(["--preset", "smoke", "--steps", "1", "--json", str(tmp_path / "found.json")]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["preset"] == "smoke" and found["commit"] == current_commit()
    assert [row["kind"] for row in found["rows"]] == list(KINDS)
    assert all(row["share"] > 0 and set(row["seconds"]) == set(PARTS) for row in found["rows"])
    assert [line.split(" | ")[0][2:] for line in capsys.readouterr().out.splitlines()[2:-2]] == list(KINDS)
    assert kinds_of(replace(SMOKE, find_steps=0)) == [kind for kind in KINDS if kind != "find"]


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
