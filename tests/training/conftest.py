"""One thread: sums come out the same to the last bit here and in a subprocess. And scans to encode."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.training.tiny_cache import write_cache
from tests.training.tiny_scans import save_wan, write_scans
from v4s_lib.training.presets import PRESETS, SMOKE


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def episodes(tmp_path_factory) -> Path:
    return write_scans(tmp_path_factory.mktemp("episodes"))


@pytest.fixture(scope="module")
def wan(tmp_path_factory) -> Path:
    return save_wan(tmp_path_factory.mktemp("wan"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return write_cache(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def seldom_validated(monkeypatch):
    """Preset smoke, as commands in this process find it, validates at the end alone, in one room."""
    monkeypatch.setitem(PRESETS, "smoke", replace(SMOKE, validate_every=100, validation_rooms=1))
