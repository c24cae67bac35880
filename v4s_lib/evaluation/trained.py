"""``python -m v4s_lib.evaluation.trained --seeds 1 2 3``: arms are trained, scored on the same test rooms and compared.

``--runs`` holds their trainings, folders ``NAME-seedS``. Those of ``--seeds`` are scored, and trained first where they
are not there, as by ``python -m v4s_lib.training --arm NAME --seed S``; without ``--seeds`` what is there is scored.
Episodes are scored one at a time and kept: a stopped run goes on, in training, too. Figures go to
``data_manifests/results/arms`` (of preset base, to ``arms_base``): one JSON for each arm, seed and measure with its
provenance, and one for each arm and measure, compared with its reference, and with itself without context, room by
room.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from v4s_lib.command import check_counts, command
from v4s_lib.data.provenance import current_commit
from v4s_lib.evaluation.claims import asked_ratios
from v4s_lib.evaluation.judges import limits_of
from v4s_lib.evaluation.navigation import score_all, store_key
from v4s_lib.evaluation.results import RESULTS, folder_of, save_results
from v4s_lib.evaluation.statistics import bootstrap, in_words, make_row
from v4s_lib.evaluation.trained_scores import MEASURES, kept_shares, scored_preset
from v4s_lib.model.weights import weights_digest
from v4s_lib.training.all_arms import train_arms
from v4s_lib.training.arms import ARMS, RUNS, arm_folder, arm_preset, get_arm
from v4s_lib.training.checkpoints import latest_checkpoint
from v4s_lib.training.presets import get_preset
from v4s_lib.training.ship import run_facts
from v4s_lib.training.weights import load_pipeline

KIND = "arms"
FOLDER = RESULTS / KIND  # of preset small
RUN = re.compile(r"(\w+)-seed(\d+)")
WITHOUT = " without context"
HANDHELD = {"retention": "1", "handheld_psnr_recall": "dB"}  # what measure handheld has beside its own metric


def find_runs(root: Path, names: list[str], wanted: Sequence[int] = ()) -> dict[str, list[int]]:
    """Seeds of every trained arm in ``root``, in the table's order; ``names`` limits the arms, ``wanted`` the seeds."""
    found: dict[str, list[int]] = {}
    for name in names or ARMS:
        get_arm(name)
        runs = [RUN.fullmatch(path.parents[1].name) for path in root.glob(f"{name}-seed*/weights/config.json")]
        seeds = sorted(int(run[2]) for run in runs if run is not None and run[1] == name)
        if seeds := [seed for seed in seeds if not wanted or seed in wanted]:
            found[name] = seeds
    if not found:
        raise FileNotFoundError(f"expected trained arms in {root}, got none: train some with --seeds")
    return found


def facts_of(run: Path) -> dict[str, Any]:
    """What a run's checkpoint and log say of it; ``ValueError`` for a folder that holds another arm than its name."""
    place = latest_checkpoint(run / "checkpoints")
    if place is None:
        raise FileNotFoundError(f"expected a checkpoint in {run}/checkpoints, got none that is whole: train first")
    facts = run_facts(json.loads((place / "run.json").read_text()), run / "log.jsonl", "")
    name = RUN.fullmatch(run.name)[1]
    wanted = json.loads(json.dumps(asdict(arm_preset(name, get_preset(facts["name"]), facts["steps"]))))
    parts = [(part, key, value) for part in ("task", "model", "loss") for key, value in facts[part].items()]
    differing = [f"{part}.{key}" for part, key, value in parts if wanted[part].get(key) != value]
    if differing:
        raise ValueError(
            f"expected in {run} the {', '.join(differing)} of arm {name}, got another: train it again with --restart"
        )
    return facts


