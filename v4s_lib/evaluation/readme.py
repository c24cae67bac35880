"""``python -m v4s_lib.evaluation.readme``: put the stored results' table and picture into the README."""

import re
import sys
from pathlib import Path

from v4s_lib.evaluation.reproduce import check_weights, choose_episodes, episode_sheet
from v4s_lib.evaluation.results import FOLLOWING, PICTURE, RESULTS, load_models, load_results, markdown_table
from v4s_lib.training.presets import get_preset

README = Path(__file__).resolve().parents[2] / "README.md"


def with_tables(text: str) -> str:
    """``text`` with every table between its markers drawn anew from the stored results it names."""

    def draw(match: re.Match) -> str:
        results = load_results(match["name"])
        gains = "\n".join(
            f"- `{pair}`: {gain['mean']:+.2f} dB [{gain['low']:+.2f}, {gain['high']:+.2f}]"
            for pair, gain in results["gain"].items()
            if not pair.endswith("_mean")
        )
        pictures, following = markdown_table(results, PICTURE), markdown_table(results, FOLLOWING)
        camera = f"Where the camera went (failed: frames that no camera in the room explains):\n\n{following}"
        body = f"{pictures}\n\n{camera}\n\nPaired differences of `psnr_recall`, n = {results['episodes']}:\n\n{gains}"
        return f"{match['open']}\n{body}\n{match['close']}"

    pattern = r"(?P<open><!-- table: (?P<name>\w+) -->)\n.*?(?P<close><!-- end of table -->)"
    return re.sub(pattern, draw, text, flags=re.DOTALL)


def main() -> int:
    README.write_text(with_tables(README.read_text()))
    preset = get_preset("small")
    results, models = load_results("navigation_small"), load_models(preset)
    check_weights(results, models)
    index = choose_episodes(results)["median"]
    (RESULTS / "navigation_small.png").write_bytes(episode_sheet(models, preset, results, index))
    return 0


if __name__ == "__main__":
    sys.exit(main())
