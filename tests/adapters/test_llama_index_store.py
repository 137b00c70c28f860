"""LlamaIndex's `BQVectorStore` by itself: nodes, queries, filters, settings, errors."""

import asyncio
import copy
import os
import pickle
import subprocess
import sys
import threading
import traceback
import zlib
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama_index.core.schema import (
    BaseNode,
    Document,
    ImageNode,
    IndexNode,
    MediaResource,
    Node,
    NodeRelationship,
    ObjectType,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.vector_stores import (
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryResult,
)
from llama_index.core.vector_stores.types import VectorStoreQueryMode
from llama_index.core.vector_stores.utils import metadata_dict_to_node, node_to_metadata_dict

import bqstore
from bqstore import clock
from llama_index.vector_stores.bqstore import BQVectorStore
from tests.adapters.llama_index_versions import INDEX_NODES, SEPARATORS, since

DIM = 64


def vectors(n: int, seed: int = 0) -> list[list[float]]:
    return np.random.default_rng(seed).standard_normal((n, DIM)).astype(np.float32).tolist()


def text_node(id_: str, source: str | None = None, embedding: list[float] | None = None, **metadata: Any) -> TextNode:
    relationships = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id=source)} if source else {}
    embedding = embedding or vectors(1, seed=zlib.crc32(id_.encode()))[0]
    return TextNode(id_=id_, text=f"text of {id_}", metadata=metadata, embedding=embedding, relationships=relationships)


def ask(k: int = 10, embedding: list[float] | None = None, **given: Any) -> VectorStoreQuery:
    return VectorStoreQuery(query_embedding=embedding or vectors(1)[0], similarity_top_k=k, **given)


def found(result: VectorStoreQueryResult) -> set[str]:
    return set(result.ids or [])


def eq(key: str, value: Any, operator: FilterOperator = FilterOperator.EQ) -> MetadataFilters:
    return MetadataFilters(filters=[MetadataFilter(key=key, value=value, operator=operator)])


@pytest.fixture
def store() -> Any:
    """A store in memory. Tests of what is on disk open their own."""
    with BQVectorStore() as opened:
        yield opened


@pytest.fixture
def filled(store: BQVectorStore) -> BQVectorStore:
    store.add(
        [
            text_node("a1", "doc-a", lang="en", year=2023, draft=True, tags=["x", "y"]),
            text_node("a2", "doc-a", lang="en", year=2024, draft=False, tags=["y"]),
            text_node("b1", "doc-b", lang="de", year=2024, draft=1),
            text_node("c1", lang="fr"),
        ]
    )
    return store


# ---- nodes

FULL: dict[str, Any] = {
    "metadata": {"page": 3, "nested": {"a": [1, None, 2.5]}, "title": "Zwölf", "doc_id": "the user's own"},
    "excluded_embed_metadata_keys": ["page"],
    "excluded_llm_metadata_keys": ["title"],
    "metadata_template": "{key} => {value}",
    "metadata_separator": " | ",
    "text_template": "<<{metadata_str}>> {content}",
    "relationships": {
        NodeRelationship.SOURCE: RelatedNodeInfo(
            node_id="doc", node_type=ObjectType.DOCUMENT, metadata={"page": 3}, hash="h"
        ),
        NodeRelationship.NEXT: RelatedNodeInfo(node_id="next", node_type=ObjectType.TEXT),
        NodeRelationship.CHILD: [RelatedNodeInfo(node_id="c1"), RelatedNodeInfo(node_id="c2")],
    },
}

NODES = {
    "TextNode": TextNode(text="a text\nof two lines", start_char_idx=7, end_char_idx=26, mimetype="text/html", **FULL),
    "bare TextNode": TextNode(),
    "ImageNode": ImageNode(
        text="a caption", image="aGVsbG8=", image_path="cat.png", image_url="http://x/cat.png", text_embedding=[1.0]
    ),
    "IndexNode": IndexNode(text="see there", index_id="there", **FULL),
    "IndexNode of a node": IndexNode(text="see it", index_id="it", obj=TextNode(id_="it", text="it itself")),
    "Node": Node(
        text_resource=MediaResource(text="what is said", mimetype="text/plain"),
        image_resource=MediaResource(data=b"\x89PNG\r\n\x1a\n\x00\x00", url="https://example.org/a.png"),
        audio_resource=MediaResource(path=Path("a.mp3")),
        **FULL,
    ),
    "Node without text": Node(image_resource=MediaResource(data=b"\x00\xff", mimetype="image/x")),
    "Document": Document(id_="doc-1", text="a whole document", metadata={"k": "v"}),
    "empty Document": Document(text="", id_="doc-2"),
}


