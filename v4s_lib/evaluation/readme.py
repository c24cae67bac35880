"""``python -m v4s_lib.evaluation.readme``: put the stored results' figures, tables and pictures into the README."""

import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from v4s_lib.command import command
from v4s_lib.evaluation import settings
from v4s_lib.evaluation.ledger import BY_DESIGN, EARLIER, Entry, brief_table, ledger_table, read_ledger
from v4s_lib.evaluation.paper import paper_tables
from v4s_lib.evaluation.ratios import ratio_table
from v4s_lib.evaluation.reproduce import check_weights, choose_episodes, episode_sheet
from v4s_lib.evaluation.results import (
    EXPERIMENTS,
    RESULTS,
    find_row,
    gains,
    has_results,
    load_models,
    load_results,
    markdown_table,
    seed_results,
    tables,
)
from v4s_lib.training import minutes, utilisation
from v4s_lib.training.presets import get_preset

README = Path(__file__).resolve().parents[2] / "README.md"
# What the front tables show; all methods and measures are behind a fold.
FRONT = {
    "navigation": (
        [
            "ours",
            "no_context",
            "first_frame_only",
            "context_mean",
            "sfm_splat",
            "nearest_true_pose",
            "splat_sight",
            "posed",
            "splat_true_geometry",
        ],
        ["psnr_recall", "psnr", "ssim", "lpips", "navigation_accuracy", "rotation_error", "translation_error"],
    ),
    "grounding": (
        [
            "ours",
            "ours_drawn",
            "no_context",
            "other_context",
            "shuffled_instruction",
            "random_object",
            "retrieve",
            "retrieve_faded",
            "ground_truth",
        ],
        ["if_sd02", "if_sd01", "if", "aimed", "sd", "sd_way", "smooth", "box", "box_overlap"],
    ),
}


def headline(entries: list[Entry]) -> str:
    """The results in a few sentences, the shipped weights first, then the other training seeds', and all verdicts."""
    navigation = [load_results("navigation_small"), *seed_results("navigation_small")]
    grounding = [load_results("grounding_small"), *seed_results("grounding_small")]

    def figure(results: dict[str, Any], method: str, metric: str, form: str) -> str:
        return format(find_row(results, method, metric)["mean"], form)

    def seeds(found: list[dict[str, Any]], method: str, metric: str, form: str) -> str:
        return listed([figure(results, method, metric, form) for results in found])

    rooms = listed([str(count) for count in dict.fromkeys(results["episodes"] for results in navigation)])
    trainings = "one training" if len(navigation) == 1 else f"{len(navigation)} trainings from different seeds"
    return (
        f"In {rooms} test rooms that it has never seen, over the pixels that only the context can tell: "
        f"**{seeds(navigation, 'ours', 'psnr_recall', '.1f')} dB with its context, "
        f"{seeds(navigation, 'no_context', 'psnr_recall', '.1f')} dB without** ({trainings}). "
        f"A model trained without context has {figure(navigation[0], 'first_frame_only', 'psnr_recall', '.1f')} dB, "
        f"our geometry alone {figure(navigation[0], 'splat_sight', 'psnr_recall', '.1f')} dB (`splat_sight`).\n"
        f"{seeds(navigation, 'ours', 'navigation_accuracy', '.0%')} of the frames looked at are within 5° and 25 cm of "
        f"the instructed path.\nAsked for an object that only the context shows, it ends on it, in this room, in "
        f"{seeds(grounding, 'ours', 'if_sd02', '.0%')} of the clips by a trained classifier, and in "
        f"{seeds(grounding, 'ours', 'aimed', '.0%')} with the object centred by true geometry. The camera is moved by "
        "geometry, not by the model. (The paper's model plans the way itself: 65%, on its own scale.)\n"
        f"{verdicts(entries)}"
    )


def verdicts(entries: list[Entry]) -> str:
    """How many claims have which verdict, and how many of these rest on one training."""
    found = Counter(entry.verdict.split(", ")[0] for entry in entries)
    known = ", ".join(f"{count} {verdict}" for verdict, count in found.most_common())
    once = sum(", one training seed" in entry.verdict for entry in entries)
    proved = sum(entry.verdict == BY_DESIGN for entry in entries)
    earlier = sum(EARLIER in entry.verdict for entry in entries)
    rest = f" {proved} of those reproduced holds by design, as tests show." if proved else ""
    rest += f" {once} verdicts rest on one training seed." if once else ""
    rest += f" The figures of {earlier} are of weights that shipped before." if earlier else ""
    return f"Of {found.total()} claims, of the paper, of a review of it, and one of ours: {known}.{rest}"


