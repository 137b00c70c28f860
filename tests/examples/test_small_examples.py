"""The examples that can be copied: each runs as it stands, without a key or a network, and runs again."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import bqstore

from ..conftest import FULL
from ..pages import HUNG, reader_at
from .conftest import EXAMPLES

PRINTED = {
    "core.py": "0.26 bits: Bits are small and quick\n0.00 floats: Floats are exact but large\n",
    "langchain_rag.py": "Answer from this: Floats are exact but large\nQuestion: what is exact\n",
    "llama_index_query.py": "Floats are exact but large\n",
}


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """Kernels in numba's cache, so that no example waits for them, and none says so."""
    bqstore.warm_up()


def run_in_a_process(example: Path, folder: Path) -> str:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("OPENAI_")}
    kept["PYTHONPATH"] = os.pathsep.join(str(Path(entry or ".").resolve()) for entry in sys.path)  # the folder changes
    done = subprocess.run(
        [sys.executable, "-W", "error", str(example)],
        cwd=folder,
        env=kept,
        capture_output=True,
        text=True,
        timeout=HUNG,
        check=False,
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout


@pytest.mark.long
@pytest.mark.parametrize("name", PRINTED)
def test_an_example_prints_the_same_each_time(name: str, tmp_path: Path) -> None:
    """A first run, and a second on what the first has stored: in this process, or in `make test-all` in two others."""
    if FULL:
        printed = run_in_a_process(EXAMPLES / name, tmp_path) + run_in_a_process(EXAMPLES / name, tmp_path)
    else:
        with reader_at(tmp_path) as said:
            for _ in range(2):
                runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        printed = said.getvalue()
    first, second = printed[: len(printed) // 2], printed[len(printed) // 2 :]
    assert first == second
    assert PRINTED[name] in first
    assert name != "llama_index_query.py" or first.endswith("from ['floats']\n")


def test_every_example_is_run_and_short() -> None:
    copied = {path.name: path for path in EXAMPLES.glob("*.py") if path.name != "ask_the_manual.py"}
    assert copied.keys() == PRINTED.keys()
    for path in copied.values():
        assert len(path.read_text(encoding="utf-8").splitlines()) < 30, path