LATER = {
    **dict.fromkeys(("TextNode", "IndexNode"), since(SEPARATORS, "a text node keeps its separator in JSON")),
    "IndexNode of a node": since(INDEX_NODES, "an IndexNode keeps its node in JSON"),
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=LATER.get(name, ())) for name in NODES])
def test_nodes_come_back_equal(tmp_path: Path, name: str) -> None:
    given = NODES[name].model_copy()
    given.embedding = [1.0, -2.0, 0.5]
    with BQVectorStore(tmp_path) as store:
        assert store.add([given]) == [given.node_id]
    with BQVectorStore(tmp_path) as store:
        (back,) = store.get_nodes([given.node_id])
        (bare,) = store.get_nodes([given.node_id], with_vectors=False)
        (hit,) = store.query(ask(embedding=[1.0, -2.0, 0.5])).nodes or []
        (whole,) = store.query(ask(embedding=[1.0, -2.0, 0.5]), with_vectors=True).nodes or []
    assert type(back) is type(given)
    assert bare == hit == NODES[name]
    assert back.hash == given.hash
    assert back == whole == given  # with the embedding


def test_a_class_of_the_users_own_comes_back_as_the_class_below() -> None:
    class Passage(TextNode):
        chapter: int = 0

        @classmethod
        def class_name(cls) -> str:
            return "Passage"

    class Slide(Node):
        @classmethod
        def class_name(cls) -> str:
            return "Slide"

    class Row(BaseNode):
        cells: list[str]

        @property
        def hash(self) -> str:
            return ""

        def get_type(self) -> str:
            return "row"

        def get_content(self, metadata_mode: Any = None) -> str:
            return ", ".join(self.cells)

        def get_content_blocks(self, metadata_mode: Any = None) -> list[Any]:
            return []

        def set_content(self, value: Any) -> None:
            self.cells = value

    with BQVectorStore() as store:
        store.add(
            [
                Passage(id_="p", text="said", chapter=4, embedding=[1.0]),
                Slide(id_="s", text_resource=MediaResource(text="shown"), embedding=[1.0]),
                Row(id_="r", cells=["a", "b"], embedding=[1.0]),
            ]
        )
        passage, slide, row = store.get_nodes(["p", "s", "r"])
    assert (type(passage), passage.get_content()) == (TextNode, "said")
    assert (type(slide), slide.get_content()) == (Node, "shown")
    assert (type(row), row.get_content()) == (TextNode, "a, b")


def test_the_row_holds_nothing_twice_and_no_foreign_metadata(store: BQVectorStore) -> None:
    store.add([TextNode(id_="n", text="THE TEXT", embedding=[1.0], **FULL)])
    (record,) = store.collection.get(["n"])
    assert record.text == "THE TEXT"
    public = {key: value for key, value in record.metadata.items() if not key.startswith(bqstore.PRIVATE_PREFIX)}
    assert public == FULL["metadata"]
    private = {key: value for key, value in record.metadata.items() if key not in public}
    assert private.keys() == {"_bq_node", bqstore.REF_DOC_ID_KEY}
    assert private["_bq_node"].keys().isdisjoint({"id_", "text", "metadata", "embedding"})
    assert "THE TEXT" not in str(private)


def test_metadata_changed_in_the_core_is_the_nodes(filled: BQVectorStore) -> None:
    filled.collection.update_metadata(["a1"], {"lang": "it"})
    (node,) = filled.get_nodes(["a1"])
    assert node.metadata["lang"] == "it"
    assert node.ref_doc_id == "doc-a"


def test_content_in_the_style_of_other_stores_is_not_mistaken_for_ours(store: BQVectorStore) -> None:
    """Metadata named as other stores name theirs is the user's."""
    inner = TextNode(id_="inner", text="inner")
    metadata = node_to_metadata_dict(inner)
    store.add([TextNode(id_="outer", text="outer", metadata=metadata, embedding=[1.0])])
    (back,) = store.get_nodes(["outer"])
    assert (back.node_id, back.get_content(), back.metadata) == ("outer", "outer", metadata)
    assert metadata_dict_to_node(back.metadata) == inner


# ---- writing


