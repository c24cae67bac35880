"""``make reproduce``: every table and figure from the stored results, and a sample of them computed again.

The stored results name the weights they belong to; other weights are refused. A few episodes are then sampled and
scored live, and must agree with what is stored. Pages, pictures and tables go to ``report/``.
"""

import argparse
import math
import re
import sys
import time
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from v4s_lib.command import command
from v4s_lib.data.grounding import grounding_episode
from v4s_lib.evaluation.evidence import is_earlier, stored
from v4s_lib.evaluation.experiments import FOLDER
from v4s_lib.evaluation.grounding import sample_grounding
from v4s_lib.evaluation.ledger import EARLIER, ledger_table, read_ledger
from v4s_lib.evaluation.navigation import OTHER_ROOM, Models, episode_clips, episode_seed
from v4s_lib.evaluation.paper import paper_tables
from v4s_lib.evaluation.results import (
    EXPERIMENTS,
    gains,
    has_results,
    load_models,
    load_results,
    markdown_table,
    run_experiment,
    save_results,
    tables,
    task_digests,
)
from v4s_lib.evaluation.trained import FOLDER as ARMS_FOLDER
from v4s_lib.evaluation.trained import arm_gains, arms_table
from v4s_lib.training.presets import Preset, get_preset
from v4s_lib.viewing.plots import forest, margins
from v4s_lib.viewing.sheets import Strip, contact_sheet, to_png

MARGINS = (
    "<h2>How far each check is from its bar</h2><p>Blue holds, orange does not; a dot is a training seed, a line its "
    "95% interval over rooms (of C7 the extremes of repeated runs).</p>"
    "<img src='margins.png' alt='distance of each check from its bar'>"
)
DIFFERENCES = (
    "<h1>Paired differences</h1><p>A line is a 95% interval over rooms: blue surely above zero, orange surely below, "
    "grey neither. Small dots are single training seeds.</p>"
)
STYLE = (
    "body{font:16px sans-serif;max-width:90em;margin:2em auto} "
    "td,th{padding:.2em .8em;text-align:left;vertical-align:top}"
)


@command("the report is not complete; run the same command again")
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m v4s_lib.evaluation.reproduce", description=__doc__)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--live", type=int, default=4, help="episodes computed again and compared (default: 4)")
    parser.add_argument(
        "--all", action="store_true", help="compute both tables again; no ledger, which reads what is stored"
    )
    parser.add_argument("--out", type=Path, default=Path("report"))
    args = parser.parse_args(arguments)
    reproduce(get_preset(args.preset), args.live, args.all, args.out)


def reproduce(preset: Preset, live: int, everything: bool, out: Path) -> None:
    """Write the report of every experiment with stored results; ``ValueError`` if live and stored figures disagree."""
    started = time.perf_counter()
    models = load_models(preset)
    out.mkdir(parents=True, exist_ok=True)
    sections = []
    for task in EXPERIMENTS:
        if everything:
            results = run_experiment(task, preset.name, store=out / "episodes")
            save_results(results, out / f"{task}_{preset.name}.json")
        elif has_results(f"{task}_{preset.name}"):
            results = load_results(f"{task}_{preset.name}")
            check_weights(results, models)
            compare(results, models, preset, live)
        else:
            print(f"{task}: no stored results of preset {preset.name}")
            continue
        chosen = choose_episodes(results)
        for name, index in chosen.items():
            (out / f"{task}_{name}.png").write_bytes(episode_sheet(models, preset, results, index))
            print(f"{task}: drew the {name} episode, number {index}")
        (out / f"{task}_gain.png").write_bytes(forest(results["gain"], EXPERIMENTS[task].unit.strip() or "1").data)
        (out / f"{task}.md").write_text("\n\n".join(tables(results).values()) + "\n")
        sections.append(section(results, chosen))
    if not everything:  # the ledger reads what is stored
        sections = [claims_section(out), *sections, *experiment_sections(out)]
    title = "<!doctype html><meta charset='utf-8'><title>Video4Spatial, reproduced</title>"
    (out / "index.html").write_text(f"{title}<style>{STYLE}</style>{''.join(sections)}\n")
    print(f"report written to {out}/index.html in {time.perf_counter() - started:.0f} s")


