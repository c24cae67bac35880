"""What the tests of downloads and of readers share: a server, and a scan in each publisher's layout."""

import shutil
from pathlib import Path

import pytest

from tests.data.faulty_server import Server
from tests.data.layouts import WRITERS, Room, make_room


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def hub(server, monkeypatch) -> dict[str, str]:
    """What a manifest says of a model on the hub, which is the server."""
    from huggingface_hub import constants

    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    return {"access": "hub", "repo_id": "owner/name", "revision": "a" * 40}


@pytest.fixture(scope="session")
def room() -> Room:
    return make_room()


@pytest.fixture(scope="session")
def scans(room, tmp_path_factory) -> dict[str, Path]:
    """One scan in each layout; tests that change one copy it first."""
    root = tmp_path_factory.mktemp("scans")
    for layout, write in WRITERS.items():
        (root / layout / "41254925").mkdir(parents=True)
        write(root / layout / "41254925", room)
    return {layout: root / layout / "41254925" for layout in WRITERS}


@pytest.fixture
def copy(scans, tmp_path):
    def of(layout: str) -> Path:
        return Path(shutil.copytree(scans[layout], tmp_path / "41254925"))

    return of
