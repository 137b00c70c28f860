"""LlamaIndex's own machinery on `BQVectorStore`: indexes, storage contexts, ingestion pipelines, query engines."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama_index.core import StorageContext, VectorStoreIndex, load_index_from_storage
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.llms import MockLLM
from llama_index.core.memory import VectorMemoryBlock
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import Document, ImageNode, IndexNode, TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.vector_stores import FilterOperator, MetadataFilter, MetadataFilters

import bqstore
from llama_index.vector_stores.bqstore import BQVectorStore
from tests.adapters.llama_index_versions import INDEX_NODES, since

# by LlamaIndex itself, before 0.14.6
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated method get_doc_id:DeprecationWarning")


class Words(BaseEmbedding):
    """Texts that share words are near: each word is a random direction of its own."""

    def _get_text_embedding(self, text: str) -> list[float]:
        words = text.lower().replace(".", " ").split() or ["nothing"]
        seeds = [zlib.crc32(word.encode()) for word in words]
        return sum(np.random.default_rng(seed).standard_normal(96) for seed in seeds).tolist()

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


WORDS = Words()


def document(id_: str, text: str, **metadata: Any) -> Document:
    return Document(id_=id_, text=text, metadata=metadata, excluded_embed_metadata_keys=["kind", "legs"])


DOCUMENTS = [
    document("cats", "Cats sleep all day. Cats hunt at night.", kind="pet", legs=4),
    document("dogs", "Dogs bark at strangers. Dogs fetch sticks.", kind="pet", legs=4),
    document("fish", "Trout swim in cold rivers.", kind="wild", legs=0),
]
SPLITTER = SentenceSplitter(chunk_size=16, chunk_overlap=0)  # one sentence each, beside the metadata


@pytest.fixture
def store() -> Any:
    """A store in memory. Tests of what is on disk open their own."""
    with BQVectorStore() as opened:
        yield opened


def context(store: BQVectorStore, **given: Any) -> StorageContext:
    return StorageContext.from_defaults(vector_store=store, **given)


def build(store: BQVectorStore, **given: Any) -> VectorStoreIndex:
    return VectorStoreIndex.from_documents(
        DOCUMENTS, storage_context=context(store), embed_model=WORDS, transformations=[SPLITTER], **given
    )


def best(index: VectorStoreIndex, question: str) -> str | None:
    (found,) = index.as_retriever(similarity_top_k=1).retrieve(question)
    return found.node.ref_doc_id


def texts(store: BQVectorStore) -> set[str]:
    return {node.get_content() for node in store.get_nodes()}


# ---- VectorStoreIndex


@pytest.mark.parametrize("use_async", [False, True])
def test_build_an_index(store: BQVectorStore, use_async: bool) -> None:
    index = build(store, use_async=use_async)
    assert texts(store) == {
        "Cats sleep all day.", "Cats hunt at night.", "Dogs bark at strangers.", "Dogs fetch sticks.",
        "Trout swim in cold rivers.",
    }  # fmt: skip
    assert best(index, "who fetch sticks") == "dogs"
    assert best(index, "what do trout do in rivers") == "fish"
    (found,) = index.as_retriever(similarity_top_k=1).retrieve("Cats sleep all day.")
    assert found.score == pytest.approx(1.0, abs=1e-6)
    assert type(found.score) is float
    assert found.metadata == {"kind": "pet", "legs": 4}
    assert found.node.start_char_idx == 0
    assert found.node.source_node.metadata == {"kind": "pet", "legs": 4}
    assert found.node.next_node is not None


def test_an_index_from_a_store_that_was_filled_before(tmp_path: Path) -> None:
    with BQVectorStore(tmp_path) as store:
        build(store)
    with BQVectorStore(tmp_path) as store:
        index = VectorStoreIndex.from_vector_store(store, embed_model=WORDS)
        assert best(index, "dogs bark") == "dogs"
    with BQVectorStore(tmp_path, read_only=True) as reader:
        index = VectorStoreIndex.from_vector_store(reader, embed_model=WORDS)
        assert best(index, "dogs bark") == "dogs"
        with pytest.raises(bqstore.ReadOnlyError):
            index.insert(Document(text="Not written."))


def test_insert_update_refresh_and_delete_documents(store: BQVectorStore) -> None:
    index = VectorStoreIndex.from_vector_store(store, embed_model=WORDS, transformations=[SPLITTER])
    for given in DOCUMENTS:
        index.insert(given)
    assert len(store.get_nodes()) == 5
    assert best(index, "trout swim") == "fish"

    index.delete_ref_doc("fish", delete_from_docstore=True)
    assert best(index, "trout swim") != "fish"
    assert len(store.get_nodes()) == 4

    index.update_ref_doc(Document(id_="dogs", text="Dogs guard the house."))
    assert not any("bark" in text for text in texts(store))
    assert best(index, "who guard the house") == "dogs"

    changed = Document(id_="cats", text="Cats purr.")
    same_as_before = Document(id_="dogs", text="Dogs guard the house.")
    unknown = Document(id_="owls", text="Owls see in the dark.")
    assert index.refresh_ref_docs([changed, same_as_before, unknown]) == [True, False, True]
    assert texts(store) == {"Cats purr.", "Dogs guard the house.", "Owls see in the dark."}
    index.delete_nodes([store.get_nodes()[0].node_id])
    assert len(store.get_nodes()) == 2


async def test_insert_update_refresh_and_delete_on_the_event_loop(store: BQVectorStore) -> None:
    index = VectorStoreIndex.from_vector_store(store, embed_model=WORDS, transformations=[SPLITTER])
    for given in DOCUMENTS:
        await index.ainsert(given)
    await index.adelete_ref_doc("fish", delete_from_docstore=True)
    await index.aupdate_ref_doc(Document(id_="dogs", text="Dogs guard the house."))
    changed, unknown = Document(id_="cats", text="Cats purr."), Document(id_="owls", text="Owls see in the dark.")
    assert await index.arefresh_ref_docs([changed, unknown]) == [True, True]
    assert texts(store) == {"Cats purr.", "Dogs guard the house.", "Owls see in the dark."}
    (found,) = await index.as_retriever(similarity_top_k=1).aretrieve("who guard the house")
    assert found.node.ref_doc_id == "dogs"
    await index.adelete_nodes([found.node_id])
    assert len(store.get_nodes()) == 2


@since(INDEX_NODES, "an IndexNode keeps its node")
def test_image_and_index_nodes_in_an_index(store: BQVectorStore) -> None:
    """LlamaIndex keeps these in its docstore too; without it they come from the store."""
    target = TextNode(id_="target", text="The whole story of owls.")
    nodes = [
        ImageNode(id_="image", text="an owl at night", image_url="https://example.org/owl.png"),
        IndexNode(id_="pointer", text="about owls see there", index_id="target", obj=target),
    ]
    VectorStoreIndex(nodes, storage_context=context(store), embed_model=WORDS)
    later = VectorStoreIndex.from_vector_store(store, embed_model=WORDS)
    (image,) = later.as_retriever(similarity_top_k=1).retrieve("an owl at night")
    assert isinstance(image.node, ImageNode)
    assert image.node.image_url == "https://example.org/owl.png"
    (pointed,) = later.as_retriever(similarity_top_k=1).retrieve("about owls see there")
    assert pointed.node.get_content() == "The whole story of owls."


# ---- StorageContext


@pytest.mark.parametrize("same_folder", [False, True])
def test_persist_and_reload(tmp_path: Path, same_folder: bool) -> None:
    folder = tmp_path / "store"
    persist_dir = folder if same_folder else tmp_path / "persisted"
    with BQVectorStore(folder) as store:
        index = build(store)
        index.set_index_id("animals")
        index.storage_context.persist(persist_dir)
    assert not list(tmp_path.rglob("default__vector_store.json"))

    with BQVectorStore(folder) as store:
        again = load_index_from_storage(
            context(store, persist_dir=str(persist_dir)), "animals", embed_model=WORDS, transformations=[SPLITTER]
        )
        assert isinstance(again, VectorStoreIndex)
        assert best(again, "dogs bark") == "dogs"
        again.delete_ref_doc("dogs")
        again.insert(Document(id_="owls", text="Owls see in the dark."))
        assert best(again, "owls see") == "owls"
    with BQVectorStore(folder) as store:
        assert not any("Dogs" in text for text in texts(store))


def test_a_reload_without_the_store_fails_rather_than_being_empty(tmp_path: Path) -> None:
    """A file of LlamaIndex's name in the persisted folder would load as an empty store of its own."""
    with BQVectorStore(tmp_path / "store") as store:
        build(store).storage_context.persist(tmp_path / "persisted")
    forgotten = StorageContext.from_defaults(persist_dir=str(tmp_path / "persisted"))
    with pytest.raises(KeyError, match=r"^'default'$"):  # as the docstring of persist says
        load_index_from_storage(forgotten, embed_model=WORDS)


