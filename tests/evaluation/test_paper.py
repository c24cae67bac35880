"""The paper's tables beside ours: its figures are those of docs/PAPER.md, ours are stored."""

from pathlib import Path

from v4s_lib.evaluation.paper import ROWS, paper_tables
from v4s_lib.evaluation.results import find_row, load_results

RESULTS = Path("docs/PAPER.md").read_text().split("## 6. Results")[1].split("## 7.")[0]
GROUNDING, NAVIGATION = RESULTS.split("Scene navigation [A]")


def test_the_papers_figures_are_those_of_its_table():
    for title, told in (("Scene navigation", NAVIGATION), ("Object grounding", GROUNDING)):
        lines = {line.split("|")[1].strip(): line for line in told.splitlines() if line.startswith("| ")}
        named = [(name.split(" (")[0], figures) for name, figures, *_ in ROWS[title][1] if figures]
        assert len(named) >= 4
        for name, figures in named:
            cells = [float(cell) for cell in lines[name].split("|") if cell.strip().replace(".", "", 1).isdigit()]
            assert set(figures) <= set(cells), name


def test_ours_are_the_stored_means_of_128_rooms():
    table = paper_tables()
    found = load_results("navigation_small")
    row = find_row(found, "posed", "psnr_per_frame")
    assert f"| `posed` | {row['mean']:.1f} [{row['low']:.1f}, {row['high']:.1f}] |" in table
    lines = [line for line in table.splitlines() if line.startswith("|") and "`" in line]
    assert len(lines) == sum(len(rows) for _, rows in ROWS.values())
    assert all(line.endswith("| 128 |") for line in lines)
