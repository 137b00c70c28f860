"""The README's Python runs as it is written: all its blocks, in order, in one fresh process.

A block that begins with ``# needs OPENAI_API_KEY`` is left out of that run; it has one of its own, against a server on
loopback that speaks OpenAI's API.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .embeddings.fake_server import serve

README = Path(__file__).parents[1] / "README.md"
NEEDS_KEY = "# needs OPENAI_API_KEY\n"


def blocks() -> list[str]:
    """The Python blocks, each at the lines it has in the README, so that a traceback names them."""
    text = README.read_text(encoding="utf-8")
    found = re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return ["\n" * text.count("\n", 0, block.start(1)) + block[1] for block in found]


def needs_key(block: str) -> bool:
    return block.lstrip("\n").startswith(NEEDS_KEY)


def run(chosen: list[str], folder: Path, **environment: str) -> str:
    """What the blocks print, run one after another in a folder of their own; a warning is an error."""
    program = f"scope = {{}}\nfor block in {chosen!r}:\n    exec(compile(block, 'README.md', 'exec'), scope)"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    kept["PYTHONPATH"] = os.pathsep.join(str(Path(entry or ".").resolve()) for entry in sys.path)  # the folder changes
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=folder,
        env={**kept, "XDG_CACHE_HOME": str(folder / "cache"), **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_readme_runs_as_it_is_written(tmp_path: Path) -> None:
    chosen = [block for block in blocks() if not needs_key(block)]
    assert len(chosen) >= 3
    said = run(chosen, tmp_path)
    hit, used, reason, quality = said.splitlines()
    assert re.fullmatch(r"(1\.0|0\.99)\d* a one \{'lang': 'en'\}", hit)
    assert used.startswith("Quantization(encoding='") and "auto" not in used and "within 1% of the best" in reason
    assert re.match(r"(1\.0|0\.\d+) 0\.\d+ (1\.0|0\.\d+) .*one bit", quality)
    made = {path.name for path in tmp_path.iterdir() if path.is_dir()} - {"cache"}
    assert made == {"langchain-store", "llama-store", "core-store", "filter-store", "quality-store"}


def test_the_block_that_needs_a_key_runs_with_one(tmp_path: Path) -> None:
    pytest.importorskip("openai")
    (block,) = filter(needs_key, blocks())
    with serve() as server:
        server.dim = 1536
        run([block], tmp_path, OPENAI_API_KEY="sk-of-a-test", OPENAI_BASE_URL=server.url)
    assert server.texts == ["Bits are small.", "Floats are exact.", "what is small?"]