def claims_section(out: Path) -> str:
    """The ledger and the paper's tables; the ledger's table and picture are written beside the page, too."""
    entries = read_ledger()
    ledger = ledger_table(entries)
    (out / "ledger.md").write_text(f"{ledger}\n")
    (out / "margins.png").write_bytes(margins([entry for entry in entries if entry.checks]).data)
    beside = "".join(html_table(table) for table in paper_tables().split("\n\n"))
    return f"<h1>The claims</h1>{html_table(ledger)}{MARGINS}<h1>The paper's tables</h1>{beside}"


def experiment_sections(out: Path) -> list[str]:
    """Tables of the stored experiments and arms, and their paired differences, with pictures in ``out``."""
    experiments = other_experiments()
    found = other_tables(experiments)
    sections = [f"<h1>{escape(heading)}</h1>{html_table(table)}" for heading, table in found.items()]
    sections.append(DIFFERENCES)
    for name, (gains_of, unit) in other_gains(experiments).items():
        (out / f"gain_{name}.png").write_bytes(forest(gains_of, unit).data)
        sections.append(f"<h2>{escape(name)}</h2><img src='gain_{escape(name)}.png' alt='paired differences'>")
    return sections


def check_weights(results: dict[str, Any], models: Models) -> None:
    """Refuse results that were measured with other weights than the shipped ones."""
    for name, digest in task_digests(models, results["task"]).items():
        if results.get(name) != digest:
            raise ValueError(
                f"expected results for weights {digest[:12]}, got some for {str(results.get(name))[:12]}: "
                "run python -m v4s_lib.evaluation again"
            )


def compare(results: dict[str, Any], models: Models, preset: Preset, live: int) -> None:
    """Score ``live`` episodes again and require the stored figures."""
    experiment = EXPERIMENTS[results["task"]]
    for index in range(min(live, results["episodes"])):
        scores = experiment.score(models, preset, results["split"], index, results["seed"], results["samples"])
        for method, per_episode in results["per_episode"].items():
            if method == "sfm_splat" and method not in scores:
                continue  # pycolmap cannot be had, as on Linux on ARM
            value = scores[method][experiment.metric]
            stored = math.nan if per_episode[index] is None else per_episode[index]  # an episode without such pixels
            alike = abs(value - stored) <= experiment.tolerance or (math.isnan(value) and math.isnan(stored))
            if not alike:
                raise ValueError(
                    f"expected {experiment.metric} {stored:.3f} of {method} in episode {index}, got {value:.3f}: "
                    "the stored results do not belong to this code"
                )
        print(f"{results['task']}, episode {index}: live and stored figures agree")


