"""Order of the test files."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The notebooks first: their file takes longest, and the file that begins last decides when the workers end."""
    items.sort(key=lambda item: item.path.name != "test_notebooks.py")