def test_persist_writes_nothing(tmp_path: Path, store: BQVectorStore) -> None:
    build(store)
    target = tmp_path / "elsewhere"
    target.mkdir()
    assert store.persist(str(target / "vector_store.json")) is None
    assert list(target.iterdir()) == []


# ---- IngestionPipeline


def run(
    store: BQVectorStore, docstore: SimpleDocumentStore, strategy: DocstoreStrategy, documents: list[Document]
) -> int:
    pipeline = IngestionPipeline(
        transformations=[SPLITTER, WORDS], vector_store=store, docstore=docstore, docstore_strategy=strategy
    )
    return len(pipeline.run(documents=documents))


CHANGED = [
    DOCUMENTS[0],
    document("dogs", "Dogs guard the house.", kind="pet", legs=4),
    document("owls", "Owls see in the dark."),
]  # fish is gone
CATS = {"Cats sleep all day.", "Cats hunt at night."}
OLD_DOGS = {"Dogs bark at strangers.", "Dogs fetch sticks."}
NEW = {"Dogs guard the house.", "Owls see in the dark."}
FISH = {"Trout swim in cold rivers."}


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (DocstoreStrategy.UPSERTS, CATS | NEW | FISH),
        (DocstoreStrategy.DUPLICATES_ONLY, CATS | NEW | FISH | OLD_DOGS),
        (DocstoreStrategy.UPSERTS_AND_DELETE, CATS | NEW),
    ],
)
def test_ingestion_twice_with_each_strategy(tmp_path: Path, strategy: DocstoreStrategy, expected: set[str]) -> None:
    docstore = SimpleDocumentStore()
    with BQVectorStore(tmp_path / "store") as store:
        assert run(store, docstore, strategy, DOCUMENTS) == 5
        assert texts(store) == CATS | OLD_DOGS | FISH
        assert run(store, docstore, strategy, DOCUMENTS) == 0
    docstore.persist(str(tmp_path / "docstore.json"))

    docstore = SimpleDocumentStore.from_persist_path(str(tmp_path / "docstore.json"))
    with BQVectorStore(tmp_path / "store") as store:  # both reopened, as by a second process
        assert run(store, docstore, strategy, CHANGED) == 2
        assert texts(store) == expected
        assert len(store.get_nodes()) == len(expected)
        assert run(store, docstore, strategy, CHANGED) == 0
        assert texts(store) == expected