def test_add_is_an_upsert_and_durable(tmp_path: Path) -> None:
    store = BQVectorStore(tmp_path)
    assert store.add([text_node("n", v=1), text_node("m"), text_node("n", v=2)]) == ["n", "m", "n"]
    assert store.add([text_node("m", v=3)]) == ["m"]
    assert store.add([]) == []
    copied = BQVectorStore(tmp_path, read_only=True)  # sees what is committed, nothing else
    assert {node.node_id: node.metadata for node in copied.get_nodes()} == {"n": {"v": 2}, "m": {"v": 3}}
    copied.close()
    store.close()


def test_delete_by_source_document(filled: BQVectorStore) -> None:
    filled.delete("doc-a")
    filled.delete("unknown")
    assert {node.node_id for node in filled.get_nodes()} == {"b1", "c1"}
    filled.delete("c1")  # a node that has no source is its own
    assert {node.node_id for node in filled.get_nodes()} == {"b1"}


@pytest.mark.parametrize("bad", [None, ["doc-a"], 3])
def test_delete_takes_one_document(filled: BQVectorStore, bad: Any) -> None:
    with pytest.raises(bqstore.InvalidInputError, match="ref_doc_id is of type"):
        filled.delete(bad)
    assert len(filled.get_nodes()) == 4


def test_delete_nodes(filled: BQVectorStore) -> None:
    filled.delete_nodes([])
    filled.delete_nodes(["unknown"])
    assert len(filled.get_nodes()) == 4
    filled.delete_nodes(["a1", "b1"], eq("lang", "en"))
    assert {node.node_id for node in filled.get_nodes()} == {"a2", "b1", "c1"}
    filled.delete_nodes(filters=eq("lang", "de"))
    filled.delete_nodes(["a2"])
    assert {node.node_id for node in filled.get_nodes()} == {"c1"}
    for nothing in (None, MetadataFilters(filters=[])):
        with pytest.raises(bqstore.InvalidInputError, match="clear"):
            filled.delete_nodes(filters=nothing)


@pytest.mark.parametrize("call", ["delete", "delete_nodes"])
def test_a_deletion_ignores_no_keyword(filled: BQVectorStore, call: str) -> None:
    with pytest.raises(bqstore.UnknownKeywordError, match=rf"{call}\(\) has no keyword 'filter'"):
        getattr(filled, call)("doc-a", filter={"lang": "en"})
    assert len(filled.get_nodes()) == 4


def test_clear(filled: BQVectorStore) -> None:
    filled.clear()
    assert filled.get_nodes() == []
    assert filled.query(ask()) == VectorStoreQueryResult(nodes=[], similarities=[], ids=[])
    filled.add([text_node("a1")])
    assert len(filled.get_nodes()) == 1


# ---- reading


def test_get_nodes(filled: BQVectorStore) -> None:
    assert [node.node_id for node in filled.get_nodes(["c1", "unknown", "a1"])] == ["c1", "a1"]
    assert filled.get_nodes([]) == []
    assert [node.node_id for node in filled.get_nodes()] == ["a1", "a2", "b1", "c1"]
    assert [node.node_id for node in filled.get_nodes(filters=eq("lang", "en"))] == ["a1", "a2"]
    assert [node.node_id for node in filled.get_nodes(["a2", "b1"], eq("lang", "en"))] == ["a2"]
    assert filled.get_nodes([], eq("lang", "en")) == []


def test_query_gives_python_floats_nearest_first(filled: BQVectorStore) -> None:
    target = filled.collection.get(["b1"], with_vectors=True)[0].vector
    assert target is not None
    result = filled.query(ask(3, target.tolist()))
    assert result.ids is not None and result.similarities is not None and result.nodes is not None
    assert result.ids[0] == "b1"
    assert [node.node_id for node in result.nodes] == result.ids
    assert result.similarities == sorted(result.similarities, reverse=True)
    assert all(type(score) is float for score in result.similarities)
    assert result.similarities[0] == pytest.approx(1.0, abs=1e-6)
    assert all(node.embedding is None for node in result.nodes)


