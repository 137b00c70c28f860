"""Mark cases as ``slow`` that `make test` does without."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.covering import mark_slow


@pytest.hookimpl(tryfirst=True)  # before -m is applied
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark_slow(items, Path(__file__).parent)
