"""``python -m v4s_lib.evaluation.readme``: put the stored results' tables and pictures into the README."""

import re
import sys
from pathlib import Path

from v4s_lib.command import command
from v4s_lib.evaluation.ledger import ledger_table, read_ledger
from v4s_lib.evaluation.reproduce import check_weights, choose_episodes, episode_sheet
from v4s_lib.evaluation.results import EXPERIMENTS, RESULTS, gains, has_results, load_models, load_results, tables
from v4s_lib.training.presets import get_preset

README = Path(__file__).resolve().parents[2] / "README.md"


def with_tables(text: str) -> str:
    """``text`` with every table between its markers drawn anew from the stored results it names."""

    def draw(match: re.Match) -> str:
        results = load_results(match["name"])
        parts = [f"{heading}:\n\n{text}" for heading, text in tables(results).items()]
        differences = [f"- `{pair}`: {gain}" for pair, gain in gains(results).items() if not pair.endswith("_mean")]
        measured = f"Paired differences of `{EXPERIMENTS[results['task']].gain}`, n = {results['episodes']}:"
        body = "\n\n".join([*parts, measured, "\n".join(differences)])
        return f"{match['open']}\n{body}\n{match['close']}"

    text = re.sub(
        r"(<!-- ledger -->)\n.*?(<!-- end of ledger -->)",
        lambda match: f"{match[1]}\n{ledger_table(read_ledger())}\n{match[2]}",
        text,
        flags=re.DOTALL,
    )
    pattern = r"(?P<open><!-- table: (?P<name>\w+) -->)\n.*?(?P<close><!-- end of table -->)"
    return re.sub(pattern, draw, text, flags=re.DOTALL)


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