def test_nothing_found_is_three_empty_lists(store: BQVectorStore) -> None:
    empty = VectorStoreQueryResult(nodes=[], similarities=[], ids=[])
    assert store.query(ask()) == empty
    store.add([text_node("a")])
    assert store.query(ask(filters=eq("lang", "xx"))) == empty
    assert store.query(ask(), score_threshold=0.9999) == empty


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"a1", "a2", "b1", "c1"}),
        ({"node_ids": []}, {"a1", "a2", "b1", "c1"}),  # what retrievers send
        ({"node_ids": ["a1", "c1", "unknown"]}, {"a1", "c1"}),
        ({"doc_ids": ["doc-a"]}, {"a1", "a2"}),
        ({"doc_ids": ["doc-b", "c1", "unknown"]}, {"b1", "c1"}),
        ({"doc_ids": []}, {"a1", "a2", "b1", "c1"}),
        ({"doc_ids": ["doc-a"], "node_ids": ["a2", "b1"]}, {"a2"}),
        ({"doc_ids": ["doc-a"], "filters": eq("year", 2024)}, {"a2"}),
    ],
)
def test_query_by_ids(filled: BQVectorStore, given: dict[str, Any], expected: set[str]) -> None:
    assert found(filled.query(ask(**given))) == expected


IN = FilterOperator.IN


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (eq("lang", "en"), {"a1", "a2"}),
        (eq("year", 2024), {"a2", "b1"}),
        (eq("year", 2024.0), {"a2", "b1"}),
        (eq("year", "2024"), set()),
        (eq("draft", 1), {"a1", "b1"}),  # True too: MetadataFilter takes no booleans
        (eq("draft", 0), {"a2"}),
        (eq("tags", "y"), {"a1", "a2"}),
        (eq("tags", ["y"]), {"a2"}),
        (eq("missing", "x"), set()),
        (eq("lang", ["en", "de"], IN), {"a1", "a2", "b1"}),
        (eq("lang", [], IN), set()),
        (eq("draft", [1, 5], IN), {"a1", "b1"}),
        (MetadataFilters(filters=[]), {"a1", "a2", "b1", "c1"}),
        (MetadataFilters(filters=[*eq("lang", "en").filters, *eq("year", 2024).filters]), {"a2"}),
        (MetadataFilters(filters=[eq("lang", "en"), eq("year", [2023, 2024], IN)], condition=None), {"a1", "a2"}),
    ],
)
def test_metadata_filters(filled: BQVectorStore, filters: MetadataFilters, expected: set[str]) -> None:
    assert found(filled.query(ask(filters=filters))) == expected
    assert {node.node_id for node in filled.get_nodes(filters=filters)} == expected


def test_filters_apply_inside_the_search(tmp_path: Path) -> None:
    """The k nearest of those that match, however few they are, also on the bits."""
    with BQVectorStore(tmp_path, full_scan_threshold=0) as store:
        store.add([text_node(f"n{i}", embedding=v, rare=i % 500 == 0) for i, v in enumerate(vectors(1000, 7))])
        assert found(store.query(ask(5, filters=eq("rare", 1)))) == {"n0", "n500"}


def conditions(*given: MetadataFilters) -> MetadataFilters:
    return MetadataFilters(filters=list(given))


@pytest.mark.parametrize(
    ("filters", "native", "expected"),
    [
        (conditions(eq("tags", "x"), eq("tags", "y")), None, {"a1"}),
        (conditions(eq("tags", "y"), eq("tags", "y")), None, {"a1", "a2"}),
        (conditions(eq("tags", "x"), conditions(eq("tags", "y"), eq("tags", "x"))), None, {"a1"}),
        (conditions(eq("tags", ["y"]), eq("tags", "y")), None, {"a2"}),
        (conditions(eq("tags", ["x", "y"]), eq("tags", ["x"], IN)), None, {"a1"}),
        (conditions(eq("tags", "x"), eq("tags", ["y", "z"], IN)), None, {"a1"}),
        (eq("tags", "y"), {"tags": "x"}, {"a1"}),
        (eq("tags", "y"), {"tags": {"$eq": ["y"]}}, {"a2"}),
        (eq("tags", "y"), {"tags": {"$eq": "y"}}, {"a1", "a2"}),
        (eq("lang", "en"), {"lang": "de"}, set()),
        (eq("lang", "en"), {"lang": ["en", "de"]}, {"a1", "a2"}),
        (eq("lang", ["en", "fr"], IN), {"lang": ("en",)}, {"a1", "a2"}),
        (eq("lang", []), {"lang": "en"}, set()),
        (eq("draft", 1), {"draft": True}, {"a1"}),  # 1 alone takes both
        (eq("draft", 1), {"draft": 1}, {"b1"}),
        (eq("draft", 1), {"draft": [1, 1]}, {"b1"}),  # equal to [1, True] to Python
        (conditions(eq("tags", "x"), eq("tags", "y"), eq("tags", "z")), None, set()),
        (conditions(eq("tags", ["x", "y"]), eq("tags", ["y"])), None, set()),
        (eq("tags", ["x", "z"], IN), {"tags": ["y", "z"]}, {"a1"}),  # not their intersection: the field has both
        (eq("year", 2024), {"year": {"$gt": 2023}}, {"a2", "b1"}),
    ],
)
def test_conditions_on_one_key_all_hold(
    filled: BQVectorStore, filters: MetadataFilters, native: Any, expected: set[str]
) -> None:
    assert found(filled.query(ask(filters=filters), filter=native)) == expected


