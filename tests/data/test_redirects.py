"""What the hub says of a large file, on the way to where it lies, is what must come, and nobody else is believed."""

import json
from pathlib import Path

import pytest

from tests.data.faulty_server import BODY, DIGEST, HALF, QUICK, Server, manifest, ranges
from v4s_lib.data.download import RECEIVED, fetch_manifest


def fetch_linked(tmp_path: Path, hub: dict[str, str], **options: object) -> dict[str, str]:
    """Fetch a file of which the manifest says nothing; returns the record of it."""
    place = manifest(tmp_path, [{"path": "a/b.bin"} | options], **hub)
    (path,) = fetch_manifest(place, tmp_path / "out", progress=False, retry=QUICK)
    assert path.read_bytes() == BODY
    return json.loads((tmp_path / "out" / RECEIVED).read_text())["a/b.bin"]


def test_what_the_hub_says_of_a_file_is_recorded_as_the_publishers(server, hub, tmp_path):
    server.answers = ["links", "good"]
    record = fetch_linked(tmp_path, hub)
    assert (record["size"], record["sha256"], record["sha256_from"]) == (len(BODY), DIGEST, "publisher")
    server.log = []
    fetch_linked(tmp_path, hub)
    assert server.log == []
    (tmp_path / "out/a/b.bin").unlink()
    server.answers = ["links", "flips", "links", "flips"]
    with pytest.raises(
        ValueError, match=r"^expected sha256 .* \(as the hub said on .*\) .*, twice: keep .*, or delete"
    ):
        fetch_linked(tmp_path, hub)


def test_a_file_that_is_not_what_the_hub_says_is_refused(server, hub, tmp_path):
    server.answers = ["links", "flips", "links", "flips"]
    refused = r"^expected sha256 .*\.\.\. \(as the hub says\) from .*, got .*, twice: try again later, or from another"
    with pytest.raises(ValueError, match=refused):
        fetch_linked(tmp_path, hub)
    server.linked = server.linked | {"X_Linked_Size": len(BODY) + 1}
    server.answers = ["links", "good"]
    with pytest.raises(ValueError, match=r"^expected 204809 bytes \(as the hub says\) from .*, got 204808: try again"):
        fetch_linked(tmp_path, hub)
    server.answers = ["links", "good"]
    with pytest.raises(ValueError, match=r"^expected 204808 bytes \(as listed\) from .*, got 204809: try again"):
        fetch_linked(tmp_path, hub, size=len(BODY))
    assert not (tmp_path / "out" / RECEIVED).exists() and not (tmp_path / "out/a/b.bin").exists()


def test_a_half_of_a_file_of_the_hub_goes_on_and_is_verified(server, hub, tmp_path):
    server.answers = ["links", "truncates", "links", "good"]
    assert fetch_linked(tmp_path, hub)["sha256_from"] == "publisher"
    assert ranges(server) == [None, None] + [f"bytes={HALF}-"] * 2
    (tmp_path / "out" / RECEIVED).unlink()
    (tmp_path / "out/a/b.bin").rename(tmp_path / "out/a/b.bin.part")  # whole, and killed before it was verified
    state = {"url": f"{server.url}/owner/name/resolve/{'a' * 40}/a/b.bin", "mark": None, "size": len(BODY)}
    (tmp_path / "out/a/b.bin.part.json").write_text(json.dumps(state | {"sha256": DIGEST}))
    server.log = []
    assert fetch_linked(tmp_path, hub)["sha256_from"] == "publisher" and server.log == []


@pytest.mark.parametrize("etag", [f'"{DIGEST[:40]}"', f'"{DIGEST}0"', f'"{"x" * 64}"', ""])
def test_an_etag_that_is_no_sha256_is_no_hash(server, hub, tmp_path, etag):
    server.linked, server.answers = {"X_Linked_Size": 7, "X_Linked_Etag": etag}, ["links", "good"]
    assert fetch_linked(tmp_path, hub)["sha256_from"] == "first download"


def test_only_the_hub_itself_is_believed(server, hub, tmp_path):
    """Not the place that it sends on to, nor a server that a manifest names by an address, nor against a list."""
    other = Server()
    try:
        other.answers, server.away, server.answers = ["tells_itself"], f"{other.url}/cdn", ["links"]
        assert fetch_linked(tmp_path, hub)["sha256"] == DIGEST
    finally:
        other.stop()
    server.linked = server.linked | {"X_Linked_Etag": f'"{"0" * 64}"'}
    server.away, server.answers = "", ["links", "good"]
    place = manifest(tmp_path, [{"path": "x", "url": f"{server.url}/x"}])
    fetch_manifest(place, tmp_path / "http", progress=False, retry=QUICK)
    assert json.loads((tmp_path / "http" / RECEIVED).read_text())["x"]["sha256_from"] == "first download"
    server.answers = ["links", "good"]
    place = manifest(tmp_path, [{"path": "x", "sha256": DIGEST}], **hub)
    fetch_manifest(place, tmp_path / "listed", progress=False, retry=QUICK)
    assert not (tmp_path / "listed" / RECEIVED).exists()
