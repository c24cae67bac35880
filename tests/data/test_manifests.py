"""Manifests keep to their schema, shipped files to their manifests, and a flipped bit is found."""

from pathlib import Path

import pytest
import yaml

from v4s_lib.data.download import addresses
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


@pytest.mark.parametrize(
    ("name", "address", "needed"),
    [
        (
            "wan22_ti2v_5b",
            "https://huggingface.co/Wan-AI/Wan2.2-TI2V-5B-Diffusers/resolve/b8fff7315c768468a5333511427288870b2e9635/",
            {"model_index.json", "scheduler", "text_encoder", "tokenizer", "transformer", "vae", "README.md"},
        ),
        (
            "owlv2_base",
            "https://huggingface.co/google/owlv2-base-patch16-ensemble/resolve/7c77fc1316a353da3109f81d80ae118dd58fd55b/",
            {"config.json", "model.safetensors", "preprocessor_config.json", "vocab.json", "merges.txt", "README.md"}
            | {"added_tokens.json", "special_tokens_map.json", "tokenizer_config.json"},
        ),
    ],
)
def test_weights_of_others_are_named_to_the_commit_and_hold_no_pickle(name, address, needed):
    manifest = load_manifest(name)
    paths = [file["path"] for file in manifest["files"]]
    url = addresses(manifest)
    assert [url(file)[0] for file in manifest["files"]] == [address + path for path in paths]
    assert {path.split("/")[0] for path in paths} == needed
    assert {Path(path).suffix for path in paths} <= {".json", ".safetensors", ".model", ".md", ".txt"}
    for path in paths:
        part, _, total = path.removesuffix(".safetensors").rpartition("-of-")
        if part:  # a shard: all of them are there, and their index
            start, count = part.rpartition("-")[0], int(total)
            assert {f"{start}-{i:05d}-of-{total}.safetensors" for i in range(1, count + 1)} <= set(paths)
            assert f"{start}.safetensors.index.json" in paths


@pytest.mark.parametrize("name", ["arkitscenes", "arkitscenes_raw"])
def test_captures_of_an_ipad_are_where_the_publishers_script_has_them(name):
    root = "https://docs-assets.developer.apple.com/ml-research/datasets/arkitscenes/v1"
    release = {"arkitscenes": "threedod/Training", "arkitscenes_raw": "raw/Training"}[name]
    for file in load_manifest(name)["files"]:
        assert file["url"] == f"{root}/{release}/{file['path']}"


def test_a_repository_may_be_named_alone_but_its_files_need_a_commit(tmp_path):
    dl3dv = load_manifest("dl3dv")
    assert (dl3dv["repo_id"], dl3dv["repo_type"]) == ("DL3DV/DL3DV-ALL-480P", "dataset")
    path, file = tmp_path / "mine.yaml", {"path": "2K/some.zip"}
    path.write_text(yaml.safe_dump(dl3dv | {"files": [file]}))
    with pytest.raises(ValueError, match="'revision' is a required property"):
        load_manifest(path)
    path.write_text(yaml.safe_dump(dl3dv | {"files": [file], "revision": "a" * 40}))
    url = addresses(load_manifest(path))(file)[0]
    assert url == f"https://huggingface.co/datasets/DL3DV/DL3DV-ALL-480P/resolve/{'a' * 40}/2K/some.zip"


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
