"""The two tables of the paper, row by row beside what stands in for each row here (docs/PAPER.md §6; docs/results.md).

The scales differ: model, frames, rooms, and SD. Figures are of 128 test rooms, with 95% intervals over rooms.
"""

from typing import Any

from v4s_lib.evaluation.results import find_row, has_results, load_results
from v4s_lib.evaluation.statistics import in_words

NAVIGATION = {"PSNR": "psnr_per_frame", "LPIPS": "lpips"}
GROUNDING = {"SD": "sd", "IF": "if", "IF(SD<0.2)": "if_sd02", "IF(SD<0.1)": "if_sd01"}
# Of short trainings, without the painter, which find nothing, compressed or not.
COMPRESSED = "arms/unpainted_compressed_4-grounding"

# The paper's row, its figures in the order of the measures, the stored results and the method that stand in for it.
ROWS: dict[str, tuple[dict[str, str], list[tuple[str, tuple[float, ...], str, str]]]] = {
    "Scene navigation": (
        NAVIGATION,
        [
            ("AnySplat (told poses)", (16.40, 0.4402), "navigation_small", "posed"),
            ("TrajectoryCrafter (told poses, depth)", (13.56, 0.4920), "navigation_small", "splat_true_geometry"),
            ("Gen3C (told poses, depth)", (12.76, 0.5695), "navigation_small", "splat_true_geometry"),
            ("Video4Spatial", (14.27, 0.4674), "navigation_small", "ours"),
            ("–", (), "navigation_small", "sfm_splat"),
        ],
    ),
    "Object grounding": (
        GROUNDING,
        [
            ("ground truth", (0.0739, 1.0, 1.0, 0.8260), "grounding_small", "ground_truth"),
            ("Wan2.2-5B (one frame)", (0.5341, 0.9439, 0.2242, 0.0934), "grounding_small", "no_context"),
            ("Veo3 (one frame)", (0.2211, 0.9532, 0.4599, 0.3821), "grounding_small", "no_context"),
            ("FramePack (compressed context)", (0.3672, 0.3, 0.1, 0.1), COMPRESSED, "unpainted_compressed_4"),
            ("–", (), COMPRESSED, "unpainted"),
            ("Video4Spatial", (0.1099, 0.7327, 0.6486, 0.4941), "grounding_small", "ours"),
        ],
    ),
}


def paper_tables() -> str:
    """Both tables in Markdown: the paper's figures, and ours with their intervals."""
    parts = []
    for title, (measures, rows) in ROWS.items():
        lines = [f"| {title} | the paper: {', '.join(measures)} | here | {' | '.join(measures)} | rooms |"]
        lines.append("|---" * (len(measures) + 4) + "|")
        for name, figures, results, method in rows:
            if has_results(results):
                found = load_results(results)
                own = [_cell(found, method, metric) for metric in measures.values()]
                theirs = ", ".join(f"{figure:g}" for figure in figures) or "–"
                lines.append(f"| {name} | {theirs} | `{method}` | {' | '.join(own)} | {found['episodes']} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _cell(found: dict[str, Any], method: str, metric: str) -> str:
    """A mean with its interval; "–" where the results do not have it."""
    if not any((row["method"], row["metric"]) == (method, metric) for row in found["rows"]):
        return "–"
    row = find_row(found, method, metric)
    digits = 1 if row["unit"] == "dB" else 3
    return in_words(row, digits=digits)
