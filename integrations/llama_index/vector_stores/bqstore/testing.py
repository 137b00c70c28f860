"""`VectorStoreTests`: what LlamaIndex expects of a vector store, as a pytest class that any store can run.

As `langchain_tests` is for LangChain. Subclass it, and say how a store is made::

    from llama_index.vector_stores.bqstore.testing import VectorStoreTests


    class TestMyStore(VectorStoreTests):
        known_failures = {"test_nested_conditions": "filters cannot be nested"}  # or "name[parameter]"

        def make_store(self, path):
            return MyStore(str(path / "store"), dim=self.dim)

        def reopened(self, store, path):  # for a store that is kept
            store.close()
            return self.make_store(path)

What is right is what `SimpleVectorStore`, LlamaIndex's own, does: its filters, its order, its choice under "mmr" where
copies compete. Where it has no answer (nested conditions, `doc_ids`, nodes) it is what `VectorStoreQuery`,
`MetadataFilters` and `BasePydanticVectorStore` say. Filters that `SimpleVectorStore` came to know in a later version
are skipped below it. Needs pytest and pytest-asyncio.
"""

import pytest

# before they are imported: their assertions show the values then, as those of a test module do
pytest.register_assert_rewrite(f"{__package__}.testing_contract", f"{__package__}.testing_nodes")

from .testing_contract import VectorStoreTests  # noqa: E402

__all__ = ["VectorStoreTests"]
