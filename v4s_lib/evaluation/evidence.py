"""Which stored results count for the claims.

Results must belong to the shipped weights, those of other training seeds (``results/seed*``) to the trainings on
record; arms must have begun with the shipped weights, and be compared by one commit; judges must have been calibrated
with the shipped reader. All others are refused, but for weights that ``claims.yaml`` names as shipped before. All must
say by which commit they were made. Tables must have been sampled as their preset samples now, and all cover the rooms
and training seeds that the claim's command asks for.
"""

import json
import shlex
from functools import lru_cache
from pathlib import Path
from typing import Any

from v4s_lib.data.manifests import MANIFESTS
from v4s_lib.data.provenance import CHANGED
from v4s_lib.evaluation import results
from v4s_lib.evaluation.claims import load_claims
from v4s_lib.evaluation.navigation import Models
from v4s_lib.evaluation.reader import load_reader
from v4s_lib.model.weights import state_digest, weights_digest
from v4s_lib.training.arms import arm_preset, arm_start
from v4s_lib.training.presets import get_preset
from v4s_lib.training.weights import initial_weights

SAMPLING = ("guidance_scale", "inference_steps")
# Of a command that does not say; rooms are those of a calibration.
ASKED = {"episodes": "128", "preset": "small", "split": "test", "seed": "0", "rooms": "256"}


@lru_cache(maxsize=8)
def stored(name: str, folder: Path) -> dict[str, Any]:
    """Stored results, refused if they were measured with other weights than the shipped ones, or the seed's.

    Those of weights that ``claims.yaml`` names as shipped before are no error: their verdicts say so.
    """
    content = json.loads((folder / f"{name}.json").read_text())
    if "weights" not in content:  # not a comparison of arms: their own results say it
        known_commit(content, name)
    if "weights_sha256" in content:
        seed = folder.name if folder.name.startswith("seed") else None
        preset, task = content["preset"], content.get("task", "")
        for key, digest in (shipped_digests(preset, task) if seed is None else recorded_digests(preset, seed)).items():
            if content.get(key) != digest and not is_earlier(content):
                raise ValueError(
                    f"expected {name} for weights {digest[:12]}, got it for {str(content.get(key))[:12]}: "
                    "run its command again"
                )
    sight = content.get("sight_sha256")
    if sight is not None and shipped_sight(content["preset"]) not in (None, sight):
        raise ValueError(
            f"expected {name} of arms with the sight of the shipped weights, got some with {sight[:12]}: "
            "train them again"
        )
    start = content.get("start")
    if start is not None and not is_earlier(content) and shipped_start(content["preset"]) not in (None, start):
        raise ValueError(f"expected {name} of arms that began with the shipped weights, got {start[:12]}: train again")
    if "limits" in content and content["limits"]["reader_sha256"] != shipped_reader():
        raise ValueError(
            f"expected {name} of the shipped reader, got it of {content['limits']['reader_sha256'][:12]}: "
            "run its command again"
        )
    check_sampling(content, name)
    check_arms(content, name, folder)
    return content


def known_commit(content: dict[str, Any], name: str) -> str:
    """The commit of the code that made the results; ``ValueError`` where none did, or a changed one."""
    commit = content.get("commit", "unknown")
    if commit == "unknown" or commit.endswith(CHANGED):
        got = "none" if commit == "unknown" else commit
        raise ValueError(f"expected the commit that made {name}, got {got}: run its command again in a git checkout")
    return commit


def check_sampling(content: dict[str, Any], name: str) -> None:
    """``ValueError`` for a table that was not sampled as its preset samples now."""
    for fact in SAMPLING:
        if fact in content and content[fact] != getattr(get_preset(content["preset"]), fact):
            raise ValueError(
                f"expected {name} sampled with {fact} {getattr(get_preset(content['preset']), fact)}, "
                f"got {content[fact]}: run its command again"
            )


