"""The pages under ``docs/``: their Python runs as it stands."""

from dataclasses import replace
from pathlib import Path

import pytest

import bqstore

from .embeddings.fake_server import serve
from .pages import ROOT, blocks_of, check_blocks, check_printed

PAGES = sorted((ROOT / "docs").rglob("*.md"))
BLOCKS = [block for page in PAGES for block in blocks_of(page)]


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """Kernels in numba's cache, so that no block waits for them, and none says so."""
    bqstore.warm_up()


def test_the_blocks_of_the_pages_print_what_is_shown(tmp_path: Path) -> None:
    check_blocks([block for block in BLOCKS if not block.needs_key], tmp_path)


def test_the_blocks_that_need_a_key_run_with_one(tmp_path: Path) -> None:
    pytest.importorskip("openai")
    with serve() as server:
        server.dim = 1536
        asked = [block for block in BLOCKS if block.needs_key]
        check_blocks(asked, tmp_path, OPENAI_API_KEY="sk-of-a-test", OPENAI_BASE_URL=server.url)
    assert server.texts == ["Bits are small.", "Floats are exact.", "what is small?"]


def test_the_checks_see_what_is_wrong(tmp_path: Path) -> None:
    written = tmp_path / "page.md"
    written.write_text("text\n\n```python\nprint(0.98)\n```\n\n```text\n0.99\n```\n\n```python\nx = 1\n```\n", "utf-8")
    shown, silent = blocks_of(written)
    assert (shown.line, shown.code, shown.shown) == (3, "print(0.98)\n", "0.99\n")
    assert (silent.line, silent.shown) == (11, "")
    shown = replace(shown, page=ROOT / "docs" / "none.md")
    check_printed(shown, "0.98\n")
    for printed in ("0.9\n", "0.99 more\n", ""):
        with pytest.raises(AssertionError, match=r"none\.md:4 prints"):
            check_printed(shown, printed)
