"""`BQVectorStore` on a collection that is open already, two stores on one folder, and how searches are told of."""

import copy
import multiprocessing
import pickle
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import MockEmbedding, VectorStoreIndex
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.schema import ImageNode, IndexNode, NodeRelationship, TextNode
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters, VectorStoreQuery
from llama_index.core.vector_stores.types import VectorStoreQueryMode

import bqstore
from llama_index.vector_stores.bqstore import BQVectorStore, SearchEvent


def node(id_: str, **metadata: Any) -> TextNode:
    return TextNode(id_=id_, text=id_, metadata=metadata, embedding=[1.0, float(ord(id_))])


def ids(store: BQVectorStore) -> list[str]:
    return [each.node_id for each in store.get_nodes(with_vectors=False)]


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_an_open_collection_is_lent(tmp_path: Path, where: str) -> None:
    with bqstore.open(None if where == "memory" else tmp_path, "mine") as collection:
        with BQVectorStore(collection=collection) as store, BQVectorStore.from_collection(collection) as other:
            store.add([node("a")])
            other.add([node("b")])
            assert ids(store) == ids(other) == ["a", "b"] and store.client is other.collection is collection
            assert store.collection_name == "mine" and (store.path is None) == (where == "memory")
        assert collection.count() == 2  # closing the stores has left it open
        with pickle.loads(pickle.dumps(store)) as again:
            assert ids(again) == ["a", "b"]
        assert copy.deepcopy(store).collection is collection
        if where == "disk":
            with BQVectorStore.from_dict(store.to_dict()) as again:
                assert ids(again) == ["a", "b"] and again.to_dict() == store.to_dict()
    with pytest.raises(bqstore.ClosedError):
        store.get_nodes()


def test_what_is_no_open_collection_is_refused(tmp_path: Path) -> None:
    for given in ("docs", 5):
        with pytest.raises(bqstore.UnknownKeywordError, match=r"did you mean 'collection_name'\?"):
            BQVectorStore(tmp_path / "new", collection=given)  # type: ignore[arg-type]
    with bqstore.open() as collection:
        for settings in ({"path": tmp_path / "new"}, {"oversampling": 5.0}, {"read_only": True}):
            with pytest.raises(bqstore.InvalidInputError, match=f"{next(iter(settings))} is given beside collection="):
                BQVectorStore(collection=collection, **settings)  # type: ignore[arg-type]
    assert not (tmp_path / "new").exists()


def test_a_cell_that_runs_twice_opens_the_same_collection(tmp_path: Path) -> None:
    first = BQVectorStore(tmp_path)
    first.add([node("a")])
    second = BQVectorStore(tmp_path)
    second.add([node("b")])
    assert ids(first) == ids(second) == ["a", "b"]
    first.close()
    assert ids(second) == ["a", "b"]
    second.close()


def count_in_a_worker(store: BQVectorStore, id_: str) -> int:
    store.add([node(id_)])
    return len(store.get_nodes())


@pytest.mark.slow
def test_a_store_is_sent_to_the_processes_of_a_pool(tmp_path: Path) -> None:
    with BQVectorStore(tmp_path, oversampling=5.0) as store:
        store.add([node("a")])
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            assert pool.submit(count_in_a_worker, store, "b").result() == 2
        assert ids(store) == ["a", "b"]


# ---- nodes as older versions of LlamaIndex, or of this adapter, have left them


OLD: dict[str, tuple[dict[str, Any], type[TextNode]]] = {
    # content that older versions wrote: other names of fields, fields that are no more, fields that were not yet
    "a text": (
        {
            "class_name": "TextNode", "metadata_seperator": " | ", "hash": "abc", "start_char_idx": 3,
            "relationships": {"1": {"node_id": "doc", "node_type": "4", "metadata": {}, "hash": "x"}},
        },
        TextNode,
    ),
    "an image": ({"class_name": "ImageNode", "image_url": "https://example.org/a.png"}, ImageNode),
    "a pointer": ({"class_name": "IndexNode", "index_id": "there"}, IndexNode),
    "of a version to come": ({"class_name": "ShinyNode", "shine": 5}, TextNode),
    "nothing": ({}, TextNode),
}  # fmt: skip


@pytest.mark.parametrize("name", OLD)
def test_nodes_of_older_versions_are_kept(name: str) -> None:
    content, cls = OLD[name]
    with BQVectorStore() as store:
        metadata = {"lang": "en", "_bq_node": content}
        store.collection.add([[1.0, 2.0]], ids=["n"], texts=["The text."], metadatas=[metadata])
        (found,) = store.get_nodes(["n"])
        assert type(found) is cls and found.get_content() == "The text."
        assert (found.metadata, found.embedding) == ({"lang": "en"}, [1.0, 2.0])
        if name == "a text":
            assert found.ref_doc_id == "doc" and found.metadata_separator == " | "
            assert NodeRelationship.SOURCE in found.relationships
        if isinstance(found, IndexNode):
            assert found.index_id == "there"
        if isinstance(found, ImageNode):
            assert found.image_url == "https://example.org/a.png"
        store.add([found])  # and may be added again
        assert store.get_nodes(["n"]) == [found]