def listed(words: list[str]) -> str:
    """Words as a sentence lists them: "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def front_table(name: str) -> str:
    """The main table of an experiment, and behind a fold everything that is stored."""
    results = load_results(name)
    task = results["task"]
    everything = [f"{heading}:\n\n{text}" for heading, text in tables(results).items()]
    differences = "\n".join(f"- `{pair}`: {gain}" for pair, gain in gains(results).items())
    measured = f"Paired differences of `{EXPERIMENTS[task].gain}`, n = {results['episodes']}:"
    return "\n\n".join(
        [
            markdown_table(results, *reversed(FRONT[task])),
            "<details><summary>All methods and measures, and paired differences</summary>",
            *everything,
            measured,
            differences,
            "</details>",
        ]
    )


def claims(entries: list[Entry]) -> str:
    """The ledger: a verdict a line, and behind a fold every check."""
    fold = "<details><summary>Every check, with its figure on each training seed and its bar</summary>"
    return "\n\n".join([brief_table(entries), fold, ledger_table(entries), "</details>"])


def sfm() -> str:
    """The classical baseline among the methods that get the same input."""
    found = load_results("navigation_small")
    metrics = ["failure", "registered", "psnr_recall", "psnr", "lpips", "sd"]
    return markdown_table(found, metrics, ["sfm_splat", "context_mean", "splat_sight", "ours"])


def benchmarks() -> str:
    """The stored benchmarks' ratios, and what they were measured on."""
    if not has_results("benchmarks"):
        return "They have not been run for the record yet."
    results = load_results("benchmarks")
    kinds = {(found["machine"], found["threads"], found["torch"], found["pairs"]) for found in results.values()}
    on = [
        f"{machine}, threads: {threads}, torch {torch}, {pairs} pairs"
        for machine, threads, torch, pairs in sorted(kinds)
    ]
    by = [f"{name} by commit {found['commit'][:7]}" for name, found in results.items()]
    return f"Measured on {listed(on)}: {listed(by)}.\n\n{ratio_table(results)}"


def solvers() -> str:
    """The stored comparison of solvers and numbers of steps, on validation rooms."""
    results = load_results("solvers_small")
    first, *_ = rows = results["rows"]
    return "\n".join([settings.head(first, results["samples"]), *(settings.line(row, first) for row in rows)])


def recipe() -> str:
    """What the stored changes of the training recipe are worth in equal minutes, on validation rooms."""
    parts = []
    for of, head in (("reference", "The preset"), ("unpainted", "Its form without the painter")):
        found = load_results(f"minutes_{of}_small")
        parts.append(f"{head}, {found['minutes']:g} minutes an arm:\n\n{minutes.table(found['arms'])}")
    return "\n\n".join(parts)


def profile() -> str:
    """What a training step's stored time goes into."""
    return utilisation.table(load_results("utilisation_small"))


def with_tables(text: str) -> str:
    """``text`` with everything between its markers drawn anew from the stored results."""
    entries = read_ledger()
    blocks: dict[str, Callable[[], str]] = {
        "headline": lambda: headline(entries),
        "table: navigation_small": lambda: front_table("navigation_small"),
        "table: grounding_small": lambda: front_table("grounding_small"),
        "sfm": sfm,
        "ledger": lambda: claims(entries),
        "paper": paper_tables,
        "benchmarks": benchmarks,
        "solvers": solvers,
        "recipe": recipe,
        "profile": profile,
    }
    for name, draw in blocks.items():
        opening = f"<!-- {name} -->"
        pattern = rf"{re.escape(opening)}\n.*?(<!-- end of {name.split(':')[0]} -->)"
        text, count = re.subn(
            pattern, lambda match, o=opening, d=draw: f"{o}\n{d()}\n{match[1]}", text, flags=re.DOTALL
        )
        if count != 1:
            raise ValueError(f"expected {opening} once in the README, got it {count} times: put the markers back")
    return text


@command("run the same command again")
def main() -> None:
    README.write_text(with_tables(README.read_text()))
    preset = get_preset("small")
    models = load_models(preset)
    for task in EXPERIMENTS:
        if not has_results(f"{task}_{preset.name}"):
            continue
        results = load_results(f"{task}_{preset.name}")
        check_weights(results, models)
        index = choose_episodes(results)["median"]
        (RESULTS / f"{task}_{preset.name}.png").write_bytes(episode_sheet(models, preset, results, index))


if __name__ == "__main__":
    sys.exit(main())
