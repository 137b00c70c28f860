"""What a user's own tools say of a program that uses the store: warnings, the log, python -O, strict types."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = '''
import logging
from collections.abc import Iterator
from typing import Any

from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding

from langchain_bqstore import BQRetriever, BQVectorStore


class Counted(logging.Handler):
    """Counts the records of the root logger."""

    records = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.records += 1


def documents() -> Iterator[Document]:
    for i in range(300):
        yield Document(f"text {i}", id=str(i), metadata={"n": i})


def young(metadata: dict[str, Any]) -> bool:
    return bool(metadata["n"] < 10)


counted = Counted()
logging.getLogger().addHandler(counted)
logging.getLogger().setLevel(logging.DEBUG)
with BQVectorStore(DeterministicFakeEmbedding(size=64), path="store") as store:
    ids: list[str] = store.add_documents(documents())
    retriever: BQRetriever = store.as_retriever(k=2, score_key="score")
    found = retriever.invoke("text 7", filter={"n": {"$lt": 100}})
    first = store.similarity_search("text 7", 1, young)[0]
    first = store.similarity_search("text 7", 1, lambda document: document.metadata["n"] < 10)[0]
    pairs: list[tuple[Document, float]] = store.max_marginal_relevance_search_with_score("text 7", k=3)
    store.collection.search(store.embeddings.embed_query("text 7"), 1)
print(len(ids), found[0].id, first.id, len(pairs), counted.records < 50)
'''


@pytest.fixture
def program(tmp_path: Path) -> Path:
    file = tmp_path / "program.py"
    file.write_text(PROGRAM)
    return file


@pytest.mark.long
def test_a_program_runs_quietly_with_warnings_as_errors_and_without_assertions(program: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-W", "error", "-O", program.name],
        cwd=program.parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "integrations")])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.stdout, run.stderr) == ("300 7 7 3 True\n", "")


@pytest.mark.slow
def test_strict_types_of_a_program(program: Path) -> None:
    api = pytest.importorskip("mypy.api")
    said, errors, status = api.run(
        ["--strict", "--follow-imports=silent", f"--cache-dir={program.parent}", "--no-error-summary", str(program)]
    )
    assert (said, errors, status) == ("", "", 0)