async def test_ingestion_on_the_event_loop(store: BQVectorStore) -> None:
    pipeline = IngestionPipeline(
        transformations=[SPLITTER, WORDS],
        vector_store=store,
        docstore=SimpleDocumentStore(),
        docstore_strategy=DocstoreStrategy.UPSERTS_AND_DELETE,
    )
    await pipeline.arun(documents=DOCUMENTS)
    await pipeline.arun(documents=CHANGED)
    assert texts(store) == CATS | NEW


def test_ingestion_of_whole_documents(store: BQVectorStore) -> None:
    """Without a splitter a document is its own node, with no source; its deletion finds it all the same."""
    pipeline = IngestionPipeline(
        transformations=[WORDS],
        vector_store=store,
        docstore=SimpleDocumentStore(),
        docstore_strategy=DocstoreStrategy.UPSERTS_AND_DELETE,
    )
    pipeline.run(documents=[given.model_copy() for given in DOCUMENTS])  # it writes the embeddings into them
    assert {type(node) for node in store.get_nodes()} == {Document}
    pipeline.run(documents=[given.model_copy() for given in CHANGED])
    assert {node.node_id for node in store.get_nodes()} == {"cats", "dogs", "owls"}
    assert texts(store) > NEW


# ---- retrievers and query engines


