"""Every notebook runs to its end at the ``smoke`` scale, without widgets, in a folder of its own."""

import papermill
import pytest

from v4s_lib.viewing import ROOT
from v4s_lib.viewing.notebooks import FOLDER

PATHS = sorted(FOLDER.glob("*.ipynb"))
CELL_TIMEOUT = 200  # seconds; a notebook takes about 10 on one idle core


@pytest.mark.parametrize("path", PATHS, ids=[path.stem for path in PATHS])
def test_notebook_runs_to_its_end(path, tmp_path):
    before = path.read_bytes()
    done = papermill.execute_notebook(
        path,
        tmp_path / path.name,
        {"preset": "smoke", "interactive": False, "out_dir": str(tmp_path)},
        kernel_name="python3",
        cwd=ROOT,
        progress_bar=False,
        execution_timeout=CELL_TIMEOUT,
        start_timeout=CELL_TIMEOUT,
    )
    assert path.read_bytes() == before
    outputs = [output for cell in done.cells for output in cell.get("outputs", [])]
    errors = [output.text for output in outputs if output.output_type == "stream" and output.name == "stderr"]
    assert errors == []
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    answers = [output.text for output in outputs if output.output_type == "stream" and "not yet: " in output.text]
    assert len(pictures) >= 2
    assert len(answers) >= 2  # the open exercises say so, and stop nothing