@pytest.mark.parametrize(
    "native", [{"tags": {}}, {"tags": {"nested": 1}}, {"tags": {"$in": "y"}}, {"tags": {"$near": 1}}]
)
def test_a_malformed_native_filter_is_refused_beside_others(filled: BQVectorStore, native: Any) -> None:
    with pytest.raises(bqstore.InvalidInputError, match="on 'tags'"):
        filled.query(ask(filters=eq("tags", "x")), filter=native)


def test_ids_beside_a_filter_on_the_source(filled: BQVectorStore) -> None:
    query = ask(doc_ids=["doc-a", "doc-b"], filters=eq(bqstore.REF_DOC_ID_KEY, "doc-b"))
    assert found(filled.query(query)) == {"b1"}


def test_the_native_filter(filled: BQVectorStore) -> None:
    assert found(filled.query(ask(), filter={"draft": True})) == {"a1"}
    assert found(filled.query(ask(filters=eq("lang", "en")), filter={"year": [2024, 2025]})) == {"a2"}
    assert found(filled.query(ask(), filter={bqstore.REF_DOC_ID_KEY: "doc-b"})) == {"b1"}
    with pytest.raises(bqstore.InvalidInputError, match=r"filter is (a )?str"):
        filled.query(ask(), filter="lang = en")


def test_node_content_is_out_of_the_namespace_of_filters(filled: BQVectorStore) -> None:
    for key in ("_node_content", "_node_type", "document_id", "doc_id", "ref_doc_id"):
        assert filled.get_nodes(filters=eq(key, "None")) == []
    for key in ("class_name", "text"):
        assert filled.get_nodes(filters=eq(key, "TextNode")) == []
    with pytest.raises(bqstore.InvalidInputError, match="_bq_node"):
        filled.get_nodes(filters=eq("_bq_node.class_name", "TextNode"))


# ---- settings


