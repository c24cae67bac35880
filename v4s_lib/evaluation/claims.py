"""The claims of ``data_manifests/ledger/claims.yaml``, and the ratios that they ask of results."""

from collections.abc import Callable
from typing import Any

import numpy as np
import yaml

from v4s_lib.data.manifests import MANIFESTS, check_schema
from v4s_lib.evaluation.statistics import Interval, ratio_of_means

FOLDER = MANIFESTS / "ledger"


def load_claims(text: str | None = None) -> dict[str, Any]:
    """The claims, checked against ``schema.json``; ``ValueError`` names the entry that breaks it."""
    content = yaml.safe_load((FOLDER / "claims.yaml").read_text(encoding="utf-8") if text is None else text)
    check_schema(content, FOLDER / "schema.json", "claims as in schema.json")
    names = [claim["id"] for claim in content["claims"]]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"expected every claim once, got {', '.join(twice)} twice: number them anew")
    return content


def sides(check: dict[str, Any]) -> tuple[tuple[str, str], tuple[str, str]] | None:
    """Method and metric of what a check holds against what, as a ratio; None where it asks for none."""
    if not check.keys() & {"over", "over_metric"}:
        return None
    one = check["method"], check["metric"]
    return one, (check.get("over", one[0]), check.get("over_metric", one[1]))


def ratio_name(one: tuple[str, str], other: tuple[str, str]) -> str:
    """What the ratio of two methods' measures is called; what they share is named once."""
    under = other[1] if one[0] == other[0] else other[0] if one[1] == other[1] else f"{other[1]} of {other[0]}"
    return f"{one[1]} of {one[0]} / {under}"


def asked_ratios(
    results: str,
    values: Callable[[str, str], np.ndarray | None],
    scenes: np.ndarray,
    ratio: Callable[[np.ndarray, np.ndarray, np.ndarray], Interval] = ratio_of_means,
) -> dict[str, dict[str, Any]]:
    """The ratios that claims ask of the results of that name, with their intervals over scenes (E,).

    ``values`` has a measure (E,) of a method, an episode each, or None where it has none; those are left out.
    ``ratio`` makes one of two measures and the scenes.
    """
    ratios = {}
    for check in (check for claim in load_claims()["claims"] for check in claim.get("checks", [])):
        if check["results"] == results and (pair := sides(check)):
            first, second = (values(*side) for side in pair)
            if first is not None and second is not None:
                ratios[ratio_name(*pair)] = ratio(first, second, scenes).to_json()
    return ratios
