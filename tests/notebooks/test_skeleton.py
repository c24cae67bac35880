"""The skeleton that every notebook shares: order, parameters, sizes, and outputs that fit the code."""

import ast
import re
import statistics
from pathlib import Path

import nbformat
import pytest

from v4s_lib.viewing.notebooks import FOLDER, SIZE_LIMIT, TABLE, check_stored, code_hash, default_preset, inputs_hash

PATHS = sorted(FOLDER.glob("*.ipynb"))
PARAMETERS = {"preset": "str", "seed": "int", "out_dir": "str", "data_dir": "str", "interactive": "bool"}
OWN_PARAMETERS = {"03_train_small": {"steps": "int"}}
ENDING = ["What differs from the paper", "Takeaways", "Exercises", "Next"]


@pytest.fixture(params=PATHS, ids=[path.stem for path in PATHS])
def path(request) -> Path:
    return request.param


@pytest.fixture
def notebook(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def line_count(source: str) -> int:
    return sum(bool(line.strip()) for line in source.splitlines())


def words(notebook) -> int:
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    return sum(bool(re.search(r"\w", word)) for text in texts for word in text.split())


def test_the_notebooks_are_there():
    expected = ["00_quickstart", "01_data", "02_model", "03_train_small", "04_train_full", "05_navigation"]
    expected += ["06_grounding", "07_ablations", "08_long_context", "09_out_of_domain", "10_report"]
    assert set(expected) <= {path.stem for path in PATHS}


def test_top_of_the_notebook(path, notebook):
    title, table, build, parameters, imports = notebook.cells[:5]
    lines = [line for line in title.source.splitlines() if line]
    assert lines[0].startswith(f"# {path.stem[:2]} · ") and len(lines) == 2
    assert table.source.splitlines()[0] == TABLE and len(table.source.splitlines()) == 3
    bullets = [line for line in build.source.splitlines() if line.startswith("- ")]
    assert build.source.startswith("## What you will build") and 1 <= len(bullets) <= 4
    assert "PAPER.md §" in build.source
    assert parameters.metadata.get("tags") == ["parameters"]
    assert imports.cell_type == "code" and "from v4s_lib" in imports.source


def test_sections_and_ending_in_order(notebook):
    heads = re.findall(r"^## (.+)$", "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown"), re.M)
    numbered = heads[1 : -len(ENDING)]
    assert heads[-len(ENDING) :] == ENDING
    assert [head.split(".")[0] for head in numbered] == [str(number) for number in range(1, len(numbered) + 1)]
    assert 3 <= len(numbered) <= 8


def test_exercises_end_in_a_checker(notebook):
    starts = [number for number, cell in enumerate(notebook.cells) if "## Exercises" in cell.source]
    exercises = [cell.source for cell in notebook.cells[starts[0] :] if cell.cell_type == "code"]
    assert 2 <= len(exercises) <= 4
    assert all(source.splitlines()[-1].startswith("check_") for source in exercises)


def test_parameters_are_typed_literals_with_help(path, notebook):
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    found = {}
    for node, line in zip(ast.parse(tagged[0].source).body, tagged[0].source.splitlines(), strict=True):
        assert isinstance(node, ast.AnnAssign) and "  # " in line
        ast.literal_eval(node.value)
        found[node.target.id] = node.annotation.id
    assert found == PARAMETERS | OWN_PARAMETERS.get(path.stem, {})
    assert default_preset(notebook) == "small"


def test_cells_are_short_and_prose_is_sparing(notebook):
    sizes = {source: line_count(source) for source in code_cells(notebook)}
    assert statistics.median(sizes.values()) <= 8
    assert all(size <= (40 if "class " in source else 25) for source, size in sizes.items())
    total = sum(sizes.values())
    assert 80 <= total <= 250
    assert 3 <= words(notebook) / total <= 9


def test_speed_comes_from_the_preset_alone(notebook):
    code = "\n".join(code_cells(notebook))
    assert not re.search(r"\bCI\b|SMOKE|os\.environ|getenv|if preset|== .smoke.", code)


def test_what_is_stored_can_be_read_on_a_page(path, notebook):
    check_stored(notebook, path.name)
    text = path.read_text(encoding="utf-8")
    assert len(text.encode()) < SIZE_LIMIT
    assert "data:video" not in text and "vnd.jupyter.widget" not in text and "widgets" not in notebook.metadata
    kinds = {kind for c in notebook.cells for output in c.get("outputs", []) for kind in output.get("data", {})}
    assert not any(kind.startswith("video/") for kind in kinds)
    assert not any(output.output_type == "error" for c in notebook.cells for output in c.get("outputs", []))


def test_stored_outputs_belong_to_this_code_and_these_weights(notebook):
    stamp = notebook.metadata.get("v4s")
    if stamp is None:
        assert not any(cell.get("outputs") for cell in notebook.cells), "outputs without a stamp: run make notebooks"
        pytest.skip("no outputs are stored")
    again = "the code has changed since the outputs were made: run make notebooks"
    assert stamp["preset"] == default_preset(notebook)
    assert stamp["code_sha256"] == code_hash(notebook), again
    assert stamp["inputs_sha256"] == inputs_hash(stamp["preset"]), again
