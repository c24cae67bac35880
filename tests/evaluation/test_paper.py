"""The paper's tables beside ours: its figures are those of docs/PAPER.md, ours are stored."""

from pathlib import Path

from v4s_lib.evaluation.paper import ROWS, paper_tables
from v4s_lib.evaluation.results import find_row, load_results

PAPER = Path("docs/PAPER.md").read_text().split("## 6. Results")[1].split("## 7.")[0]


def test_the_papers_figures_are_those_of_its_table():
    lines = {line.split("|")[1].strip(): line for line in PAPER.splitlines() if line.startswith("| ")}
    names = [(name, figures) for _, rows in ROWS.values() for name, figures, *_ in rows if figures]
    assert len(names) == 9
    for name, figures in names:
        line = lines[name.split(" (")[0]]
        if name == "Video4Spatial" and len(figures) == 2:
            line = next(line for line in PAPER.splitlines() if line.startswith("| Video4Spatial | none"))
        cells = [float(cell) for cell in line.split("|") if cell.strip().replace(".", "", 1).isdigit()]
        assert all(figure in cells for figure in figures), name


def test_ours_are_the_stored_means_of_128_rooms():
    table = paper_tables()
    found = load_results("navigation_small")
    row = find_row(found, "posed", "psnr_per_frame")
    assert f"| `posed` | {row['mean']:.1f} [{row['low']:.1f}, {row['high']:.1f}] |" in table
    lines = [line for line in table.splitlines() if line.startswith("|") and "`" in line]
    assert len(lines) == sum(len(rows) for _, rows in ROWS.values())
    assert all(line.endswith("| 128 |") for line in lines)