@pytest.fixture(scope="module")
def on_bits(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A store in which the bits alone are often wrong: random vectors of few dimensions, and no full scan."""
    with BQVectorStore(tmp_path_factory.mktemp("bits"), full_scan_threshold=0, oversampling=1.0) as store:
        store.add([text_node(f"n{i}", embedding=vector) for i, vector in enumerate(vectors(2000, seed=1))])
        yield store


def recall(store: BQVectorStore, **kwargs: Any) -> float:
    queries = vectors(20, seed=2)
    truth = [found(store.query(ask(10, query), exact=True)) for query in queries]
    return sum(len(t & found(store.query(ask(10, q), **kwargs))) for q, t in zip(queries, truth, strict=True)) / 200


def test_every_setting_arrives_in_a_query(on_bits: BQVectorStore) -> None:
    poor = recall(on_bits)
    assert poor < 0.8
    assert poor < recall(on_bits, oversampling=4) < recall(on_bits, oversampling=30)
    assert recall(on_bits, exact=True) == 1.0
    assert recall(on_bits, ignore_quantization=True) == 1.0
    assert recall(on_bits, search_params={"exact": True, "hnsw_ef": 64}) == 1.0
    inner = {"quantization": {"oversampling": 4, "rescore": True, "ignore": False}}
    assert recall(on_bits, search_params=inner) == recall(on_bits, oversampling=4)
    # a keyword comes before the same in Qdrant's shape
    assert recall(on_bits, search_params=inner, oversampling=1) == poor
    assert recall(on_bits, hnsw_ef=100) >= poor

    query = ask(10, vectors(1, seed=2)[0])
    rescored, raw = on_bits.query(query), on_bits.query(query, rescore=False)
    assert rescored.similarities != raw.similarities
    limit = rescored.similarities[4] if rescored.similarities else 0.0
    assert len(found(on_bits.query(query, score_threshold=limit))) == 5


@pytest.mark.parametrize(
    ("keyword", "nearest"),
    [
        ("oversamplng", "oversampling"),
        ("ef", "hnsw_ef"),
        ("filters", "filter"),
        ("k", "similarity_top_k"),
        ("vector", "query_embedding"),
        ("similarity_top_k", "similarity_top_k"),
    ],
)
def test_an_unknown_setting_of_a_query_names_the_nearest(filled: BQVectorStore, keyword: str, nearest: str) -> None:
    with pytest.raises(bqstore.UnknownKeywordError, match=rf"{keyword}'.*{nearest}"):
        filled.query(ask(), **{keyword: 5})


def test_an_unknown_name_in_search_params_names_the_nearest(filled: BQVectorStore) -> None:
    with pytest.raises(bqstore.UnknownKeywordError, match="did you mean 'oversampling'"):
        filled.query(ask(), search_params={"quantization": {"oversample": 3}})


@pytest.mark.parametrize(
    ("keyword", "nearest"),
    [("oversamplng", "oversampling"), ("collection", "collection_name"), ("metric_distance", "distance")],
)
def test_an_unknown_keyword_of_the_store_names_the_nearest(tmp_path: Path, keyword: str, nearest: str) -> None:
    with pytest.raises(bqstore.UnknownKeywordError, match=f"{keyword}'; did you mean '{nearest}'"):
        BQVectorStore(tmp_path / "new", **{keyword: 5})
    assert not (tmp_path / "new").exists()


def test_the_settings_of_the_store(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "dim": 3,
        "distance": "euclid",
        "oversampling": 5.0,
        "rescore": False,
        "hnsw_ef": 50,
        "m": 8,
        "ef_construct": 99,
        "full_scan_threshold": 7,
        "encoding": "one_bit",
        "originals": "float16",
        "embedding_model": "a-model",
        "threads": 1,
    }
    with BQVectorStore(tmp_path, "docs", **settings) as store:
        info = store.collection.info()
        assert store.client is store.collection
    assert (info.dim, info.distance, info.originals, info.embedding_model) == (3, "euclid", "float16", "a-model")
    assert info.search == bqstore.SearchParams(oversampling=5.0, rescore=False, hnsw_ef=50)
    assert info.hnsw == bqstore.HnswConfig(m=8, ef_construct=99, full_scan_threshold=7)
    with BQVectorStore.from_params(str(tmp_path), "docs") as again:
        assert again.collection.info().search.oversampling == 5.0
    with pytest.raises(bqstore.SettingsConflictError, match="euclid"):
        BQVectorStore(tmp_path, "docs", distance="dot")


def test_several_collections_of_a_folder(tmp_path: Path) -> None:
    with BQVectorStore(tmp_path, "one") as one, BQVectorStore(tmp_path, collection_name="two") as two:
        one.add([text_node("a")])
        assert two.get_nodes() == []


def test_in_memory() -> None:
    with BQVectorStore() as store:
        store.add([text_node("a")])
        assert found(store.query(ask())) == {"a"}


# ---- errors


_MODES = VectorStoreQueryMode
KNOWN_MODES = (_MODES.DEFAULT, _MODES.MMR, _MODES.HYBRID, _MODES.SPARSE, _MODES.TEXT_SEARCH)


@pytest.mark.parametrize("mode", [mode for mode in VectorStoreQueryMode if mode not in KNOWN_MODES])
def test_other_query_modes_are_named(filled: BQVectorStore, mode: VectorStoreQueryMode) -> None:
    with pytest.raises(bqstore.InvalidInputError, match=f"query mode is '{mode.value}'"):
        filled.query(ask(mode=mode))


def test_a_query_without_embedding(filled: BQVectorStore) -> None:
    with pytest.raises(bqstore.InvalidInputError, match="the query has no embedding"):
        filled.query(VectorStoreQuery(query_str="hello"))


@pytest.mark.parametrize("k", [0, -1, 10_001])
def test_a_top_k_out_of_range(filled: BQVectorStore, k: int) -> None:
    with pytest.raises(bqstore.InvalidInputError, match="10,000"):
        filled.query(ask(k))


BAD_NODES: dict[str, tuple[BaseNode, str]] = {
    "no embedding": (TextNode(id_="bad", text="secret"), "node 'bad' has no embedding"),
    "dimension": (text_node("bad", embedding=[1.0, 2.0]), "2"),
    "NaN": (text_node("bad", embedding=[float("nan")] * DIM), "NaN"),
    "empty id": (TextNode(id_="", text="secret", embedding=[1.0] * DIM), "1 to 1,024"),
    "private key": (text_node("bad", _bq_mine="secret"), "_bq_mine"),
    "not JSON": (text_node("bad", thing=object()), "JSON"),
    "surrogate": (TextNode(id_="bad", text="\ud800", embedding=[1.0] * DIM), "surrogate"),
    "obj": (
        IndexNode(id_="bad", text="t", index_id="i", obj=object(), embedding=[1.0] * DIM),
        "'bad' of type IndexNode",
    ),
}


@pytest.mark.parametrize("name", BAD_NODES)
def test_a_bad_node_is_refused_before_anything_is_written(filled: BQVectorStore, name: str) -> None:
    node, message = BAD_NODES[name]
    with pytest.raises(bqstore.InvalidInputError) as caught:
        filled.add([text_node("good"), node])
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)
    assert len(filled.get_nodes()) == 4


def test_an_error_of_a_node_is_not_chained_to_one_that_quotes_it(store: BQVectorStore) -> None:
    class Said:
        def __repr__(self) -> str:
            return "the secret text"

    node = IndexNode(id_="bad", text="t", index_id="i", obj=Said(), embedding=[1.0] * DIM)
    with pytest.raises(bqstore.InvalidInputError) as caught:
        store.add([node])
    shown = "".join(traceback.format_exception(caught.value))
    assert "cannot be written as JSON" in shown and "the secret text" not in shown


def test_dates_in_metadata_are_dates(store: BQVectorStore) -> None:
    store.add([text_node("a", day=date(2024, 2, 29))])
    assert store.get_nodes(["a"])[0].metadata == {"day": date(2024, 2, 29)}


def test_closed_and_locked(tmp_path: Path) -> None:
    with BQVectorStore(tmp_path, exclusive=True) as store, pytest.raises(bqstore.LockedError):
        BQVectorStore(tmp_path)
    store.close()
    with pytest.raises(bqstore.ClosedError):
        store.query(ask())
    with BQVectorStore(tmp_path, read_only=True) as reader, pytest.raises(bqstore.ReadOnlyError):
        reader.add([text_node("a")])


BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r} or name.startswith({name!r} + "."):
            raise ModuleNotFoundError("No module named " + repr(name), name=name)

sys.meta_path.insert(0, Blocker())
try:
    import llama_index.vector_stores.bqstore
except ImportError as error:
    print(type(error).__name__, error)
"""


def import_without(name: str) -> str:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", BLOCKED.format(name=name)]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout


def test_a_missing_extra_is_named() -> None:
    assert (
        'ImportError llama_index.vector_stores.bqstore needs llama-index-core: pip install "bqstore[llama-index]"'
        in (import_without("llama_index.core"))
    )


def test_another_missing_module_is_not_mistaken_for_the_extra() -> None:
    assert import_without("pydantic").startswith("ModuleNotFoundError No module named 'pydantic'")


# ---- threads, event loop, serialization


async def test_async_methods_do_their_work_off_the_event_loop(
    filled: BQVectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, int]] = []
    for name in ("add", "delete", "clear", "get", "search", "scroll"):
        method = getattr(bqstore.Collection, name)

        def noting(*args: Any, _name: str = name, _method: Any = method, **kwargs: Any) -> Any:
            seen.append((_name, threading.get_ident()))
            return _method(*args, **kwargs)

        monkeypatch.setattr(bqstore.Collection, name, noting)

    assert await filled.async_add([text_node("d1", "doc-d", lang="en")]) == ["d1"]
    assert found(await filled.aquery(ask(filters=eq("lang", "en")), exact=True)) == {"a1", "a2", "d1"}
    assert [node.node_id for node in await filled.aget_nodes(["d1"])] == ["d1"]
    assert len(await filled.aget_nodes(filters=eq("lang", "en"))) == 3
    await filled.adelete("doc-d")
    await filled.adelete_nodes(["a1"], eq("lang", "en"))
    assert {node.node_id for node in await filled.aget_nodes()} == {"a2", "b1", "c1"}
    with pytest.raises(bqstore.UnknownKeywordError):
        await filled.adelete_nodes(["a2"], unknown=1)
    await filled.aclear()
    assert await filled.aget_nodes() == []
    assert {name for name, _ in seen} >= {"add", "delete", "clear", "search", "scroll", "get"}
    assert threading.get_ident() not in {ident for _, ident in seen}


