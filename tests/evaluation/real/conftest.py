"""Two rooms, reconstructed once for all tests here; without pycolmap, as on Linux on ARM, none of these tests runs."""

import importlib.util

import pytest

collect_ignore_glob = [] if importlib.util.find_spec("pycolmap") else ["test_*.py"]


@pytest.fixture(scope="package")
def room():
    from tests.evaluation.real.rooms import scanned

    return scanned(0, step=4)


@pytest.fixture(scope="package")
def other_room():
    from tests.evaluation.real.rooms import scanned

    return scanned(1, step=10)
