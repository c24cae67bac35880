"""Manifests: one YAML file for every data set and every set of weights, checked against ``schema.json``.

A manifest states licence, citation, homepage and how to get at the data; where it is files, their sizes and sha256.
"""

import json
from pathlib import Path
from typing import Any

import yaml

from v4s_lib.data.files import sha256, verify

MANIFESTS = Path(__file__).resolve().parents[2] / "data_manifests"


def load_manifest(name: str | Path) -> dict[str, Any]:
    """Read and check a manifest.

    Args:
        name: of a file in ``data_manifests/``, such as ``"rooms"``, or the path of a ``.yaml`` file elsewhere.

    Returns:
        The manifest's keys and values; ``data_manifests/schema.json`` describes them.

    Raises:
        FileNotFoundError, ValueError: there is none of that name, or it breaks the schema.
    """
    path = Path(name) if str(name).endswith(".yaml") else MANIFESTS / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in MANIFESTS.glob("*.yaml")))
        raise FileNotFoundError(f"expected one of the manifests {known}, got {str(name)!r}: choose one of them")
    try:
        manifest = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        place = " ".join(str(error).split())
        raise ValueError(f"expected YAML in {path}, got text that breaks its rules ({place}): correct it") from error
    check_schema(manifest, MANIFESTS / "schema.json", f"{path} to follow schema.json")
    return manifest


def check_schema(content: Any, schema: Path, expected: str) -> None:
    """Raise ``ValueError``, "expected EXPECTED, got at PLACE: ..", for content that breaks a JSON schema."""
    # Imported here: with the extras that Jupyter installs it takes seconds, and most processes need no manifest.
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    error = best_match(Draft202012Validator(json.loads(schema.read_text(encoding="utf-8"))).iter_errors(content))
    if error is not None:
        place = ".".join(str(part) for part in error.absolute_path) or "the top level"
        raise ValueError(f"expected {expected}, got at {place}: {error.message}: correct that entry")


def shipped_folder(name: str, folder: str) -> Path:
    """The folder ``data_manifests/FOLDER`` of weights that ship with the kit, once its files are what ``name`` lists.

    Raises:
        FileNotFoundError, ValueError: a file is missing, or a byte of it differs.
    """
    place = MANIFESTS / folder
    for file in load_manifest(name)["files"]:
        if (MANIFESTS / file["path"]).is_relative_to(place):
            verify(MANIFESTS / file["path"], file["size"], file["sha256"])
    return place


def save_shipped(name: str, title: str, command: str, files: list[Path], root: Path = MANIFESTS) -> Path:
    """Write the manifest of weights that ship with the kit, with the size and hash of every file; returns its path.

    The files are below ``root``, and the manifest is written there.
    """
    manifest = {
        "name": name,
        "title": title,
        "licence": "MIT",
        "citation": "The v4s contributors. v4s: an open, notebook-first reproduction of Video4Spatial.",
        "homepage": "../README.md",
        "access": "shipped",
        "command": command,
        "files": [
            {"path": path.relative_to(root).as_posix(), "size": path.stat().st_size, "sha256": sha256(path)}
            for path in files
        ],
    }
    place = root / f"{name}.yaml"
    place.write_text(yaml.safe_dump(manifest, sort_keys=False, width=120))
    return place
