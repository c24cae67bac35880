"""``make reproduce``: every table and figure from the stored results, and a sample of them computed again.

The stored results name the weights they belong to; other weights are refused. A few episodes are then sampled and
scored live, and must agree with what is stored. Pages, pictures and tables go to ``report/``.
"""

import argparse
import sys
import time
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from v4s_lib.evaluation.navigation import Models, episode_clips, score_episode
from v4s_lib.evaluation.results import (
    FOLLOWING,
    PICTURE,
    load_models,
    load_results,
    markdown_table,
    navigation_results,
    save_results,
    weights_digest,
)
from v4s_lib.training.presets import Preset, get_preset
from v4s_lib.viewing.sheets import Strip, contact_sheet, to_png

TOLERANCE = 0.05  # dB between stored and live psnr_recall; other machines round differently


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m v4s_lib.evaluation.reproduce", description=__doc__)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--live", type=int, default=4, help="episodes computed again and compared (default: 4)")
    parser.add_argument("--all", action="store_true", help="compute all episodes again instead of reading the results")
    parser.add_argument("--out", type=Path, default=Path("report"))
    args = parser.parse_args(arguments)
    try:
        reproduce(get_preset(args.preset), args.live, args.all, args.out)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def reproduce(preset: Preset, live: int, everything: bool, out: Path) -> None:
    """Write the report; raise ``ValueError`` if live and stored figures disagree."""
    started = time.perf_counter()
    models = load_models(preset)
    if everything:
        results = navigation_results(preset.name, store=out / "episodes")
        save_results(results, out / f"navigation_{preset.name}.json")
    else:
        results = load_results(f"navigation_{preset.name}")
        check_weights(results, models)
        compare(results, models, preset, live)
    out.mkdir(parents=True, exist_ok=True)
    chosen = choose_episodes(results)
    for name, index in chosen.items():
        (out / f"episode_{name}.png").write_bytes(episode_sheet(models, preset, results, index))
        print(f"drew the {name} episode, number {index}")
    (out / "navigation.md").write_text(
        "\n\n".join(markdown_table(results, part) for part in (PICTURE, FOLLOWING)) + "\n"
    )
    (out / "index.html").write_text(page(results, chosen))
    print(f"report written to {out}/index.html in {time.perf_counter() - started:.0f} s")


def check_weights(results: dict[str, Any], models: Models) -> None:
    """Refuse results that were measured with other weights than the shipped ones."""
    digest = weights_digest(models)
    if results["weights_sha256"] != digest:
        raise ValueError(
            f"expected results for weights {digest[:12]}, got some for {results['weights_sha256'][:12]}: "
            "run python -m v4s_lib.evaluation again"
        )


def compare(results: dict[str, Any], models: Models, preset: Preset, live: int) -> None:
    """Score ``live`` episodes again and require the stored figures."""
    for index in range(min(live, results["episodes"])):
        scores = score_episode(models, preset, results["split"], index, results["seed"])
        for method, per_episode in results["per_episode"].items():
            values, stored = scores[method], per_episode[index]
            if abs(values["psnr_recall"] - stored) > TOLERANCE:
                raise ValueError(
                    f"expected psnr_recall {stored:.3f} dB of {method} in episode {index}, got "
                    f"{values['psnr_recall']:.3f}: the stored results do not belong to this code"
                )
        print(f"episode {index}: live and stored figures agree")


def choose_episodes(results: dict[str, Any]) -> dict[str, int]:
    """By rule: the episodes at which our psnr_recall is best, median and at the worst decile."""
    order = np.argsort(results["per_episode"]["ours"])
    return {"best": int(order[-1]), "median": int(order[len(order) // 2]), "worst_decile": int(order[len(order) // 10])}


def episode_sheet(models: Models, preset: Preset, results: dict[str, Any], index: int) -> bytes:
    """PNG of one episode: context, truth, ours, without context, with another room's."""
    episode, clips, frames = episode_clips(models, preset, results["split"], index, results["seed"])
    strips = [
        Strip("context: frames of the scan, unposed", episode.scan.rgb[frames], "context"),
        Strip("ground truth: the first frame is given", episode.target.rgb, "truth"),
        Strip("ours", clips["ours"], "generated"),
        Strip("ours, without context", clips["no_context"], "generated"),
        Strip("ours, another room's context", clips["other_context"], "generated"),
    ]
    return to_png(contact_sheet(strips))


def page(results: dict[str, Any], chosen: dict[str, int]) -> str:
    """The report as one HTML page beside its pictures."""
    facts = {name: results[name] for name in ("preset", "split", "episodes", "seed", "weights_sha256", "commit")}
    lines = "".join(f"<li>{escape(k)}: <code>{escape(str(v))}</code></li>" for k, v in facts.items())
    gains = "".join(
        f"<li>{escape(pair)}: {gain['mean']:+.2f} dB [{gain['low']:+.2f}, {gain['high']:+.2f}], n = {gain['n']}</li>"
        for pair, gain in results["gain"].items()
    )
    pictures = "".join(
        f"<h3>{escape(name)} (episode {index})</h3><img src='episode_{escape(name)}.png' alt='contact sheet'>"
        for name, index in chosen.items()
    )
    return (
        "<!doctype html><meta charset='utf-8'><title>Video4Spatial, reproduced: navigation</title>"
        "<style>body{font:16px sans-serif;max-width:60em;margin:2em auto}"
        "td,th{padding:.2em .8em;text-align:right}</style>"
        f"<h1>Scene navigation</h1><ul>{lines}</ul><h2>Pixels that only the context can tell</h2>"
        f"{html_table(markdown_table(results, PICTURE))}<h2>Where the camera went</h2>"
        f"{html_table(markdown_table(results, FOLLOWING))}<h2>Paired differences of psnr_recall</h2><ul>{gains}</ul>"
        f"<h2>Episodes, chosen by rule</h2>{pictures}\n"
    )


def html_table(markdown: str) -> str:
    """A Markdown table as HTML."""
    rows = [line.strip("|").split("|") for line in markdown.splitlines() if not line.startswith("|---")]
    cells = ["".join(f"<{tag}>{escape(cell.strip())}</{tag}>" for cell in row) for tag, row in _tagged(rows)]
    return "<table>" + "".join(f"<tr>{row}</tr>" for row in cells) + "</table>"


def _tagged(rows: list[list[str]]) -> list[tuple[str, list[str]]]:
    return [("th" if i == 0 else "td", row) for i, row in enumerate(rows)]


if __name__ == "__main__":
    sys.exit(main())
