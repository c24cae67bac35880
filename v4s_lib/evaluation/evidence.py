"""Which stored results count for the claims.

Results must belong to the shipped weights, those of other training seeds (``results/seed*``) to the trainings on
record; those of arms must have the sight of the shipped weights. All others are refused, but for weights that
``claims.yaml`` names as shipped before.
"""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from v4s_lib.data.manifests import MANIFESTS
from v4s_lib.evaluation import results
from v4s_lib.evaluation.claims import load_claims
from v4s_lib.evaluation.navigation import Models
from v4s_lib.model.weights import weights_digest
from v4s_lib.training.presets import get_preset


@lru_cache(maxsize=8)
def stored(name: str, folder: Path) -> dict[str, Any]:
    """Stored results, refused if they were measured with other weights than the shipped ones, or the seed's.

    Those of weights that ``claims.yaml`` names as shipped before are no error: their verdicts say so.
    """
    content = json.loads((folder / f"{name}.json").read_text())
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
    return content


def is_earlier(content: dict[str, Any]) -> bool:
    """Whether results are of weights that shipped before, and wait to be measured again."""
    return content.get("weights_sha256") in earlier_weights()


@lru_cache(maxsize=1)
def earlier_weights() -> frozenset[str]:
    """The digests of weights that shipped before, of which results are still stored."""
    return frozenset(load_claims().get("earlier_weights", []))


@lru_cache(maxsize=4)
def _shipped_models(preset: str) -> Models:
    return results.load_models(get_preset(preset))


@lru_cache(maxsize=4)
def shipped_sight(preset: str) -> str | None:
    """The digest of what works out places in the shipped weights of a preset; None where none ship."""
    if not (MANIFESTS / f"weights_{preset}.yaml").is_file():
        return None
    return weights_digest(_shipped_models(preset).ours.transformer.sight)


def shipped_digests(preset: str, task: str) -> dict[str, str]:
    """What results of a task are bound to, of the shipped models of a preset."""
    return results.task_digests(_shipped_models(preset), task)


def recorded_digests(preset: str, seed: str) -> dict[str, str]:
    """The same of another training seed, as its record says; its weights are not shipped, nor has it a box drawer."""
    record = MANIFESTS / "weights" / preset / seed / "run.json"
    if not record.is_file():
        raise ValueError(f"expected the training of {seed} in {record}, got no file: ship its record first")
    return {"weights_sha256": json.loads(record.read_text())["compared_sha256"]}
