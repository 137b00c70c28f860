"""The tests of `testing.VectorStoreTests`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from llama_index.core.schema import (
    BaseNode,
    ImageNode,
    IndexNode,
    MetadataMode,
    NodeRelationship,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.vector_stores import SimpleVectorStore, VectorStoreQuery
from llama_index.core.vector_stores.types import BasePydanticVectorStore, VectorStoreQueryMode

from .testing_nodes import (
    DIM,
    FILTERS,
    NESTED,
    SINCE,
    TAG_FILTERS,
    VERSION,
    alike,
    embedding,
    expected,
    ids_of,
    node,
    node_id,
    plain_nodes,
    tagged_nodes,
    where,
)


class VectorStoreTests:
    """Tests of one vector store. A subclass defines `make_store`, and `reopened` if what it holds is kept.

    Attributes
    ----------
    dim : int                   dimensions of all embeddings, which have length 1
    known_failures : dict       names of tests, with their parameters or without, and why they fail. They must fail
    """

    dim: ClassVar[int] = DIM
    known_failures: ClassVar[dict[str, str]] = {}

    def make_store(self, path: Path) -> BasePydanticVectorStore:
        """An empty store; ``path`` is a folder of its own."""
        raise NotImplementedError("define make_store(self, path)")

    def reopened(self, store: BasePydanticVectorStore, path: Path) -> BasePydanticVectorStore | None:
        """What ``store`` held, opened anew; None: it is not kept."""
        return None

    def close(self, store: BasePydanticVectorStore) -> None:
        """Give back what a store has open."""
        if hasattr(store, "close"):
            store.close()

    @pytest.fixture(autouse=True)
    def _known(self, request: pytest.FixtureRequest) -> None:
        name = request.node.name.partition("[")[0]
        reason = self.known_failures.get(request.node.name) or self.known_failures.get(name)
        if reason:
            request.applymarker(pytest.mark.xfail(reason=reason, strict=True))

    @pytest.fixture
    def store(self, tmp_path: Path, _known: None) -> Iterator[BasePydanticVectorStore]:
        """An empty store."""
        made = self.make_store(tmp_path)
        yield made
        self.close(made)

    @pytest.fixture
    def filled(self, store: BasePydanticVectorStore) -> BasePydanticVectorStore:
        """A store with `plain_nodes`."""
        store.add(plain_nodes())
        return store

    def found(self, store: BasePydanticVectorStore, **given: Any) -> set[str]:
        """The ids of everything that a query finds."""
        asked = {"query_embedding": embedding(0), "similarity_top_k": 50, **given}
        ids = ids_of(store.query(VectorStoreQuery(**asked)))
        assert len(set(ids)) == len(ids), "a node twice"
        return set(ids)

    # ---- adding

    def test_add_returns_the_ids_in_order(self, store: BasePydanticVectorStore) -> None:
        nodes = plain_nodes()
        assert store.add(nodes) == [each.node_id for each in nodes]
        assert self.found(store) == {each.node_id for each in nodes}

    def test_add_nothing(self, store: BasePydanticVectorStore) -> None:
        assert store.add([]) == []

    def test_add_replaces_a_node_with_the_same_id(self, filled: BasePydanticVectorStore) -> None:
        new = TextNode(id_=node_id(3), text="new", metadata={"lang": "new"}, embedding=embedding(99))
        filled.add([new])
        assert len(self.found(filled)) == 12
        nearest = filled.query(VectorStoreQuery(embedding(99), similarity_top_k=1))
        assert ids_of(nearest) == [node_id(3)]
        assert self.found(filled, filters=where(("lang", "==", "new"))) == {node_id(3)}
        assert node_id(3) not in self.found(filled, filters=where(("n", "==", 3)))

    def test_the_last_of_equal_ids_in_one_call_wins(self, store: BasePydanticVectorStore) -> None:
        store.add([node(1, v=1), node(2, v=1), node(1, v=2)])
        assert self.found(store) == {node_id(1), node_id(2)}
        assert self.found(store, filters=where(("v", "==", 2))) == {node_id(1)}

    def test_add_many(self, store: BasePydanticVectorStore) -> None:
        store.add([node(i) for i in range(400)])
        assert len(self.found(store, similarity_top_k=500)) == 400

    def test_ids_of_any_text(self, store: BasePydanticVectorStore) -> None:
        ids = ["plain", "with space", 'quote\'s "double"', "日本/é", "%_*"]
        for i, each in enumerate(ids):
            store.add([TextNode(id_=each, text="t", embedding=embedding(i))])
        assert self.found(store) == set(ids)
        store.delete_nodes(ids[1:3])
        assert self.found(store) == {"plain", "日本/é", "%_*"}

    # ---- queries

    def test_the_nearest_come_first_as_in_the_simple_store(self, filled: BasePydanticVectorStore) -> None:
        simple = SimpleVectorStore()
        simple.add(plain_nodes())
        for seed in (50, 51, 52):
            asked = VectorStoreQuery(embedding(seed), similarity_top_k=5)
            result = filled.query(asked)
            assert ids_of(result) == simple.query(asked).ids
            assert result.similarities is not None, "no similarities"
            assert sorted(result.similarities, reverse=True) == list(result.similarities)

    def test_top_k_beyond_what_there_is(self, filled: BasePydanticVectorStore) -> None:
        assert len(ids_of(filled.query(VectorStoreQuery(embedding(0), similarity_top_k=1000)))) == 12

    def test_an_empty_store_finds_nothing(self, store: BasePydanticVectorStore) -> None:
        assert self.found(store) == set()

    @pytest.mark.parametrize("name", FILTERS)
    def test_filters(self, filled: BasePydanticVectorStore, name: str) -> None:
        if SINCE.get(name, ()) > VERSION:
            pytest.skip(f"LlamaIndex's own store means this since llama-index-core {'.'.join(map(str, SINCE[name]))}")
        assert self.found(filled, filters=FILTERS[name]) == expected(FILTERS[name], plain_nodes())

    @pytest.mark.parametrize("name", TAG_FILTERS)
    def test_filters_on_lists(self, store: BasePydanticVectorStore, name: str) -> None:
        store.add(tagged_nodes())
        assert self.found(store, filters=TAG_FILTERS[name]) == expected(TAG_FILTERS[name], tagged_nodes())

    @pytest.mark.parametrize("name", NESTED)
    def test_nested_conditions(self, filled: BasePydanticVectorStore, name: str) -> None:
        assert self.found(filled, filters=NESTED[name]) == expected(NESTED[name], plain_nodes())

    def test_a_filter_finds_k_however_far_they_are(self, store: BasePydanticVectorStore) -> None:
        store.add([node(i, rare="yes" if i % 60 == 7 else "no") for i in range(300)])
        assert len(self.found(store, similarity_top_k=5, filters=where(("rare", "==", "yes")))) == 5

    def test_node_ids(self, filled: BasePydanticVectorStore) -> None:
        some = [node_id(i) for i in (1, 5, 9)]
        assert self.found(filled, node_ids=[*some, node_id(77)]) == set(some)
        assert self.found(filled, node_ids=some, filters=where(("n", ">", 4))) == set(some[1:])

    def test_doc_ids(self, filled: BasePydanticVectorStore) -> None:
        assert self.found(filled, doc_ids=["doc-1", "doc-9"]) == {node_id(i) for i in (1, 4, 7, 10)}

    @pytest.mark.parametrize("threshold", [1.0, 0.1])
    def test_mmr_leaves_out_copies_as_the_simple_store(self, store: BasePydanticVectorStore, threshold: float) -> None:
        near, far = np.eye(DIM)[0], 0.6 * np.eye(DIM)[0] + 0.8 * np.eye(DIM)[1]
        vectors = [near, near + 0.01 * np.eye(DIM)[2], near + 0.02 * np.eye(DIM)[3], far]
        nodes = [node(i) for i in range(4)]
        for each, vector in zip(nodes, vectors, strict=True):
            each.embedding = [float(value) for value in vector / np.linalg.norm(vector)]
        simple = SimpleVectorStore()
        simple.add(nodes)
        store.add(nodes)
        asked = VectorStoreQuery([float(value) for value in near], 2, mode=VectorStoreQueryMode.MMR)
        right = simple.query(asked, mmr_threshold=threshold).ids
        assert right == [node_id(0), node_id(1 if threshold == 1.0 else 3)]
        assert ids_of(store.query(asked, mmr_threshold=threshold)) == right

    # ---- what nodes are

    def test_queries_return_nodes_as_they_were_added(self, filled: BasePydanticVectorStore) -> None:
        result = filled.query(VectorStoreQuery(embedding(0), similarity_top_k=50))
        assert result.nodes is not None, "no nodes"
        added = {each.node_id: each for each in plain_nodes()}
        assert all(alike(each, added[each.node_id]) for each in result.nodes)

    def test_relationships_templates_and_excluded_keys_are_kept(self, store: BasePydanticVectorStore) -> None:
        first = TextNode(
            id_=node_id(1),
            text='one "two" {three}\n\né',
            metadata={"a": "1", "b": "2"},
            embedding=embedding(1),
            excluded_llm_metadata_keys=["a"],
            excluded_embed_metadata_keys=["b"],
            text_template="{metadata_str} || {content}",
            start_char_idx=3,
            relationships={
                NodeRelationship.SOURCE: RelatedNodeInfo(node_id="doc", metadata={"k": "v"}, hash="h"),
                NodeRelationship.NEXT: RelatedNodeInfo(node_id=node_id(2)),
                NodeRelationship.CHILD: [RelatedNodeInfo(node_id=node_id(3)), RelatedNodeInfo(node_id=node_id(4))],
            },
        )
        store.add([first])
        (found,) = store.query(VectorStoreQuery(embedding(1), similarity_top_k=1)).nodes or []
        assert found.get_content(MetadataMode.LLM) == first.get_content(MetadataMode.LLM)
        assert alike(found, first)

    @pytest.mark.parametrize("kind", ["text", "index", "image"])
    def test_kinds_of_nodes_are_kept(self, store: BasePydanticVectorStore, kind: str) -> None:
        kinds: dict[str, BaseNode] = {
            "text": TextNode(id_=node_id(1), text="", embedding=embedding(1)),
            "index": IndexNode(id_=node_id(1), text="t", index_id="other", embedding=embedding(1)),
            "image": ImageNode(id_=node_id(1), text="t", image="aGVsbG8=", embedding=embedding(1)),
        }
        store.add([kinds[kind]])
        (found,) = store.query(VectorStoreQuery(embedding(1), similarity_top_k=1)).nodes or []
        assert alike(found, kinds[kind])

    def test_nested_metadata_is_kept(self, store: BasePydanticVectorStore) -> None:
        store.add([node(1, deep={"a": [1, {"b": None}]}, empty=None, tags=["x"])])
        (found,) = store.query(VectorStoreQuery(embedding(1), similarity_top_k=1)).nodes or []
        assert found.metadata == {"deep": {"a": [1, {"b": None}]}, "empty": None, "tags": ["x"]}

    # ---- reading nodes

    def test_get_nodes_by_ids_and_by_filters(self, filled: BasePydanticVectorStore) -> None:
        def got(**given: Any) -> set[str]:
            return {each.node_id for each in filled.get_nodes(**given)}

        some = [node_id(i) for i in (2, 4, 77)]
        assert got(node_ids=some) == {node_id(2), node_id(4)}
        assert got(filters=where(("lang", "==", "de"))) == {node_id(i) for i in (1, 5, 9)}
        assert got(node_ids=some, filters=where(("n", ">", 2))) == {node_id(4)}
        assert got(node_ids=[node_id(77)]) == set()

    def test_get_nodes_fills_embeddings(self, filled: BasePydanticVectorStore) -> None:
        (found,) = filled.get_nodes(node_ids=[node_id(3)])
        assert found.embedding is not None, "no embedding"
        np.testing.assert_allclose(found.embedding, embedding(3), atol=1e-3)
        assert alike(found, plain_nodes()[3])

    # ---- deleting

    def test_delete_by_source_document(self, filled: BasePydanticVectorStore) -> None:
        filled.delete("doc-1")
        filled.delete("doc-unknown")
        assert self.found(filled) == {node_id(i) for i in range(12) if i % 3 != 1}
        filled.add(plain_nodes()[1:2])
        assert len(self.found(filled)) == 9

    def test_delete_nodes_by_ids(self, filled: BasePydanticVectorStore) -> None:
        filled.delete_nodes([node_id(1), node_id(2), node_id(77)])
        assert self.found(filled) == {node_id(i) for i in range(12) if i not in (1, 2)}

    def test_delete_nodes_by_filters(self, filled: BasePydanticVectorStore) -> None:
        filled.delete_nodes(filters=where(("lang", "==", "de"), ("n", "<", 6)))
        assert self.found(filled) == {node_id(i) for i in range(12) if i not in (1, 5)}

    def test_delete_nodes_by_ids_and_filters_deletes_what_is_in_both(self, filled: BasePydanticVectorStore) -> None:
        filled.delete_nodes([node_id(1), node_id(2)], filters=where(("lang", "==", "de")))
        assert self.found(filled) == {node_id(i) for i in range(12) if i != 1}

    def test_clear(self, filled: BasePydanticVectorStore) -> None:
        filled.clear()
        assert self.found(filled) == set()
        filled.add(plain_nodes()[:2])
        assert len(self.found(filled)) == 2

    # ---- async

    async def test_async_twins(self, store: BasePydanticVectorStore) -> None:
        async def found(**given: Any) -> set[str]:
            return set(ids_of(await store.aquery(VectorStoreQuery(embedding(0), similarity_top_k=50, **given))))

        assert await store.async_add(plain_nodes()) == [node_id(i) for i in range(12)]
        assert await found(filters=where(("lang", "==", "de"))) == {node_id(i) for i in (1, 5, 9)}
        await store.adelete("doc-1")
        await store.adelete_nodes([node_id(2)])
        assert await found() == {node_id(i) for i in range(12) if i % 3 != 1 and i != 2}

    async def test_async_get_nodes_and_clear(self, store: BasePydanticVectorStore) -> None:
        await store.async_add(plain_nodes())
        assert {each.node_id for each in await store.aget_nodes([node_id(4)])} == {node_id(4)}
        await store.aclear()
        assert ids_of(await store.aquery(VectorStoreQuery(embedding(0), similarity_top_k=50))) == []

    # ---- kept

    def test_what_was_acknowledged_is_there_after_reopening(self, tmp_path: Path, _known: None) -> None:
        store = self.make_store(tmp_path)
        store.add(plain_nodes())
        store.add([node(3, "doc-new", lang="new")])
        store.delete("doc-1")
        store.delete_nodes([node_id(2)])
        again = self.reopened(store, tmp_path)
        if again is None:
            self.close(store)
            pytest.skip("this store is not kept")
        assert self.found(again) == {node_id(i) for i in range(12) if i % 3 != 1 and i != 2}
        assert self.found(again, filters=where(("lang", "==", "new"))) == {node_id(3)}
        again.delete("doc-new")
        assert node_id(3) not in self.found(again)
        self.close(again)
