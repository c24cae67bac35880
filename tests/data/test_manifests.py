"""Manifests keep to their schema, shipped files to their manifests, and a flipped bit is found."""

from pathlib import Path

import pytest
import yaml

from v4s_lib.data.files import sha256, verify
from v4s_lib.data.manifests import MANIFESTS, load_manifest
from v4s_lib.worlds.scenes import SPLITS


@pytest.mark.parametrize("name", sorted(path.stem for path in MANIFESTS.glob("*.yaml")))
def test_every_manifest_keeps_to_the_schema(name):
    manifest = load_manifest(name)
    assert manifest["name"] == name
    for file in manifest.get("files", []):
        if manifest["access"] == "shipped":
            verify(MANIFESTS / file["path"], file["size"], file["sha256"])


def test_rooms_offers_generated_splits_but_not_training():
    splits = load_manifest("rooms")["generator"]["splits"]
    assert set(splits) == set(SPLITS) - {"train"}


def test_shipped_scans_are_all_listed_and_small():
    listed = {file["path"] for file in load_manifest("demo_scans")["files"]}
    found = {path.relative_to(MANIFESTS).as_posix() for path in (MANIFESTS / "scans").rglob("*") if path.is_file()}
    assert listed == found
    assert len(found) == 6
    assert sum((MANIFESTS / path).stat().st_size for path in found) < 2_000_000


def without(key: str) -> dict:
    manifest = yaml.safe_load((MANIFESTS / "rooms.yaml").read_text())
    del manifest[key]
    return manifest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("licence"), "at the top level: 'licence' is a required property"),
        (without("generator"), "at the top level: 'generator' is a required property"),
        (without("title") | {"title": 3}, "at title: 3 is not of type 'string'"),
        (without("access") | {"access": "somewhere"}, "at access: 'somewhere' is not one of"),
        (without("access") | {"access": "shipped"}, "at the top level: 'files' is a required property"),
        (without("access") | {"access": "gated"}, "at the top level: 'terms' is a required property"),
        (without("name") | {"name": "rooms", "licens": "MIT"}, "'licens' was unexpected"),
        (without("name") | {"name": "x", "files": [{"path": "a", "size": 1, "sha256": "ab"}]}, "at files.0.sha256"),
    ],
)
def test_a_manifest_that_breaks_the_schema_is_refused_in_one_sentence(tmp_path, change, message):
    path = tmp_path / "rooms.yaml"
    path.write_text(yaml.safe_dump(change))
    with pytest.raises(
        ValueError, match=r"^expected .* to follow schema.json, got [^\n]*: correct that entry$"
    ) as caught:
        load_manifest(path)
    assert message in str(caught.value)


def test_unknown_names_and_broken_yaml_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^expected one of the manifests .*rooms.*, got 'none': choose"):
        load_manifest("none")
    (tmp_path / "broken.yaml").write_text("name: [rooms\ntitle: x: y")
    with pytest.raises(ValueError, match=r"^expected YAML in [^\n]*, got [^\n]*: correct it$"):
        load_manifest(tmp_path / "broken.yaml")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights.bin"
    path.write_bytes(bytes(range(256)) * 1000)
    return path


def test_a_hash_is_the_known_one(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_flipped_bit_is_refused(file):
    digest = sha256(file)
    verify(file, 256_000, digest)
    data = bytearray(file.read_bytes())
    data[123_456] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"^expected sha256 .*, got .*: delete it and download it again$"):
        verify(file, 256_000, digest)


def test_a_short_or_missing_file_is_refused(file):
    digest = sha256(file)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"^expected 256000 bytes in .*, got 255999: delete"):
        verify(file, 256_000, digest)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"^expected the file .*, got nothing there"):
        verify(file, 256_000, digest)
