"""A server that the tests of one download share."""

import pytest

from tests.data.faulty_server import Server


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    server = Server()
    yield server
    server.stop()