def score_run(
    run: Path, measure: str, split: str, episodes: int, store: Path, seed: int = 0, progress: bool = True
) -> dict[str, Any]:
    """Score the averaged weights of a run; what ``store`` holds of it already is not computed again."""
    facts, (name, training_seed) = facts_of(run), RUN.fullmatch(run.name).groups()
    preset = scored_preset(arm_preset(name, get_preset(facts["name"]), facts["steps"]))
    pipeline = load_pipeline(preset, run / "weights")
    digest = weights_digest(pipeline.transformer)
    score, units = MEASURES[measure]
    lines = score_all(
        lambda index: score(pipeline, preset, split, index, seed),
        episodes,
        store / f"{run.name}-{measure}-{preset.name}-{split}-{digest[:12]}-{store_key(preset, seed)}.jsonl",
        progress,
    )
    values = {
        method: {metric: [line["methods"][method][metric] for line in lines] for metric in units if metric in measures}
        for method, measures in lines[0]["methods"].items()
    }
    if measure == "handheld":
        values["ours"]["retention"] = kept_shares(lines).tolist()
        values["ours"]["handheld_psnr_recall"] = values["handheld_ours"]["psnr_recall"]
    return {
        "arm": name,
        "changes": get_arm(name).changes,
        "training_seed": int(training_seed),
        **{fact: facts.get(fact) for fact in ("targets_seen", "minutes", "step", "start", "precision")},
        "training_commit": facts["commit"],
        "measure": measure,
        "preset": preset.name,
        "split": split,
        "weights_sha256": digest,
        "sight_sha256": None if pipeline.transformer.sight is None else weights_digest(pipeline.transformer.sight),
        "commit": current_commit(),
        "seed": seed,
        "episodes": episodes,
        "per_episode": values,
    }


def compare(arms: list[dict[str, Any]], references: list[dict[str, Any]]) -> dict[str, Any]:
    """An arm and its reference, room by room, over the training seeds that both have.

    Intervals are over rooms: each room counts with all of its seeds. Gains are named "ARM - REFERENCE, METRIC", and
    those over the same weights without context, which say whether it is used, "ARM - ARM without context, METRIC";
    ``by_seed`` has each training seed's own, of gains and of ratios that claims ask for: what differs between trainings
    no interval over rooms tells.
    Raises ``ValueError`` where they did not see as many targets, started from other weights or were scored otherwise.
    """
    by_seed = {result["training_seed"]: result for result in references}
    pairs = [(result, by_seed[result["training_seed"]]) for result in arms if result["training_seed"] in by_seed]
    first, reference = pairs[0]
    runs = {f"{result['arm']}-seed{result['training_seed']}": result for pair in pairs for result in pair}
    targets = {name: result["targets_seen"] for name, result in runs.items()}
    _check_comparable(pairs, targets)
    scenes = np.tile(np.arange(first["episodes"]), len(pairs))
    rows = [make_row(first["arm"], "training_seeds", "1", np.array([len(pairs)]), np.zeros(1)).to_json()]
    gain = {}
    for metric, unit in (MEASURES[first["measure"]][1] | HANDHELD).items():
        columns = metric_columns(pairs, metric)
        rows += [make_row(name, metric, unit, values, scenes).to_json() for name, values in columns.items()]
        own, its = first["arm"], reference["arm"]
        for one, other in dict.fromkeys([(own, its), (own, own + WITHOUT), (its, its + WITHOUT)]):
            if one != other and one in columns and other in columns:  # a reference is compared with itself alone
                difference = columns[one] - columns[other]
                row = make_row(f"{one} - {other}", metric, unit, difference, scenes).to_json()
                seeds = [bootstrap(part, scenes[: len(part)]).to_json() for part in np.split(difference, len(pairs))]
                gain[f"{one} - {other}, {metric}"] = row | {"by_seed": seeds}
    shared = {name: first[name] for name in ("arm", "changes", "measure", "preset", "split", "seed", "episodes")}
    weights = {name: result["weights_sha256"] for name, result in runs.items()}
    starts = {name: first[name] for name in ("start", "sight_sha256")} | {"weights": weights, "targets_seen": targets}
    alone = [_ratios([pair]) for pair in pairs]
    ratio = {name: each | {"by_seed": [own[name] for own in alone]} for name, each in _ratios(pairs).items()}
    return {**shared, **starts, "rows": rows, "gain": gain, "ratio": ratio}


