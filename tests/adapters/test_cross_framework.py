"""One folder, two frameworks: what LangChain writes LlamaIndex reads, and the other way round."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from llama_index.core import VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode

import bqstore
from langchain_bqstore import BQVectorStore as LangChainStore
from llama_index.vector_stores.bqstore import BQVectorStore as LlamaIndexStore


def embedded(text: str) -> list[float]:
    seed = zlib.crc32(text.encode())
    return np.random.default_rng(seed).standard_normal(80).astype(np.float32).tolist()


class ForLangChain(Embeddings):
    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [embedded(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return embedded(text)


class ForLlamaIndex(BaseEmbedding):
    def _get_text_embedding(self, text: str) -> list[float]:
        return embedded(text)

    def _get_query_embedding(self, query: str) -> list[float]:
        return embedded(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return embedded(query)


TEXTS = [f"passage {i}, with a word of its own: {i * 7919 % 1000}" for i in range(200)]
METADATAS: list[dict[str, Any]] = [
    {"page": i, "even": i % 2 == 0, "tags": ["a", "b"], "nested": {"title": f"T{i}"}, "none": None} for i in range(200)
]
IDS = [f"id-{i}" for i in range(200)]
QUESTION = "what is in the passages?"
SETTINGS: dict[str, Any] = {"full_scan_threshold": 0, "oversampling": 4.0, "embedding_model": "random"}

Answer = list[tuple[str | None, str, dict[str, Any], float | None]]


def by_langchain(folder: Path, **kwargs: Any) -> Answer:
    with LangChainStore(ForLangChain(), path=folder, read_only=True, **SETTINGS) as store:
        found = store.similarity_search_with_score(QUESTION, k=20, **kwargs)
    return [(doc.id, doc.page_content, doc.metadata, score) for doc, score in found]


def by_llama_index(folder: Path, **kwargs: Any) -> Answer:
    with LlamaIndexStore(path=folder, read_only=True, **SETTINGS) as store:
        index = VectorStoreIndex.from_vector_store(store, embed_model=ForLlamaIndex())
        found = index.as_retriever(similarity_top_k=20, vector_store_kwargs=kwargs).retrieve(QUESTION)
    return [(node.node_id, node.get_content(), node.metadata, node.score) for node in found]


def write_with_langchain(folder: Path) -> None:
    with LangChainStore(ForLangChain(), path=folder, **SETTINGS) as store:
        store.add_texts(TEXTS, METADATAS, ids=IDS)


def write_with_llama_index(folder: Path) -> None:
    source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id="source")}
    nodes = [
        TextNode(id_=id_, text=text, metadata=metadata, relationships=source, start_char_idx=3)
        for id_, text, metadata in zip(IDS, TEXTS, METADATAS, strict=True)
    ]
    for node in nodes:
        node.embedding = embedded(node.text)
    with LlamaIndexStore(path=folder, **SETTINGS) as store:
        store.add(nodes)


@pytest.fixture(scope="module", params=[write_with_langchain, write_with_llama_index])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same documents, written through one framework."""
    path: Path = tmp_path_factory.mktemp("store")
    request.param(path)
    return path


@pytest.mark.parametrize(
    "kwargs",
    [{}, {"exact": True}, {"oversampling": 1}, {"rescore": False}, {"filter": {"even": True, "page": [4, 5, 6]}}],
)
def test_both_read_the_same(folder: Path, kwargs: dict[str, Any]) -> None:
    found = by_langchain(folder, **kwargs)
    assert found == by_llama_index(folder, **kwargs)
    assert len(found) == (2 if "filter" in kwargs else 20)
    for id_, text, metadata, score in found:
        i = IDS.index(id_ or "")
        assert (text, metadata) == (TEXTS[i], METADATAS[i])
        assert type(score) is float


@pytest.mark.parametrize("filter", [{"page": {"$lt": 90}, "tags": {"$all": ["a", "b"]}}, {"$not": {"even": True}}])
def test_both_choose_the_same_by_mmr(folder: Path, filter: dict[str, Any]) -> None:
    with LangChainStore(ForLangChain(), path=folder, read_only=True, **SETTINGS) as store:
        kwargs = {"k": 8, "fetch_k": 32, "lambda_mult": 0.3, "filter": filter}
        documents = store.as_retriever(search_type="mmr", search_kwargs=kwargs).invoke(QUESTION)
    with LlamaIndexStore(path=folder, read_only=True, **SETTINGS) as store:
        index = VectorStoreIndex.from_vector_store(store, embed_model=ForLlamaIndex())
        kwargs = {"mmr_threshold": 0.3, "mmr_prefetch_factor": 4, "filter": filter}
        nodes = index.as_retriever(
            similarity_top_k=8, vector_store_query_mode="mmr", vector_store_kwargs=kwargs
        ).retrieve(QUESTION)
    assert [document.id for document in documents] == [node.node_id for node in nodes]
    assert len(nodes) == 8


def test_the_core_reads_the_same(folder: Path) -> None:
    with bqstore.open(folder, read_only=True) as col:
        hits = col.search(embedded(QUESTION), k=20, exact=True)
    assert [(hit.id, hit.text, hit.score) for hit in hits] == [
        (id_, text, score) for id_, text, _, score in by_langchain(folder, exact=True)
    ]


def test_each_may_change_what_the_other_wrote(tmp_path: Path) -> None:
    write_with_llama_index(tmp_path)
    with LangChainStore(ForLangChain(), path=tmp_path, **SETTINGS) as lang:
        lang.delete(["id-0"])
        lang.add_documents([Document(id="id-1", page_content="rewritten", metadata={"by": "LangChain"})])
        (document,) = lang.get_by_ids(["id-2"])
        assert document == Document(id="id-2", page_content=TEXTS[2], metadata=METADATAS[2])
    with LlamaIndexStore(path=tmp_path, **SETTINGS) as llama:
        first, second = llama.get_nodes(["id-0", "id-1", "id-2"], with_vectors=False)
        assert first == TextNode(id_="id-1", text="rewritten", metadata={"by": "LangChain"})
        assert (second.ref_doc_id, second.metadata) == ("source", METADATAS[2])
        llama.delete("source")  # what LangChain rewrote has no source any more
        assert [node.node_id for node in llama.get_nodes()] == ["id-1"]
        llama.delete_nodes(["id-1"])
    with LangChainStore(ForLangChain(), path=tmp_path, **SETTINGS) as lang:
        assert lang.similarity_search(QUESTION) == []
        lang.add_texts(TEXTS[:3], ids=IDS[:3])
    with LlamaIndexStore(path=tmp_path, **SETTINGS) as llama:
        assert [node.get_content() for node in llama.get_nodes(IDS[:3])] == TEXTS[:3]
