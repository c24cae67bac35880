import json

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from v4s_lib.viewing import notebooks as runner
from v4s_lib.viewing.notebooks import (
    TABLE,
    Measured,
    check_stored,
    code_hash,
    inputs_hash,
    main,
    read_notebook,
    record,
    run,
    strip,
)

HEAD = f"{TABLE}\n|---|---|---|---|---|---|\n| a goal | nothing | – | – | – | – |"
WIDGET = """
from IPython.display import HTML, display
display({"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "Box()"}, raw=True)
display(HTML('<video src="data:video/mp4;base64,AAAA"></video>'))
"""


def write(path, *sources: str):
    cells = [new_markdown_cell(HEAD), new_code_cell('preset: str = "smoke"  # scale')]
    cells[1].metadata["tags"] = ["parameters"]
    cells += [new_code_cell(source) for source in sources]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    nbformat.write(new_notebook(cells=cells), path)
    return path


def test_memory_is_that_of_the_kernel_not_of_what_started_it(tmp_path):
    held = np.ones(60_000_000)  # 480 MB, of this process
    measured = run(write(tmp_path / "a.ipynb", "print(preset)"))
    assert 20e6 < measured.peak_bytes < held.nbytes


def test_outputs_are_stored_with_table_stamp_and_ids(tmp_path):
    path = write(tmp_path / "a.ipynb", "print(preset)", WIDGET)
    measured = run(path)
    stored = read_notebook(path)
    assert [cell.id for cell in stored.cells] == [f"cell-{number}" for number in range(4)]
    assert stored.cells[2].outputs[0].text == "smoke\n"
    assert stored.cells[3].outputs == []  # neither the widget nor the video
    row = stored.cells[0].source.splitlines()[2].split(" | ")
    assert row[0] == "| a goal" and row[1:3] == ["nothing", "smoke"] and len(row) == 6
    assert row[4] == f"{measured.seconds / 60:.1f}"
    assert 20e6 < measured.peak_bytes < 2e9  # a kernel without torch
    assert stored.metadata.v4s.code_sha256 == code_hash(stored)
    before = path.read_bytes()
    run(path)
    assert read_notebook(path).metadata == stored.metadata
    assert len(path.read_bytes()) == pytest.approx(len(before), abs=20)  # only the measured columns may differ


def test_another_preset_is_a_check_and_stores_nothing(tmp_path):
    path = write(tmp_path / "a.ipynb", "assert preset == 'other'")
    before = path.read_bytes()
    run(path, preset="other")
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("source", "timeout", "message"),
    [
        ("x = 1\n1 / 0", 60, r"got ZeroDivisionError: division by zero in cell 2 \(`x = 1`\): mend that cell"),
        ("while True:\n    pass", 2, r"got no end after 2 s in cell 2 \(`while True:`\): mend that cell"),
        ("import os\nos._exit(1)", 60, r"got a kernel that died in cell 2 \(`import os`\): mend that cell"),
    ],
)
def test_a_failing_notebook_says_one_sentence_and_leaves_the_file(tmp_path, source, timeout, message):
    path = write(tmp_path / "a.ipynb", source)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"^expected a.ipynb to run to its end, " + message + "$"):
        run(path, timeout=timeout)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.ipynb"]


def test_outputs_that_name_a_folder_of_the_machine_or_are_too_large_are_refused(tmp_path):
    notebook = read_notebook(write(tmp_path / "a.ipynb", "print(1)"))
    notebook.cells[2].outputs = [new_output("stream", text="wrote /" + "home/ada/x.png\n")]
    with pytest.raises(ValueError, match="expected no path of this machine in a.ipynb, got one in cell 2"):
        check_stored(notebook, "a.ipynb")
    notebook.cells[2].outputs = [new_output("display_data", data={"image/png": "A" * 300_000})]
    with pytest.raises(ValueError, match="expected a.ipynb under 300000 bytes, got"):
        check_stored(notebook, "a.ipynb")


def test_widget_state_is_stripped(tmp_path):
    notebook = read_notebook(write(tmp_path / "a.ipynb"))
    notebook.metadata["widgets"] = {"state": {}}
    strip(notebook)
    assert "widgets" not in notebook.metadata


def test_hash_follows_code_and_not_prose(tmp_path):
    notebook = read_notebook(write(tmp_path / "a.ipynb", "print(1)"))
    before = code_hash(notebook)
    notebook.cells[0].source += " and more"
    assert code_hash(notebook) == before
    notebook.cells[2].source = "print(2)"
    assert code_hash(notebook) != before


def test_a_file_that_is_no_notebook_is_refused(tmp_path):
    (tmp_path / "a.ipynb").write_text("{")
    with pytest.raises(ValueError, match="expected a notebook in a.ipynb"):
        run(tmp_path / "a.ipynb")


def test_runs_are_added_to_those_before(tmp_path):
    file = tmp_path / "runs.json"
    record("00", "small", Measured(12.34, 5_000_000, "2 CPU cores"), file)
    record("01", "smoke", Measured(1.0, 1, "2 CPU cores"), file)
    assert json.loads(file.read_text())["00"]["small"] == {
        "seconds": 12.3, "peak_bytes": 5_000_000, "hardware": "2 CPU cores"
    }  # fmt: skip
    assert set(json.loads(file.read_text())) == {"00", "01"}


def test_command_line_reports_failures_and_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runner, "FOLDER", tmp_path)
    write(tmp_path / "a.ipynb", "raise KeyError('gone')")
    (tmp_path / "b.ipynb").write_text("no notebook")
    assert main(["a", "b"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "KeyError" in lines[0] and "b.ipynb" in lines[1]


def test_command_line_refuses_a_name_that_is_not_there(capsys):
    with pytest.raises(SystemExit):
        main(["99_nothing"])
    assert "expected names of notebooks" in capsys.readouterr().err


def test_the_weights_of_other_seeds_do_not_count(monkeypatch, tmp_path):
    """They are not shipped: a clone has none, and its stamp has to be the same."""
    monkeypatch.setattr(runner, "ROOT", tmp_path)
    weights = tmp_path / "data_manifests" / "weights" / "small"
    for name in ("ours/diffusion.safetensors", "seed1/run.json"):
        (weights / name).parent.mkdir(parents=True)
        (weights / name).write_text("1")
    before = inputs_hash("small")
    (weights / "seed1" / "diffusion.safetensors").write_text("2")
    assert inputs_hash("small") == before
    (weights / "ours" / "diffusion.safetensors").write_text("2")
    assert inputs_hash("small") != before