def _check_comparable(pairs: list[tuple[dict[str, Any], dict[str, Any]]], targets: dict[str, int]) -> None:
    """``ValueError`` for arms that are no pairs; ``targets`` has how many each training saw."""
    if len(set(targets.values())) > 1:
        raise ValueError(f"expected arms that saw as many targets, got {targets}: train them with the same --steps")
    for one, other in pairs:
        if {one["start"], other["start"]} != {pairs[0][0]["start"]}:
            raise ValueError(
                f"expected {one['arm']} and {other['arm']} to start from the same weights with every seed, "
                "got several: train all from one --init"
            )
        if any(one.get(fact) != other.get(fact) for fact in ("preset", "seed", "precision")):
            raise ValueError(
                f"expected {one['arm']} and {other['arm']} trained in one precision, and scored at one scale with one "
                "seed, got two: train or score both again"
            )


def _ratios(pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """The ratios that claims ask of an arm and its reference, over all of the pairs' rooms."""
    first = pairs[0][0]
    asked = f"{folder_of(KIND, first['preset']).name}/{first['arm']}-{first['measure']}"
    scenes = np.tile(np.arange(first["episodes"]), len(pairs))
    return asked_ratios(asked, lambda method, metric: metric_columns(pairs, metric).get(method), scenes)


def stored_results(folder: Path, measure: str, split: str, episodes: int) -> dict[str, list[dict[str, Any]]]:
    """What ``folder`` holds of a measure on the same test rooms, by arm."""
    results: dict[str, list[dict[str, Any]]] = {}
    for file in sorted(folder.glob(f"*-seed*-{measure}.json")):
        found = json.loads(file.read_text())
        if (found["split"], found["episodes"]) == (split, episodes):
            results.setdefault(found["arm"], []).append(found)
    return results


def metric_columns(pairs: list[tuple[dict[str, Any], dict[str, Any]]], metric: str) -> dict[str, np.ndarray]:
    """A metric's values, all rooms of the first seed and then of the next, of each arm and of it without context."""
    columns = {}
    for results in zip(*pairs, strict=True):
        for method, suffix in (("ours", ""), ("no_context", WITHOUT)):
            parts = [result["per_episode"].get(method, {}).get(metric) for result in results]
            if None not in parts:
                columns[results[0]["arm"] + suffix] = np.array(parts, float).flatten()
    return columns


def arms_table(folder: Path = FOLDER) -> str:
    """Every arm that is stored, in Markdown: its mean, and the paired differences that ``compare`` made of it.

    Of several training seeds each one's own difference is shown, too, in brackets.
    """
    lines = [
        "| arm | changes | clips of | metric | mean | minus reference | minus itself without context | rooms × seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for found in _compared(folder):
        name, arm = found["arm"], get_arm(found["arm"])
        for row in found["rows"]:
            if row["method"] == name and row["metric"] != "training_seeds":
                metric = row["metric"]
                gains = [found["gain"].get(f"{name} - {other}, {metric}") for other in (arm.reference, name + WITHOUT)]
                cells = [_cell(row, ""), *("–" if gain is None else _cell(gain, "+") for gain in gains)]
                facts = [name, arm.changes, found["measure"], metric, *cells]
                lines.append(f"| {' | '.join(facts)} | {row['n']} |")
    return "\n".join(lines)


def arm_gains(measure: str, metric: str, folder: Path = FOLDER) -> dict[str, dict[str, Any]]:
    """Every stored arm's paired difference from its reference, by name, as ``compare`` makes it."""
    gains = {}
    for found in _compared(folder):
        pair = f"{found['arm']} - {get_arm(found['arm']).reference}"
        if found["measure"] == measure and (gain := found["gain"].get(f"{pair}, {metric}")):
            gains[pair] = gain
    return gains


def _compared(folder: Path) -> list[dict[str, Any]]:
    """What is stored of the arms, measure by measure, in the order of ``ARMS``."""
    return [json.loads(file.read_text()) for name in ARMS for file in sorted(folder.glob(f"{name}-*.json"))]


def _cell(row: dict[str, Any], sign: str) -> str:
    """A mean with its interval, and of several trainings each one's; "–" where they are not known."""
    means = [seed["mean"] for seed in row.get("by_seed", [])]
    seeds = ["–" if mean is None else f"{mean:{sign}.2f}" for mean in means]
    each = f" ({', '.join(seeds)})" if len(seeds) > 1 and row["mean"] is not None else ""
    return in_words(row, sign) + each


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options, checked before anything is trained."""
    parser = argparse.ArgumentParser(prog="python -m v4s_lib.evaluation.trained", description=__doc__)
    parser.add_argument("--runs", type=Path, default=RUNS, help=f"where the arms were trained (default: {RUNS})")
    parser.add_argument("--arms", nargs="+", default=[], choices=list(ARMS), help="some of them (default: all)")
    parser.add_argument(
        "--measures", nargs="+", default=["navigation"], choices=list(MEASURES), help="default: navigation"
    )
    parser.add_argument("--split", default="test", choices=["validation", "test"])
    parser.add_argument("--episodes", type=int, default=128, help="one a room (default: 128)")
    parser.add_argument("--out", type=Path, help="folder of the results (default: the preset's among those that ship)")
    parser.add_argument("--store", type=Path, default=RUNS / "scored", help="scored episodes, to go on from")
    training = parser.add_argument_group("training")
    training.add_argument(
        "--seeds", type=int, nargs="+", default=[], help="training seeds; what is missing of them is trained"
    )
    training.add_argument("--preset", default="small", help="that the arms change (default: small)")
    training.add_argument("--steps", type=int, help="of every arm (default: as many as each has)")
    training.add_argument("--minutes", type=float, help="train for so long at most; run again to go on")
    training.add_argument("--init", type=Path, help="folder of weights to start from (default: what ships)")
    args = parser.parse_args(arguments)
    check_counts(episodes=args.episodes)
    check_counts(least=0, seeds=args.seeds)
    if args.measures != ["handheld"]:
        limits_of(get_preset(args.preset).name)  # by which the others are judged
    return args


@command("what is trained and scored is kept; run the same command to go on")
def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    preset, asked = get_preset(args.preset), args.arms or list(ARMS)
    missing = []
    if args.seeds:
        missing = train_arms(asked, args.seeds, preset, args.runs, args.steps, args.minutes, args.init)
    if missing:
        print(f"not trained yet: {', '.join(missing)}; run the same command to go on", file=sys.stderr)
        return
    found, out = find_runs(args.runs, args.arms, args.seeds), args.out or folder_of(KIND, args.preset)
    for measure in args.measures:
        for name, seeds in found.items():
            for seed in seeds:
                run = arm_folder(name, seed, args.runs)
                scored = score_run(run, measure, args.split, args.episodes, args.store)
                save_results(scored, out / "scored" / f"{run.name}-{measure}.json")
        results = stored_results(out / "scored", measure, args.split, args.episodes)
        seeds_of = {name: {result["training_seed"] for result in scored} for name, scored in results.items()}
        for name, scored in results.items():
            reference = get_arm(name).reference
            both, new = seeds_of[name] & seeds_of.get(reference, set()), {name, reference} & found.keys()
            if both and new:
                save_results(compare(scored, results[reference]), out / f"{name}-{measure}.json")
    print(arms_table(out))


if __name__ == "__main__":
    sys.exit(main())
