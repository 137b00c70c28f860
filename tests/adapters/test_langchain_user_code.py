"""What a user's own tools say of a program that uses the store: warnings, the log, python -O, strict types."""

import json
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
from langchain_core.indexing import index

from langchain_bqstore import BQByteStore, BQRecordManager, BQRetriever, BQVectorStore


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


async def others() -> None:
    store = BQVectorStore(DeterministicFakeEmbedding(size=64))
    with BQRecordManager("n", vector_store=store) as records, BQByteStore() as parts:
        index(list(documents()), records, store, cleanup="full", source_id_key="n", key_encoder="sha256")
        parts.mset([("a", b"b")])
    added: list[str] = await store.aadd_texts(["a"], [{"n": 1}], ids=["1"])
    docs: list[Document] = await store.asimilarity_search("a", 1, filter={"n": 1})
    more = await store.amax_marginal_relevance_search("a", 1)
    store.update_documents(["1"], docs)
    print(added, docs, more, store.get(["1"])["ids"])
'''
LLAMA_INDEX = """
from llama_index.core import MockEmbedding, StorageContext, VectorStoreIndex
from llama_index.core.schema import BaseNode, TextNode
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters, VectorStoreQuery
from llama_index.core.vector_stores.types import VectorStoreQueryResult

import bqstore
from llama_index.vector_stores.bqstore import BQDocumentStore, BQIndexStore, BQKVStore, BQVectorStore


def main() -> None:
    with BQVectorStore("store", oversampling=4.0) as store:
        ids: list[str] = store.add([TextNode(id_="1", text="one", embedding=[1.0, 0.0])])
        result: VectorStoreQueryResult = store.query(VectorStoreQuery(query_embedding=[1.0, 0.0]), exact=True)
        nodes: list[BaseNode] = store.get_nodes(
            ["1"], MetadataFilters(filters=[MetadataFilter(key="n", value=1)]), with_vectors=False
        )
        collection: bqstore.Collection = store.collection
        way: str = store.explain(VectorStoreQuery(query_embedding=[1.0, 0.0])).way
        context = StorageContext.from_defaults(
            vector_store=store, docstore=BQDocumentStore("store"), index_store=BQIndexStore("store")
        )
        index = VectorStoreIndex.from_vector_store(store, embed_model=MockEmbedding(embed_dim=2))
        store.delete_nodes(["1"])
        print(ids, result.ids, nodes, len(collection), way, context, index)
    with BQKVStore() as values:
        values.put("a", {"b": 1})
        print(values.get("a"))


async def twins() -> None:
    store = BQVectorStore.from_params()
    ids: list[str] = await store.async_add([TextNode(id_="1", text="one", embedding=[1.0, 0.0])])
    result = await store.aquery(VectorStoreQuery(query_embedding=[1.0, 0.0]))
    await store.adelete_nodes(ids)
    print(result.ids)
"""


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
@pytest.mark.parametrize("text", [PROGRAM, LLAMA_INDEX], ids=["langchain", "llama_index"])
def test_strict_types_of_a_program(program: Path, text: str) -> None:
    api = pytest.importorskip("mypy.api")
    program.write_text(text)
    said, errors, status = api.run(
        ["--strict", "--follow-imports=silent", f"--cache-dir={program.parent}", "--no-error-summary", str(program)]
    )
    assert (said, errors, status) == ("", "", 0)


@pytest.mark.slow
@pytest.mark.parametrize("text", [PROGRAM, LLAMA_INDEX], ids=["langchain", "llama_index"])
def test_strict_types_of_a_program_as_pyright_has_them(program: Path, text: str) -> None:
    pytest.importorskip("pyright", reason="in the extra peers, with the node that it needs")
    program.write_text(text)
    settings = {"typeCheckingMode": "strict", "extraPaths": [str(ROOT), str(ROOT / "integrations")]}
    (program.parent / "pyrightconfig.json").write_text(json.dumps(settings))
    run = subprocess.run(
        [sys.executable, "-m", "pyright", "-p", program.parent, "--pythonpath", sys.executable],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout
    assert "0 errors, 0 warnings" in run.stdout
