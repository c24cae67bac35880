"""The table of settings on rooms of preset smoke: stored as it goes, and not measured twice."""

import json

from v4s_lib.evaluation.settings import main

ASKED = ["--preset", "smoke", "--guidance", "1", "--samples", "2", "--episodes", "2", "--solver", "euler", "heun"]


def test_settings_are_stored_and_gone_on_with(tmp_path, capsys):
    path = tmp_path / "settings.json"
    assert main([*ASKED, "--steps", "1", "--json", str(path)]) == 0
    (euler, heun), table = json.loads(path.read_text())["rows"], capsys.readouterr().out
    assert (euler["evaluations"], heun["evaluations"]) == (1, 1)
    assert abs(euler["one"]["mean"] - heun["one"]["mean"]) < 1e-3  # one step is the same for both
    assert euler["one"]["n"] == 2
    head, _, first, second = table.splitlines()
    assert head.split(" | ")[5] == "minus euler, 1 (dB)"
    assert first.split(" | ")[5] == "–" and second.split(" | ")[5].startswith(("+0.00 [", "-0.00 ["))

    stored = json.loads(path.read_text())
    stored["rows"][0]["one"]["mean"] = 12.34  # a stored row is shown as it is
    path.write_text(json.dumps(stored))
    assert main([*ASKED, "--steps", "1", "2", "--json", str(path)]) == 0
    rows, longer = json.loads(path.read_text())["rows"], capsys.readouterr().out
    assert [(row["solver"], row["steps"]) for row in rows] == [("euler", 1), ("heun", 1), ("euler", 2), ("heun", 2)]
    assert rows[3]["evaluations"] == 3
    assert "12.34" in longer and "12.34" not in table


def test_settings_of_other_rooms_are_not_added_to(tmp_path, capsys):
    path = tmp_path / "settings.json"
    stored = {"preset": "smoke", "split": "validation", "samples": 2, "episodes": 3, "weights_sha256": "0", "rows": []}
    path.write_text(json.dumps(stored))
    assert main([*ASKED, "--steps", "1", "--json", str(path)]) == 2
    assert "the same episodes, weights_sha256, got another: name another file" in capsys.readouterr().err
    assert json.loads(path.read_text()) == stored
