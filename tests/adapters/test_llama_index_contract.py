"""LlamaIndex's contract, on `BQVectorStore` and on the store that it was taken from."""

import inspect
import re
from pathlib import Path
from typing import Any, ClassVar

import pytest
from llama_index.core.vector_stores import SimpleVectorStore
from llama_index.core.vector_stores.types import BasePydanticVectorStore

from llama_index.vector_stores.bqstore import BQVectorStore
from llama_index.vector_stores.bqstore.testing import VectorStoreTests
from llama_index.vector_stores.bqstore.testing_nodes import SINCE, plain_nodes


class TestBQVectorStore(VectorStoreTests):
    def make_store(self, path: Path) -> BasePydanticVectorStore:
        return BQVectorStore(path if path.name.startswith("test_what_was_ack") else None)

    def reopened(self, store: BasePydanticVectorStore, path: Path) -> BasePydanticVectorStore | None:
        self.close(store)
        return BQVectorStore(path)


@pytest.mark.slow
class TestBQVectorStoreOnDisk(VectorStoreTests):
    def make_store(self, path: Path) -> BasePydanticVectorStore:
        return BQVectorStore(path)

    def reopened(self, store: BasePydanticVectorStore, path: Path) -> BasePydanticVectorStore | None:
        self.close(store)
        return self.make_store(path)


class TestSimpleVectorStore(VectorStoreTests):
    known_failures: ClassVar[dict[str, str]] = {
        "test_nested_conditions": "filters cannot be nested",
        "test_doc_ids": "they are ignored",
        **dict.fromkeys(
            [
                "test_queries_return_nodes_as_they_were_added",
                "test_relationships_templates_and_excluded_keys_are_kept",
                "test_kinds_of_nodes_are_kept",
                "test_nested_metadata_is_kept",
                "test_get_nodes_by_ids_and_by_filters",
                "test_get_nodes_fills_embeddings",
                "test_async_get_nodes_and_clear",
            ],
            "nodes are not stored",
        ),
    }

    def make_store(self, path: Path) -> BasePydanticVectorStore:
        return SimpleVectorStore()

    def reopened(self, store: BasePydanticVectorStore, path: Path) -> BasePydanticVectorStore | None:
        store.persist(str(path / "store.json"))
        return SimpleVectorStore.from_persist_path(str(path / "store.json"))


class Forgetful(SimpleVectorStore):
    """Does not do what it says, in one way after the other."""

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        return

    def query(self, query: Any, **kwargs: Any) -> Any:
        result = super().query(query, **kwargs)
        if query.filters is None and result.ids:
            result.ids.reverse()
        elif query.filters is not None and result.ids:
            result.ids.pop()
            result.similarities.pop()
        return result


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("test_delete_by_source_document", ()),
        ("test_the_nearest_come_first_as_in_the_simple_store", ()),
        ("test_filters", ("eq-string",)),
        ("test_filters", ("not",)),
        ("test_nested_conditions", ("or-in-and",)),
    ],
)
def test_the_contract_notices_a_store_that_forgets(name: str, arguments: Any) -> None:
    store = Forgetful()
    store.add(plain_nodes())
    with pytest.raises((AssertionError, ValueError)):
        getattr(VectorStoreTests(), name)(store, *arguments)


@pytest.mark.parametrize("name", SINCE)
def test_what_an_older_llama_index_means_otherwise_was_called_wrong(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llama_index.vector_stores.bqstore.testing_contract.VERSION", (0, 14, 0))
    with BQVectorStore() as store, pytest.raises(pytest.skip.Exception, match=r"since llama-index-core 0\.14\.\d+"):
        VectorStoreTests().test_filters(store, name)


def test_the_page_about_other_stores_is_of_this_contract() -> None:
    """Each row is a test that is there, and the number of tests is that of the suite."""
    page = (Path(__file__).resolve().parents[2] / "docs/conformance.md").read_text("utf-8")
    names = [name for name, value in inspect.getmembers(VectorStoreTests, inspect.isfunction) if name[:5] == "test_"]
    marks = [getattr(getattr(VectorStoreTests, name), "pytestmark", []) for name in names]
    total = sum(len(each[0].args[1]) if each else 1 for each in marks)
    part = page.split("## ")[1]
    assert f"| {total} tests | bqstore | Simple | Chroma | Qdrant | LanceDB |" in part
    rows = re.findall(r"^\| ([a-z][^|(]*?)(?: \([^|]*\))? \| - ", part, re.M)
    assert rows and {"test_" + row.replace(" ", "_") for row in rows} <= set(names)
    assert f"| **passed** | **{total}** |" in part
