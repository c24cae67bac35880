"""Downloads of manifests: what is kept, what is refused, and what a file without a sha256 is held to."""

import json
from threading import Barrier

import pytest
import yaml
from filelock import FileLock

from tests.data.faulty_server import BODY, DIGEST, QUICK, Server, get, manifest
from v4s_lib.data.download import LOCK, RECEIVED, Retry, fetch_file, fetch_manifest, main


def test_a_file_in_place_is_kept_and_a_wrong_one_replaced_only_by_the_right_one(server, tmp_path):
    path = get(server, tmp_path / "file")
    get(server, path)
    assert len(server.log) == 1
    path.write_bytes(b"damaged")
    server.answers = ["status_404"]
    with pytest.raises(FileNotFoundError):
        get(server, path)
    assert path.read_bytes() == b"damaged"
    server.answers = ["good"]
    get(server, path)
    assert path.read_bytes() == BODY


def test_offline_asks_nobody(server, tmp_path):
    path = tmp_path / "file"
    with pytest.raises(FileNotFoundError, match=r"^expected .*, got 1 of 1 files missing or changed: run it once with"):
        get(server, path, offline=True)
    assert list(tmp_path.iterdir()) == [] and server.log == []
    get(server, path)
    server.log = []
    assert get(server, path, offline=True) == path
    path.write_bytes(BODY[::-1])
    with pytest.raises(FileNotFoundError, match="missing or changed"):
        get(server, path, offline=True)
    assert server.log == []


def test_two_downloads_into_one_folder_do_not_mix(server, tmp_path):
    with (
        FileLock(tmp_path / LOCK),
        pytest.raises(OSError, match=r"^expected one download into .*, got another at work"),
    ):
        get(server, tmp_path / "file")
    assert server.log == []


# Trust on first use


def test_without_a_sha256_what_came_first_must_stay(server, tmp_path):
    path = get(server, tmp_path / "file", size=False, sha256=False)
    record = json.loads((tmp_path / RECEIVED).read_text())["file"]
    assert (record["size"], record["sha256"], record["url"]) == (len(BODY), DIGEST, f"{server.url}/file")
    assert record["sha256_from"] == "first download"
    assert get(server, path, size=False, sha256=False, offline=True) == path

    server.body = BODY[::-1]
    path.unlink()
    with pytest.raises(
        ValueError, match=r"^expected sha256 .* \(as received on .*\) .*, got .*: keep .*, or delete file"
    ):
        get(server, path, size=False, sha256=False)
    server.body = BODY[1:]
    with pytest.raises(ValueError, match=r"^expected 204808 bytes \(as received on .*\) .*, got 204807: keep"):
        get(server, path, size=False, sha256=False)
    assert not path.exists()
    (tmp_path / RECEIVED).unlink()
    assert get(server, path, size=False, sha256=False).read_bytes() == BODY[1:]


def test_a_file_that_nobody_vouches_for_is_not_lost(server, tmp_path):
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"^expected a sha256 or no file yet at .*, got an unknown file: move it"):
        get(server, tmp_path / "file", sha256=False)
    assert (tmp_path / "file").read_bytes() == b"mine" and server.log == []


def test_a_broken_record_is_refused(server, tmp_path):
    (tmp_path / RECEIVED).write_text("{")
    with pytest.raises(ValueError, match=r"^expected JSON in .*received.json, got .*: restore it"):
        get(server, tmp_path / "file")


# Manifests


def entry(server: Server, path: str, **changes) -> dict:
    return {"path": path, "url": f"{server.url}/{path}", "size": len(BODY), "sha256": DIGEST} | changes


def test_a_manifest_comes_whole_from_a_bad_server_with_progress(server, tmp_path, capsys):
    server.answers = ["truncates", "drops", "status_503", "good"]
    files = [entry(server, f"scene/{index}.bin") for index in range(8)] + [{"path": "x", "url": f"{server.url}/x"}]
    paths = fetch_manifest(manifest(tmp_path, files), tmp_path / "out", workers=3, retry=QUICK)
    assert paths == [tmp_path / "out" / file["path"] for file in files]
    assert all(path.read_bytes() == BODY for path in paths)
    assert list(json.loads((tmp_path / "out" / RECEIVED).read_text())) == ["x"]
    assert f"{9 * len(BODY) / 1e6:.2f}MB" in capsys.readouterr().err.replace("M ", "MB ").replace("M [", "MB [")
    server.log = []
    fetch_manifest(tmp_path / "set.yaml", tmp_path / "out", offline=True)
    assert server.log == []


def test_as_many_files_come_at_once_as_there_are_workers(server, tmp_path):
    """No answer comes before three are asked for: three workers get all, and two wait until the server gives up."""
    place = manifest(tmp_path, [entry(server, f"{index}.bin") for index in range(3)])
    once = Retry(tries=1, timeout=20)
    server.answers, server.meeting = ["meets"], Barrier(3, timeout=10)
    paths = fetch_manifest(place, tmp_path / "three", workers=3, progress=False, retry=once)
    assert all(path.read_bytes() == BODY for path in paths)
    server.meeting = Barrier(3, timeout=0.5)
    with pytest.raises(ConnectionError, match="got 503"):
        fetch_manifest(place, tmp_path / "two", workers=2, progress=False, retry=once)