async def test_many_async_calls_at_once(store: BQVectorStore) -> None:
    await asyncio.gather(*(store.async_add([text_node(f"n{i}")]) for i in range(20)))
    results = await asyncio.gather(*(store.aquery(ask(20)) for _ in range(20)))
    assert all(len(found(result)) == 20 for result in results)


def test_queries_from_many_threads_while_one_writes(filled: BQVectorStore) -> None:
    done = threading.Event()

    def read() -> int:
        rounds = 0
        while not done.is_set() or rounds == 0:
            result = filled.query(ask(3, filters=eq("lang", ["en", "de"], IN)))
            assert found(result) == {"a1", "a2", "b1"}
            rounds += 1
        return rounds

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read) for _ in range(4)]
        try:
            for i in range(30):
                filled.add([text_node(f"n{i}", "doc-n")])
            filled.delete("doc-n")
        finally:
            done.set()
        assert all(reader.result() > 0 for reader in readers)


def test_a_store_becomes_a_dictionary_and_back(tmp_path: Path) -> None:
    with BQVectorStore(tmp_path, "docs", oversampling=4.0, hnsw=bqstore.HnswConfig(m=8)) as store:
        store.add([text_node("a")])
        written = store.to_dict()
    assert written["class_name"] == BQVectorStore.class_name() == "BQVectorStore"
    with BQVectorStore.from_dict(written) as again:
        assert again.collection.info().search.oversampling == 4.0
        assert again.collection.info().hnsw.m == 8
        assert len(again.get_nodes()) == 1
    with BQVectorStore.from_json(store.to_json()) as again:
        assert again.to_dict() == written


