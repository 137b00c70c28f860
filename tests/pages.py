"""The project's Markdown pages as tests see them: their Python blocks, what these print, their headings and links.

A page shows what a block prints in a ``text`` block right behind it. A block that begins with ``# needs
OPENAI_API_KEY`` is run apart from the others, against a server on loopback that speaks OpenAI's API. One that begins
with ``# needs sentence-transformers`` is run where that and what else it imports are there, and one with ``# needs
opentelemetry-sdk`` in a process of its own, whose tracer provider it sets (`test_tracing.py`).
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest

from .conftest import FULL

Page = tuple[str, str, list[tuple[int, str]]]  # a page's name, its folder, and each block with the lines before it
ROOT = Path(__file__).parents[1]
NEEDS_KEY = "# needs OPENAI_API_KEY\n"
NEEDS_MODELS = "# needs sentence-transformers"
NEEDS_TRACING = "# needs opentelemetry-sdk"
HUNG = 1800  # seconds: far beyond what a slow or busy machine takes

_BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:\n*^```text\n(?P<shown>.*?)^```$)?", re.MULTILINE | re.DOTALL)
_DECIMAL = re.compile(r"\d+\.\d+")

# The program of a fresh process that runs the blocks of pages, and writes down what each has printed.
_PROGRAM = """
import json, sys
from tests.pages import run
pages, out = json.load(sys.stdin)
with open(out, "w", encoding="utf-8") as file:
    json.dump(run(pages), file)
"""


@dataclass(frozen=True)
class Block:
    """Python in a page: the lines before it, its text, and what the page says that it prints."""

    page: Path
    line: int
    code: str
    shown: str

    @property
    def needs_key(self) -> bool:
        return self.code.startswith(NEEDS_KEY)

    @property
    def needs_models(self) -> bool:
        return self.code.startswith(NEEDS_MODELS)

    @property
    def needs_tracing(self) -> bool:
        return self.code.startswith(NEEDS_TRACING)

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line + 1}"


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = _BLOCK.finditer(text)
    return [
        Block(page, text.count("\n", 0, match.start("code")), match["code"], match["shown"] or "") for match in found
    ]


def check_blocks(blocks: Sequence[Block], folder: Path, **environment: str) -> None:
    """Run blocks and compare what they print with what their pages show.

    A warning is an error, and so is a word on stderr. In `make test-all` they run in a fresh process, as those of a
    reader do; in `make test` in this one, which has imported the frameworks already.
    """
    assert blocks
    pages = [
        (str(page), str(folder / page.stem), [(block.line, block.code) for block in blocks if block.page == page])
        for page in dict.fromkeys(block.page for block in blocks)
    ]
    environment = {"XDG_CACHE_HOME": str(folder / "cache"), **environment}
    if FULL:
        printed = _run_in_a_process(pages, folder / "printed.json", environment)
    else:
        with reader_at(folder, **environment):
            printed = run(pages)
    for block, text in zip(blocks, printed, strict=True):
        check_printed(block, text)


def run(pages: list[Page]) -> list[str]:
    """What each block prints, those of a page one after the other, in a folder and a namespace of the page's own.

    A block stands at the line that it has in its page, so that a traceback names it.
    """
    printed = []
    for name, folder, blocks in pages:
        Path(folder).mkdir(exist_ok=True)
        os.chdir(folder)
        scope = {"__name__": "__main__"}
        for line, code in blocks:
            with redirect_stdout(StringIO()) as said:
                exec(compile("\n" * line + code, name, "exec"), scope)
            printed.append(said.getvalue())
    return printed


@contextmanager
def reader_at(folder: Path, **environment: str) -> Iterator[StringIO]:
    """A reader's terminal in this process: in that folder, without a key. Yields what is printed; nothing on stderr."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        for name in [name for name in os.environ if name.startswith("OPENAI_")]:
            patch.delenv(name)
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.chdir(folder)
        yield out
    assert not err.getvalue()


def _run_in_a_process(pages: list[Page], out: Path, environment: dict[str, str]) -> list[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    kept["PYTHONPATH"] = os.pathsep.join([str(ROOT), *(str(Path(entry or ".").resolve()) for entry in sys.path)])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _PROGRAM],
        env={**kept, **environment},
        input=json.dumps([pages, str(out)]),
        capture_output=True,
        text=True,
        timeout=HUNG,
        check=False,
    )
    assert done.returncode == 0 and not done.stdout and not done.stderr, done.stderr
    return [str(text) for text in json.loads(out.read_text(encoding="utf-8"))]


def check_printed(block: Block, printed: str) -> None:
    """The words as the page has them; figures with a decimal point may differ by what processors differ by."""
    assert _DECIMAL.sub("#.#", printed) == _DECIMAL.sub("#.#", block.shown), f"{block} prints:\n{printed}"
    figures = [[float(figure) for figure in _DECIMAL.findall(text)] for text in (printed, block.shown)]
    assert figures[0] == pytest.approx(figures[1], rel=0.01, abs=0.02), f"{block} prints:\n{printed}"


# ---- headings and links

_FENCE = re.compile(r"^(```|~~~).*?^\1\s*$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)", re.DOTALL)
_LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
_DEFINITION = re.compile(r"^\[[^\]]+\]:\s+(\S+)", re.MULTILINE)
_HEADING = re.compile(r"^#{1,6}\s+(.*?)\s*#*$", re.MULTILINE)


def markdown_pages() -> list[Path]:
    """Every Markdown file of the project, none of an environment or a build."""
    left_out = {"build", "dist", "node_modules", "site"}
    found = []
    for page in sorted(ROOT.rglob("*.md")):
        folders = page.relative_to(ROOT).parts[:-1]
        if not any(part in left_out or (part.startswith(".") and part != ".github") for part in folders):
            found.append(page)
    return found


def links_of(text: str) -> list[str]:
    """The targets of links, outside of code."""
    text = _CODE.sub("`code`", _FENCE.sub("", text))
    return _LINK.findall(text) + _DEFINITION.findall(text)


def anchors_of(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    anchors: set[str] = set()
    for heading in _HEADING.findall(_FENCE.sub("", text)):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        plain = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        anchor, count = plain, 0
        while anchor in anchors:
            count += 1
            anchor = f"{plain}-{count}"
        anchors.add(anchor)
    return anchors