def same(key: str, value: Any, operator: FilterOperator = FilterOperator.EQ) -> MetadataFilters:
    return MetadataFilters(filters=[MetadataFilter(key=key, value=value, operator=operator)])


def test_a_query_engine_answers_from_the_store(store: BQVectorStore) -> None:
    engine = build(store).as_query_engine(llm=MockLLM(), similarity_top_k=2)
    answer = engine.query("Dogs bark at strangers.")
    assert answer.source_nodes[0].get_content() == "Dogs bark at strangers."
    assert "Dogs bark at strangers." in str(answer)  # the mock says its prompt back


async def test_a_query_engine_on_the_event_loop(store: BQVectorStore) -> None:
    engine = build(store).as_query_engine(llm=MockLLM(), similarity_top_k=2, filters=same("kind", "wild"))
    answer = await engine.aquery("Dogs bark at strangers.")
    assert [source.get_content() for source in answer.source_nodes] == ["Trout swim in cold rivers."]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"filters": same("kind", "wild")}, {"fish"}),
        ({"filters": same("legs", [0, 2], FilterOperator.IN)}, {"fish"}),
        ({"doc_ids": ["cats", "fish"]}, {"cats", "fish"}),
        ({"vector_store_kwargs": {"filter": {"kind": "pet"}}}, {"cats", "dogs"}),
        ({"doc_ids": ["cats"], "vector_store_kwargs": {"filter": {"legs": 4}}}, {"cats"}),
        ({"filters": same("kind", "nothing")}, set()),
        ({"vector_store_kwargs": {"score_threshold": 0.99}}, {"dogs"}),
    ],
)
def test_a_retriever_restricts(store: BQVectorStore, given: dict[str, Any], expected: set[str]) -> None:
    found = build(store).as_retriever(similarity_top_k=10, **given).retrieve("Dogs bark at strangers.")
    assert {node.node.ref_doc_id for node in found} == expected


def test_the_settings_of_a_retriever_have_effect(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    embeddings = rng.standard_normal((1500, 64)).astype(np.float32)
    with BQVectorStore(tmp_path, full_scan_threshold=0) as store:
        store.add([TextNode(id_=f"n{i}", text=str(i), embedding=e.tolist()) for i, e in enumerate(embeddings)])
        index = VectorStoreIndex.from_vector_store(store, embed_model=MockEmbedding(embed_dim=64))

        def ids(**settings: Any) -> list[str]:
            retriever = index.as_retriever(similarity_top_k=10, vector_store_kwargs=settings)
            return [found.node_id for found in retriever.retrieve("all ones")]

        query = np.full(64, 0.5)  # what the mock says of anything
        truth = np.argsort(-(embeddings @ query) / np.linalg.norm(embeddings, axis=1))[:10]
        exact = [f"n{i}" for i in truth]
        assert ids(exact=True) == exact
        assert ids(search_params={"exact": True}) == exact
        assert ids(oversampling=150) == exact
        assert ids(oversampling=1) != exact
        with pytest.raises(bqstore.UnknownKeywordError, match="did you mean 'oversampling'"):
            ids(oversamplin=3)


async def test_a_memory_block(store: BQVectorStore) -> None:
    """LlamaIndex's long-term memory: nodes without a source, filters on a session."""
    block = VectorMemoryBlock(vector_store=store, embed_model=WORDS, similarity_top_k=1, retrieval_context_window=1)
    await block.aput([ChatMessage(role="user", content="My cat is called Mia.")], session_id="s1")
    await block.aput([ChatMessage(role="user", content="My dog is called Rex.")], session_id="s2")
    said = await block.aget([ChatMessage(role="user", content="What is my dog called?")], session_id="s1")
    assert "Mia" in str(said) and "Rex" not in str(said)