def test_a_pickled_store_opens_its_folder_again(tmp_path: Path) -> None:
    with BQVectorStore(tmp_path) as store:
        store.add([text_node("a")])
    reader = BQVectorStore(tmp_path, read_only=True)
    with reader, pickle.loads(pickle.dumps(reader)) as again:
        assert len(again.get_nodes()) == 1
    with BQVectorStore(tmp_path) as store, pickle.loads(pickle.dumps(store)) as again:
        again.add([text_node("b")])
        assert len(store.get_nodes()) == 2


def test_a_relative_path_is_the_same_folder_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with BQVectorStore("store") as store:
        store.add([text_node("a")])
    reader = BQVectorStore(Path("store"), read_only=True)
    monkeypatch.chdir(tmp_path / "there")
    assert reader.path == reader.to_dict()["path"] == str(tmp_path / "here" / "store")
    with reader, pickle.loads(pickle.dumps(reader)) as again:
        assert len(again.get_nodes()) == 1
    assert list((tmp_path / "there").iterdir()) == []


def test_the_home_folder_in_a_path_is_written_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with BQVectorStore("~/store") as store:
        assert store.path == str(tmp_path / "store")
        assert Path(store.path).is_dir()
    assert BQVectorStore().path is None


def test_copies_share_the_open_collection(store: BQVectorStore) -> None:
    assert copy.copy(store).collection is store.collection
    assert copy.deepcopy({"store": store})["store"].collection is store.collection


def test_settings_do_not_change_by_assignment(store: BQVectorStore) -> None:
    with pytest.raises(ValueError, match="frozen"):
        store.oversampling = 9.0


def test_get_nodes_with_ids_and_filters_keeps_the_order_of_the_ids() -> None:
    with BQVectorStore() as store:
        store.add([TextNode(id_=name, text=name, metadata={"n": 1}, embedding=[1.0, 0.0]) for name in "abcd"])
        only = MetadataFilters(filters=[MetadataFilter(key="n", value=1)])
        assert [node.node_id for node in store.get_nodes(["d", "a", "z", "c"], only)] == ["d", "a", "c"]


def test_a_node_is_over_after_its_time_and_no_node_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    store, embeddings = BQVectorStore(), vectors(3)
    store.add([TextNode(id_="a", text="a", embedding=embeddings[0])], expires_at=60)
    own = {bqstore.EXPIRES_AT_KEY: 60, "n": 1}
    store.add([TextNode(id_=name, text=name, embedding=embeddings[1], metadata=own) for name in "b"])
    store.add([TextNode(id_="c", text="c", embedding=embeddings[2])])
    assert [node.metadata for node in store.get_nodes(["b"])] == [{"n": 1}]
    query = VectorStoreQuery(query_embedding=embeddings[0], similarity_top_k=5)
    assert sorted(store.query(query).ids or ()) == ["a", "b", "c"]
    late = clock.now() + 120 * 10**6
    monkeypatch.setattr(clock, "now", lambda: late)
    assert store.query(query).ids == ["c"] == [node.node_id for node in store.get_nodes()]
