"""The site of `make docs`, as far as it can be told without building it: its navigation, ``llms.txt`` and reference."""

import ast
import inspect
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

import bqstore
from tools import docs_site

from .pages import ROOT, links_of

DOCS = ROOT / "docs"
CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
PAGES = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
REFERENCE = "\n".join(page.read_text(encoding="utf-8") for page in sorted((DOCS / "reference").glob("*.md")))


def pages_in(nav: list[Any]) -> Iterator[str]:
    for entry in nav:
        for below in [entry] if isinstance(entry, str) else entry.values():
            yield from [below] if isinstance(below, str) else pages_in(below)


def test_every_page_is_in_the_navigation_once() -> None:
    assert sorted(pages_in(CONFIG["nav"])) == sorted(PAGES)


def test_llms_txt_names_every_page_and_says_what_it_is_about() -> None:
    text = docs_site.llms_txt(CONFIG["nav"], DOCS)
    lines = re.findall(r"^- \[(.+)\]\((.+)\): (.*)$", text, re.MULTILINE)
    assert {page.replace(".html", ".md") for _, page, _ in lines} == PAGES - {"README.md"}
    assert all(title and len(about) > 15 for title, _, about in lines), lines
    assert text.startswith("# bqstore\n\n> ")


def test_the_script_of_others_came_without_the_words_of_its_license() -> None:
    text = " ".join((DOCS / "assets/iframe-worker.js").read_text(encoding="utf-8").replace("\n * ", " ").split())
    assert "Copyright (c) 2020-2022 Martin Donath" in text
    assert "this permission notice shall be included in all copies" in text and "WITHOUT WARRANTY OF ANY KIND" in text


def test_links_out_of_docs_lead_to_the_repository() -> None:
    text = "[a](../SECURITY.md#trust) [b](settings.md) [c](../bqstore/storage/FORMAT.md)"
    assert docs_site.linked(text, "durability.md") == (
        f"[a]({docs_site.BLOB}SECURITY.md#trust) [b](settings.md) [c]({docs_site.BLOB}bqstore/storage/FORMAT.md)"
    )
    assert docs_site.linked("[a](../settings.md) [b](../../Makefile)", "design/rotation.md") == (
        f"[a](../settings.md) [b]({docs_site.BLOB}Makefile)"
    )


@pytest.mark.parametrize(
    ("module", "file"),
    [
        ("bqstore", "bqstore/__init__.py"),
        ("langchain_bqstore", "integrations/langchain_bqstore/__init__.py"),
        ("llama_index.vector_stores.bqstore", "integrations/llama_index/vector_stores/bqstore/__init__.py"),
    ],
)
def test_every_public_name_is_in_the_reference_once(module: str, file: str) -> None:
    source = (ROOT / file).read_text(encoding="utf-8")  # read, as importing the frameworks takes seconds
    (names,) = re.findall(r"^__all__ = (\[.*?\])", source, re.MULTILINE | re.DOTALL)
    public = set(ast.literal_eval(names)) - {"__version__"}
    assert sorted(re.findall(rf"^::: {re.escape(module)}\.(\w+)$", REFERENCE, re.MULTILINE)) == sorted(public)


GIVEN = """Do a thing.

Parameters
----------
vector : array (dim,)   what is looked for,
                        and more of it
low, high               the ends
distance : str or None. the last one
way : "auto"            chosen
    "walk"              through the graph
texts : strings or None

Raises ValueError, too.

>>> thing()
1
"""
MADE = """Do a thing. Raises ValueError, too.
Parameters ----------
vector : array (dim,) what is looked for, and more of it
low the ends high the ends
distance : str or None. the last one
way : "auto" chosen - `"walk"` through the graph
texts : strings or None
Examples --------
>>> thing() 1"""


def test_docstrings_in_columns_become_what_the_reference_is_made_of() -> None:
    assert docs_site.as_numpydoc(GIVEN).split() == MADE.split()


def test_no_word_of_a_docstring_is_lost_in_the_reference() -> None:
    for call in [bqstore.open, *(each for each in vars(bqstore.Collection).values() if callable(each))]:
        given = inspect.getdoc(call) or ""
        lost = set(re.findall(r"[\w.]+", given)) - set(re.findall(r"[\w.]+", docs_site.as_numpydoc(given)))
        assert not lost, (call, lost)


def test_the_first_page_leads_to_every_page() -> None:
    """Those of the reference and of the design are reached through one each."""
    led = set(links_of((DOCS / "README.md").read_text(encoding="utf-8")))
    assert {page for page in PAGES if "/" not in page} - {"README.md"} <= led
    assert {"design/README.md", "reference/collection.md"} <= led
    assert "docs/README.md" in links_of((ROOT / "README.md").read_text(encoding="utf-8"))


TROUBLES = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
OF_THE_SYSTEM = {"No space left on device", "Disk quota exceeded", "Permission denied", "Too many open files"}


@pytest.mark.parametrize("name", [name for name in bqstore.__all__ if name.endswith("Error")])
def test_every_error_has_its_place_in_troubleshooting(name: str) -> None:
    assert issubclass(getattr(bqstore, name), bqstore.BqstoreError)
    section = TROUBLES.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    assert "\n| `" in section or name == "BqstoreError", f"docs/troubleshooting.md has no line of {name}"


def test_troubleshooting_quotes_messages_that_exist() -> None:
    """Words that stand beside each other in one message of the sources; `…` stands for what differs."""
    files = [file for folder in ("bqstore", "integrations") for file in (ROOT / folder).rglob("*.py")]
    sources = re.sub(r'"\s*f?"', "", "".join(file.read_text(encoding="utf-8") for file in files))
    quoted = re.findall(r"^\| (`.*?) \| ", TROUBLES.partition("\n## No error")[0], re.MULTILINE)
    words = {part for cell in quoted for message in re.findall("`([^`]+)`", cell) for part in message.split(" … ")}
    assert len(words) > 50
    assert {part for part in words if part not in sources} == OF_THE_SYSTEM