# ---- what is told of a search


class Keeps(BaseEventHandler):
    events: list[Any]

    def handle(self, event: Any, **kwargs: Any) -> None:
        self.events.append(event)


@pytest.fixture
def handler() -> Iterator[Keeps]:
    root, kept = get_dispatcher(), Keeps(events=[])
    root.add_event_handler(kept)
    yield kept
    root.event_handlers.remove(kept)


def test_explain_tells_how_a_query_is_done() -> None:
    with BQVectorStore() as store:
        store.add([node("a", n=1), node("b", n=2)])
        filters = MetadataFilters(filters=[MetadataFilter(key="n", value=2)])
        how = store.explain(VectorStoreQuery(query_embedding=[1.0, 1.0], filters=filters), exact=True)
        assert (how.way, how.accepted, how.selectivity) == ("exact", 1, 0.5)
        for given in (
            VectorStoreQuery(query_embedding=[1.0, 1.0], mode=VectorStoreQueryMode.MMR),
            VectorStoreQuery(filters=filters),
        ):
            with pytest.raises(bqstore.InvalidInputError, match="are explained"):
                store.explain(given)
        with pytest.raises(bqstore.UnknownKeywordError, match=r"'explain': store\.explain\(query\) tells it"):
            store.query(VectorStoreQuery(query_embedding=[1.0, 1.0]), explain=True)


async def test_handlers_of_events_are_told_of_each_search(handler: Keeps) -> None:
    with BQVectorStore() as store:
        store.add([node("a"), node("b")])
        retriever = VectorStoreIndex.from_vector_store(store, embed_model=MockEmbedding(embed_dim=2)).as_retriever(
            similarity_top_k=5
        )
        assert [each.node_id for each in retriever.retrieve("what?")] == ["a", "b"]
        assert len(await retriever.aretrieve("what?")) == 2
        first, second = (event for event in handler.events if isinstance(event, SearchEvent))
        for event in (first, second):
            assert (event.similarity_top_k, event.found, event.explanation.way) == (5, 2, "exact")
            assert event.model_dump()["explanation"]["accepted"] == 2
        names = [event.class_name() for event in handler.events]
        assert names.index("RetrievalStartEvent") < names.index("SearchEvent") < names.index("RetrievalEndEvent")
        assert str(first.span_id).startswith("VectorIndexRetriever._retrieve-")
        assert str(second.span_id).startswith("VectorIndexRetriever._aretrieve-")  # from a thread, too


def test_searches_that_nobody_watches_are_not_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    explained: list[Any] = []
    search = bqstore.Collection.search

    def noting(*args: Any, **kwargs: Any) -> Any:
        explained.append(kwargs.get("explain"))
        return search(*args, **kwargs)

    monkeypatch.setattr(bqstore.Collection, "search", noting)
    with BQVectorStore() as store:
        store.add([node("a")])
        store.query(VectorStoreQuery(query_embedding=[1.0, 1.0]))
    assert explained == [False]


@pytest.mark.parametrize(
    ("keyword", "here"),
    [
        ("enable_hybrid", "text_index=True"),
        ("client", "an open bqstore.Collection goes into collection="),
        ("chroma_collection", "an open bqstore.Collection goes into collection="),
        ("persist_dir", "here it is path"),
        ("uri", "here it is path"),
        ("table_name", "here it is collection_name"),
        ("index_name", "here it is collection_name"),
        ("embed_dim", "here it is dim"),
        ("faiss_index", "path= holds all of it"),
        ("similarity_metric", 'distance="euclid"'),
        ("api_key", "there is no server"),
        ("embedding", "the index embeds: VectorStoreIndex"),
    ],
)
def test_a_keyword_of_another_store_was_answered_with_all_keywords(tmp_path: Path, keyword: str, here: str) -> None:
    with pytest.raises(bqstore.UnknownKeywordError, match=f"the store has no keyword '{keyword}': .*{here}"):
        BQVectorStore(tmp_path / "new", **{keyword: "x"})
    assert not (tmp_path / "new").exists()


def test_a_name_beside_an_open_collection_was_ignored() -> None:
    with (
        bqstore.open() as collection,
        pytest.raises(bqstore.InvalidInputError, match="collection_name is given beside"),
    ):
        BQVectorStore(collection=collection, collection_name="other")
