"""The pages under ``docs/``: their Python runs as it stands, and the links of every page lead somewhere."""

import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest

import bqstore

from .embeddings.fake_server import serve
from .pages import ROOT, Block, anchors_of, blocks_of, check_blocks, check_printed, links_of, markdown_pages

PAGES = sorted((ROOT / "docs").rglob("*.md"))
BLOCKS = [block for page in PAGES for block in blocks_of(page)]


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """Kernels in numba's cache, so that no block waits for them, and none says so."""
    bqstore.warm_up()


@pytest.mark.long
def test_the_blocks_of_the_pages_print_what_is_shown(tmp_path: Path) -> None:
    check_blocks([block for block in BLOCKS if not block.needs_key and not block.needs_models], tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("block", [block for block in BLOCKS if block.needs_models], ids=str)
def test_the_blocks_that_need_models_run_where_these_are(tmp_path: Path, block: Block) -> None:
    compile(block.code, str(block), "exec")
    for name in ["sentence_transformers", *re.findall(r"^(?:from|import) (\w+)", block.code, re.MULTILINE)]:
        pytest.importorskip(name)
    check_blocks([block], tmp_path)


@pytest.mark.long
def test_the_blocks_that_need_a_key_run_with_one(tmp_path: Path) -> None:
    pytest.importorskip("openai")
    with serve() as server:
        server.dim = 1536
        asked = [block for block in BLOCKS if block.needs_key]
        check_blocks(asked, tmp_path, OPENAI_API_KEY="sk-of-a-test", OPENAI_BASE_URL=server.url)
    assert server.texts == ["Bits are small.", "Floats are exact.", "what is small?"]


@pytest.mark.parametrize("page", markdown_pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for link in links_of(text):
        if "://" in link or link.startswith("mailto:"):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / unquote(name)).resolve() if name else page
        assert target.exists(), f"{link}: there is no such file"
        assert target.is_relative_to(ROOT), f"{link}: outside of the project"
        if anchor:
            assert anchor in anchors_of(target.read_text(encoding="utf-8")), f"{link}: there is no such heading"


def test_the_checks_see_what_is_wrong(tmp_path: Path) -> None:
    text = "# One `two`\n\n## Same\n\n## Same\n\n[a](b.md#c) `[no](link)`\n\n```python\n[no](link)\n```\n"
    assert links_of(text) == ["b.md#c"]
    assert anchors_of(text) == {"one-two", "same", "same-1"}
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