def choose_episodes(results: dict[str, Any]) -> dict[str, int]:
    """By rule: the episodes at which ours is best, median and at the worst decile, of those that have a figure."""
    values = np.array(results["per_episode"]["ours"], float)
    order = np.argsort(values)[: np.isfinite(values).sum()]  # NaN, and no other, comes last
    if EXPERIMENTS[results["task"]].best == "smallest":
        order = order[::-1]
    return {"best": int(order[-1]), "median": int(order[len(order) // 2]), "worst_decile": int(order[len(order) // 10])}


def episode_sheet(models: Models, preset: Preset, results: dict[str, Any], index: int) -> bytes:
    """PNG of one episode: context, truth, ours, and what it is compared with."""
    sheets = {"navigation": _navigation_strips, "grounding": _grounding_strips}
    strips = sheets[results["task"]](models, preset, results["split"], index, results["seed"])
    return to_png(contact_sheet(strips))


def _navigation_strips(models: Models, preset: Preset, split: str, index: int, seed: int) -> list[Strip]:
    episode, clips, frames, _ = episode_clips(models, preset, split, index, seed, samples=1)
    named = {
        "ours": "ours",
        "splat_sight": "splat_sight: the context's pixels where our sight puts them, no diffusion",
        "no_context": "ours, without context",
        "other_context_forced": "ours, forced to use another room's context",
    }
    return [
        Strip("context: frames of the scan, unposed", episode.scan.rgb[frames], "context"),
        Strip("ground truth: the first frame is given", episode.target.rgb, "truth"),
        *(Strip(name, clips[method], "generated") for method, name in named.items() if method in clips),
    ]


def _grounding_strips(models: Models, preset: Preset, split: str, index: int, seed: int) -> list[Strip]:
    episode = grounding_episode(split, index, preset.task)
    other = grounding_episode(split, index + OTHER_ROOM, preset.task)
    clips, frames = sample_grounding(models, episode, other, preset, episode_seed(seed, index), samples=1)
    return [
        Strip("context: frames of the scan, unposed", episode.scan.rgb[frames], "context"),
        Strip(f"ground truth: ends on the {episode.item.label}, then the box", episode.target_frames, "truth"),
        Strip("ours", clips["ours"][0], "generated"),
        Strip("ours, without context", clips["no_context"][0], "generated"),
        Strip("ours, another room's context", clips["other_context"][0], "generated"),
    ]


def section(results: dict[str, Any], chosen: dict[str, int]) -> str:
    """The part of the page that shows one experiment."""
    task, experiment = results["task"], EXPERIMENTS[results["task"]]
    facts = {name: results[name] for name in ("preset", "split", "episodes", "seed", "weights_sha256", "commit")}
    lines = "".join(f"<li>{escape(k)}: <code>{escape(str(v))}</code></li>" for k, v in facts.items())
    shown = "".join(f"<h2>{escape(heading)}</h2>{html_table(text)}" for heading, text in tables(results).items())
    differences = "".join(f"<li>{escape(pair)}: {gain}</li>" for pair, gain in gains(results).items())
    pictures = "".join(
        f"<h3>{escape(name)} (episode {index})</h3><img src='{task}_{escape(name)}.png' alt='contact sheet'>"
        for name, index in chosen.items()
    )
    return (
        f"<h1>{experiment.title}</h1><ul>{lines}</ul>{shown}"
        f"<h2>Paired differences of {experiment.gain}</h2><ul>{differences}</ul>"
        f"<img src='{task}_gain.png' alt='paired differences'>"
        f"<h2>Episodes, chosen by rule</h2>{pictures}\n"
    )


def other_experiments() -> dict[str, dict[str, Any]]:
    """The stored experiments by name, all arms of each in one; one that does not count is refused."""
    found = {path.stem: stored(path.stem, FOLDER) for path in sorted(FOLDER.glob("*.json"))}
    return {name: content for name, content in found.items() if "arm" not in content}


def other_tables(experiments: dict[str, dict[str, Any]]) -> dict[str, str]:
    """The stored experiments and the arms: heading and table in Markdown."""
    drawn = {
        f"Experiment: {name}{EARLIER if is_earlier(content) else ''}": markdown_table(
            content, list(dict.fromkeys(row["metric"] for row in content["rows"]))
        )
        for name, content in experiments.items()
    }
    return drawn | {"Arms: short trainings that differ in one thing": arms_table()}


def other_gains(experiments: dict[str, dict[str, Any]]) -> dict[str, tuple[dict[str, dict], str]]:
    """Paired differences of the stored experiments, from their first arm, and of the trained arms, with their unit."""
    arms = {
        "arms_navigation": ("navigation", "psnr_recall", "dB"),
        "arms_accuracy": ("navigation", "navigation_accuracy", "1"),
        "arms_grounding": ("grounding", "if_sd02", "1"),
        "arms_handheld": ("handheld", "retention", "1"),
    }
    for path in ARMS_FOLDER.glob("*.json"):
        stored(path.stem, ARMS_FOLDER)  # refuses what does not count
    found = {name: (arm_gains(measure, metric), unit) for name, (measure, metric, unit) in arms.items()}
    for name, content in experiments.items():
        if "gain" in content:
            first = content["rows"][0]
            of_first = {pair: gain for pair, gain in content["gain"].items() if pair.endswith(f" - {first['method']}")}
            found[name] = of_first, first["unit"]
    return {name: (gains_of, unit) for name, (gains_of, unit) in found.items() if gains_of}


def html_table(markdown: str) -> str:
    """A Markdown table as HTML."""
    rows = [line.strip("|").split("|") for line in markdown.splitlines() if not line.startswith("|---")]
    cells = ["".join(f"<{tag}>{_html(cell.strip(' *'))}</{tag}>" for cell in row) for tag, row in _tagged(rows)]
    return "<table>" + "".join(f"<tr>{row}</tr>" for row in cells) + "</table>"


def _html(cell: str) -> str:
    return re.sub("`([^`]*)`", r"<code>\1</code>", escape(cell))


def _tagged(rows: list[list[str]]) -> list[tuple[str, list[str]]]:
    return [("th" if i == 0 else "td", row) for i, row in enumerate(rows)]


if __name__ == "__main__":
    sys.exit(main())