def check_arms(content: dict[str, Any], name: str, folder: Path) -> None:
    """``ValueError`` for a comparison of other trainings than those stored beside it, or of several commits.

    Or of trainings that saw another number of targets than the arm is shown now.
    """
    if "arm" not in content or "weights" not in content:
        return
    commits, scored = set(), (folder / name).with_name("scored")
    for run, digest in content["weights"].items():
        file = scored / f"{run}-{content['measure']}.json"
        if not file.is_file():
            raise ValueError(f"expected the {run} that {name} compares in {file}, got no file: score it again")
        single = json.loads(file.read_text())
        arm = arm_preset(single["arm"], get_preset(content["preset"]))
        targets = arm.steps * arm.contexts * arm.task.targets
        if single["targets_seen"] != targets:
            raise ValueError(
                f"expected the {run} to have seen {targets:,} targets, got {single['targets_seen']:,}: train it again"
            )
        known_commit({"commit": single.get("training_commit", "unknown")}, f"the training {run}")
        commits.add(known_commit(single, run))
        if single["weights_sha256"] != digest:
            raise ValueError(f"expected {name} to compare the {run} that is stored, got another: compare them again")
    if len(commits) > 1:
        raise ValueError(f"expected {name} scored by one commit, got {len(commits)}: score all again with one")


def check_command(content: dict[str, Any], name: str, command: str) -> None:
    """``ValueError`` for results that none of a claim's commands (with ";" between them) makes.

    What is looked at: rooms, preset, split and the seed of the noise, of arms the number of training seeds, of a
    calibration that of rooms.
    """
    facts = content | content.get("gates", {})
    made = {fact: str(facts[fact]) for fact in ASKED if fact in facts}
    trained = [row["mean"] for row in content.get("rows", []) if row["metric"] == "training_seeds"]
    made |= {"seeds": str(int(trained[0]))} if trained else {}
    wanted = [_asked(line) for line in command.split(";")]
    if not any(made.items() <= asked.items() for asked in wanted):
        raise ValueError(f"expected {name} as made by {command!r}, got it of {made}: run the command, or correct it")


def _asked(line: str) -> dict[str, str]:
    """The options of a command that are looked at; of training seeds how many there are."""
    options: dict[str, list[str]] = {}
    for word in shlex.split(line):
        if word.startswith("--"):
            options[word[2:]] = []
        elif options:
            options[next(reversed(options))].append(word)
    asked = ASKED | {name: values[0] for name, values in options.items() if name in ASKED and values}
    return asked | {"seeds": str(len(options.get("seeds", [])))}


def is_earlier(content: dict[str, Any]) -> bool:
    """Whether results wait to be made again: of weights that shipped before, or of arms that began with such."""
    return not earlier_weights().isdisjoint([content.get("weights_sha256"), content.get("start")])


@lru_cache(maxsize=1)
def earlier_weights() -> frozenset[str]:
    """The digests of weights that shipped before, of which results are still stored."""
    return frozenset(load_claims().get("earlier_weights", []))


@lru_cache(maxsize=4)
def _shipped_models(preset: str) -> Models:
    return results.load_models(get_preset(preset))


@lru_cache(maxsize=1)
def shipped_reader() -> str:
    """The digest of the reader that ships, which judges what is in the middle of a frame."""
    return weights_digest(load_reader())


@lru_cache(maxsize=4)
def shipped_sight(preset: str) -> str | None:
    """The digest of what works out places in the shipped weights of a preset; None where none ship."""
    return weights_digest(_shipped_models(preset).ours.transformer.sight) if _ships(preset) else None


@lru_cache(maxsize=4)
def shipped_start(preset: str) -> str | None:
    """The digest of what arms take from the shipped weights of a preset; None where none ship."""
    if not _ships(preset):
        return None
    reference = arm_preset("reference", get_preset(preset))
    return state_digest(initial_weights(reference, arm_start("reference", preset, None)))


def _ships(preset: str) -> bool:
    return (MANIFESTS / f"weights_{preset}.yaml").is_file()


def shipped_digests(preset: str, task: str) -> dict[str, str]:
    """What results of a task are bound to, of the shipped models of a preset."""
    return results.task_digests(_shipped_models(preset), task)


def recorded_digests(preset: str, seed: str) -> dict[str, str]:
    """The same of another training seed, as its record says; its weights are not shipped, nor has it a box drawer."""
    record = MANIFESTS / "weights" / preset / seed / "run.json"
    if not record.is_file():
        raise ValueError(f"expected the training of {seed} in {record}, got no file: ship its record first")
    return {"weights_sha256": json.loads(record.read_text())["compared_sha256"]}
