"""Fixtures of the tests of storage."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bqstore.storage import Store

from .store_model import StoreModel


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store on disk, open for writing, with ten documents in one commit."""
    with StoreModel(tmp_path / "store") as model:
        model.add(10)
        yield model.store
