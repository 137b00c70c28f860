"""The README's Python runs as it stands, and again; what it prints is what the README shows."""

from pathlib import Path

import pytest

import bqstore

from .conftest import FULL
from .pages import ROOT, blocks_of, check_blocks

README = ROOT / "README.md"


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """Kernels in numba's cache, so that no block waits for them, and none says so."""
    bqstore.warm_up()


@pytest.mark.long
def test_the_readme_runs_as_it_is_written_and_runs_again(tmp_path: Path) -> None:
    blocks = blocks_of(README)
    assert len(blocks) >= 4 and all(block.shown for block in blocks)
    check_blocks(blocks, tmp_path)
    check_blocks([block for block in blocks if FULL or "open()" not in block.code], tmp_path)  # what leaves a folder
    made = {path.name for path in (tmp_path / "README").iterdir()}
    assert made == {"my-store", "langchain-store", "llama-store"}


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 120
