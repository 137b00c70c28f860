"""What the site of `make docs` needs beyond mkdocs: links into the repository, ``llms.txt``, docstrings in columns.

mkdocs calls the functions ``on_...``; mkdocstrings loads `Docstrings` into griffe, which parses the sources.
"""

from __future__ import annotations

import posixpath
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

try:
    from griffe import Extension
except ImportError:  # the tests look at the rest without the extra `docs`
    Extension = object

if TYPE_CHECKING:
    from griffe import Object
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
BLOB = "https://github.com/bqstore/bqstore/blob/main/"

# ---- links and llms.txt

_OUTSIDE = re.compile(r"(?<=\]\()(?P<target>(?:\.\./)+[^)\s#]+)")
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Send links that leave ``docs/`` to the file in the repository, where they lead on the disk and on GitHub, too."""
    return linked(markdown, page.file.src_uri)


def linked(markdown: str, name: str) -> str:
    """The text of the page ``docs/<name>``, its links to files outside of ``docs/`` as addresses."""

    def address(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(name), link["target"]))
        return link["target"] if path.startswith("docs/") else BLOB + path

    return _OUTSIDE.sub(address, markdown)


def on_post_build(*, config: MkDocsConfig) -> None:
    """Write ``llms.txt``, and beside each page its Markdown, which it names."""
    site, docs = Path(config.site_dir), Path(config.docs_dir)
    (site / "llms.txt").write_text(llms_txt(config.nav, docs), encoding="utf-8")
    for page in docs.rglob("*.md"):
        shutil.copyfile(page, site / page.relative_to(docs))


def llms_txt(nav: list[Any], docs: Path) -> str:
    """The navigation as https://llmstxt.org has it: each page's title, its text, and its first sentence."""
    title, about = described(docs / "README.md")
    lines = [f"# {title}", "", f"> {about}", ""]
    for entry in nav:
        for section, pages in entry.items():
            if isinstance(pages, str):
                continue  # this very page
            lines += [f"## {section}", ""]
            for page in pages:
                title, about = described(docs / page)
                made = (
                    page.replace(".md", ".html") if page.startswith("reference/") else page
                )  # its Markdown names names
                lines.append(f"- [{title}]({made}): {about}")
            lines.append("")
    return "\n".join(lines)


def described(page: Path) -> tuple[str, str]:
    """A page's title and its first sentence, without links and marks."""
    head, _, rest = _FENCE.sub("", page.read_text(encoding="utf-8")).partition("\n")
    paragraph = next((text for text in rest.split("\n\n") if re.match(r"\s*[\w`*\"\[]", text)), "")
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", " ".join(paragraph.split())).replace("**", "")
    sentence = re.match(r".*?[.?](?= |$)", plain)
    return head.lstrip("# "), sentence[0] if sentence else plain


# ---- docstrings

Item = tuple[list[str], list[str]]  # names, and the lines that say what they mean
_START = re.compile(r"^(?:\S.*?)?\s{2,}(?=\S)", re.MULTILINE)
_COLUMNS = {"Parameters", "Attributes", "Returns", "Yields", "Raises"}


class Docstrings(Extension):
    """Turns the project's docstrings, whose sections are columns, into what griffe reads and Markdown shows."""

    def on_object(self, *, obj: Object, **others: Any) -> None:
        """Called by griffe for each module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = as_numpydoc(obj.docstring.value)


def as_numpydoc(docstring: str) -> str:
    """Text first, as numpydoc has none after sections; then these as it has them, examples in one of their own."""
    text: list[str] = []
    sections: list[str] = []
    items: list[Item] = []  # of a section in columns
    starts = [start[0] for start in _START.finditer(docstring) if len(start[0]) >= 16]
    column = Counter(map(len, starts)).most_common(1)[0][0] if starts else 32  # where meanings begin
    section, above = "", ""
    for line, beneath in pairwise([*docstring.splitlines(), ""]):
        is_head = bool(line and beneath and not beneath.strip("-"))
        is_example = line.startswith(">>>") and section != "Examples"
        is_text = section in _COLUMNS and line[:1].strip("-") and not (above or re.search(r" : |\S\s{2,}", line))
        if is_head or is_example or is_text:
            sections += _written(items)
            items = []
            section = line if is_head else "Examples" if is_example else ""
            sections += ["", section, "-" * len(section)] if section else []
        if not section:
            text.append(line)
        elif not is_head and not (above == section and not line.strip("-")):  # its rule is there already
            if section not in _COLUMNS:
                sections.append(line)
            elif line:
                _read_row(line, items, column)
        above = line
    return "\n".join([*text, *sections, *_written(items)])


def _read_row(line: str, items: list[Item], column: int) -> None:
    """A line of a section: `name : type    what it means`, a value and its meaning beneath, or more of the text."""
    indent = len(line) - len(line.lstrip())
    name, meaning = (re.split(r"\s{2,}", line.strip(), maxsplit=1) + [""])[:2]
    if not meaning and indent < 16 and line[column - 1 : column] == " " and line[column:]:  # a name up to the column
        name, meaning = line[:column].strip(), line[column:]
    if indent == 0:
        items.append(([name] if " : " in name or name.startswith("(") else name.split(", "), [meaning]))
    elif indent < 16 and (meaning or name.startswith('"')):
        items[-1][1].extend(["", f"- `{name}` {meaning}"])
    else:
        items[-1][1].append(line.strip())


def _written(items: list[Item]) -> Iterator[str]:
    """Items as numpydoc has them; names without a type one by one, as griffe takes each type from the signature."""
    for names, lines in items:
        for name in names:
            yield name
            yield from (f"    {line}".rstrip() for line in lines if line or lines[0])