def test_an_error_stops_the_others_and_a_second_run_goes_on(server, tmp_path):
    server.answers = ["good", "status_404", "good"]
    files = [entry(server, f"{index}.bin") for index in range(4)]
    with pytest.raises(FileNotFoundError, match="404"):
        fetch_manifest(manifest(tmp_path, files), tmp_path / "out", workers=1, progress=False, retry=QUICK)
    server.log = []
    fetch_manifest(tmp_path / "set.yaml", tmp_path / "out", workers=1, progress=False, retry=QUICK)
    assert "/0.bin" not in [path for path, _ in server.log] and "/1.bin" in [path for path, _ in server.log]


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_the_hub_gets_the_login_and_the_revision(server, hub, tmp_path, monkeypatch, kind):
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    files, hub = [{"path": "a/b.bin", "size": len(BODY), "sha256": DIGEST}], hub | {"repo_type": kind}
    fetch_manifest(manifest(tmp_path, files, **hub), tmp_path / "out", progress=False, retry=QUICK)
    path, headers = server.log[0]
    assert path == f"/{'datasets/' * (kind == 'dataset')}owner/name/resolve/{'a' * 40}/a/b.bin"
    assert headers["Authorization"] == "Bearer hf_test"
    server.answers = ["status_403"]
    gated = hub | {"access": "gated", "terms": "Accept the licence at https://huggingface.co/owner/name."}
    with pytest.raises(PermissionError, match=r"got 403 \(not allowed\): Accept the licence at https://huggingface"):
        fetch_manifest(manifest(tmp_path, files, **gated), tmp_path / "new", progress=False, retry=QUICK)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([{"path": "../evil"}], "expected a path that stays in .*, got '../evil': use nothing"),
        ([{"path": "/evil"}], "expected a path that stays in .*, got '/evil': use nothing"),
        ([{"path": "C:\\evil"}], "expected a path that stays in .*: use nothing"),
        ([{"path": "a"}, {"path": "A"}], "expected every path once, got .*: correct"),
        ([{"path": "a"}, {"path": "a/b"}], "expected every path once, got .* below a file: correct"),
        ([{"path": "deep/received.json"}], "expected a name of data, got .*: rename"),
        ([{"path": "a.part"}], "expected a name of data, got .*: rename"),
        ([{"path": "a", "url": "https://host/a b"}], "expected a url https://host/file, got 'https://host/a b' for a"),
        ([{"path": "a", "url": "http://host/a"}], "to follow schema.json, got at files.1.url"),
        ([{"path": "a", "url": "file:///etc/passwd"}], "to follow schema.json, got at files.1.url"),
    ],
)
def test_bad_input_is_refused_before_any_work(server, tmp_path, files, message):
    place = manifest(
        tmp_path, [{"path": "good", "url": f"{server.url}/g"}] + [{"url": f"{server.url}/f"} | file for file in files]
    )
    with pytest.raises(ValueError, match=message):
        fetch_manifest(place, tmp_path / "out", progress=False, retry=QUICK)
    assert server.log == [] and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "ftp://host/file"}, "expected a url https://host/file, got 'ftp://host/file'"),
        ({"url": "https://user:secret@host/file"}, "expected a url https://host/file"),
        ({"size": 0}, "expected a size from 1 byte, got 0"),
        ({"sha256": "abc"}, "expected a sha256 of 64 hexadecimal digits, got 'abc'"),
    ],
)
def test_bad_options_are_refused_before_any_work(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        fetch_file(**{"url": "https://host/file", "path": tmp_path / "out/file"} | options)
    assert not (tmp_path / "out").exists()


def test_places_that_are_taken_are_refused(server, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "taken").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"^expected a file at .*, got a folder: move it away"):
        get(server, tmp_path / "folder")
    with pytest.raises(FileExistsError, match=r"^expected a folder at .*taken, got a file: choose another"):
        get(server, tmp_path / "taken" / "file")
    with pytest.raises(ValueError, match=r"^expected at least 1 worker, got 0: choose 1 or more"):
        fetch_manifest(manifest(tmp_path, [entry(server, "a")]), tmp_path / "out", workers=0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rooms", "expected a set to download, got rooms, which is generated: run python -m v4s_lib.data"),
        ("demo_scans", "expected a set to download, got demo_scans, which is shipped: use it there"),
    ],
)
def test_sets_that_need_no_download_say_so(tmp_path, name, message):
    with pytest.raises(ValueError, match=message):
        fetch_manifest(name, tmp_path / "out")


def test_a_gated_set_without_files_says_what_to_accept(tmp_path):
    place = manifest(tmp_path, [], access="gated", terms="ask for access at https://host, which mails a script")
    content = yaml.safe_load(place.read_text())
    del content["files"]
    place.write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match=r"^expected files in the manifest set, got none: ask for access at https://"):
        fetch_manifest(place, tmp_path / "out")


def test_the_command(server, tmp_path, capsys):
    place = manifest(tmp_path, [entry(server, "a.bin")])
    main([str(place), "--out", str(tmp_path / "out")])
    assert capsys.readouterr().out == f"{tmp_path / 'out'}: 1 files, all as listed\n"
    assert (tmp_path / "out/a.bin").read_bytes() == BODY
