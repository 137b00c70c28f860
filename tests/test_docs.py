"""The pages under ``docs/`` and of distributions: their Python runs as it stands; all links lead somewhere."""

import inspect
import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest

import bqstore

from .embeddings.fake_server import serve
from .pages import ROOT, Block, anchors_of, blocks_of, check_blocks, check_printed, links_of, markdown_pages

PAGES = sorted([*(ROOT / "docs").rglob("*.md"), *(ROOT / "distributions").rglob("*.md")])
BLOCKS = [block for page in PAGES for block in blocks_of(page)]


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """Kernels in numba's cache, so that no block waits for them, and none says so."""
    bqstore.warm_up()


@pytest.fixture
def level() -> Iterator[None]:
    """The level of bqstore's log, which a page shows how to set, as it was."""
    log = logging.getLogger("bqstore")
    before = log.level
    yield
    log.setLevel(before)


@pytest.mark.long
@pytest.mark.usefixtures("level")
def test_the_blocks_of_the_pages_print_what_is_shown(tmp_path: Path) -> None:
    apart = [block for block in BLOCKS if block.needs_key or block.needs_models or block.needs_tracing]
    check_blocks([block for block in BLOCKS if block not in apart], tmp_path)


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


def test_every_setting_of_the_table_is_a_keyword_and_those_of_objects_are_kept_flat() -> None:
    rows = [line.split("|") for line in (ROOT / "docs" / "settings.md").read_text().splitlines() if line[:3] == "| `"]
    table = [row for row in rows if len(row) == 6]
    names = {name.strip("` ") for row in table for name in row[1].split(",")}
    opened, asked = (set(inspect.signature(each).parameters) for each in (bqstore.open, bqstore.Collection.search))
    assert len(names) > 20 and names <= opened | asked, names - opened - asked
    when = {row[3].strip(" `").split("(")[0] for row in table}
    assert when == {
        "call",
        "opening",
        "requantize",
        "fixed",
        "once",
        "set_text_index",
    }
    with bqstore.open(m=32, ef_construct=64, encoding="one_bit", oversampling=4, hnsw_ef=50) as col:
        info = col.info()
    assert (info.hnsw.m, info.hnsw.ef_construct, info.quantization.encoding) == (32, 64, "one_bit")
    assert (info.search.oversampling, info.search.hnsw_ef) == (4.0, 50)


@pytest.mark.parametrize("objects", [{"hnsw": {"m": 16}}, {"hnsw": bqstore.HnswConfig(m=16)}])
def test_a_setting_that_was_given_twice_was_one_of_both(objects: dict[str, object]) -> None:
    with pytest.raises(bqstore.InvalidInputError, match=r"m(=32)? and hnsw=.* are both given; set m in one of them"):
        bqstore.open(m=32, **objects)
    with bqstore.open(m=32, hnsw={"ef_construct": 64}) as col:
        assert (col.info().hnsw.m, col.info().hnsw.ef_construct) == (32, 64)
