"""LlamaIndex's retrievers, engines, memory and agents on `BQVectorStore`; the language model says what it is told."""

import json
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.agent.workflow import ReActAgent
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.base.llms.types import ChatMessage, CompletionResponse, LLMMetadata, MessageRole
from llama_index.core.bridge.pydantic import Field
from llama_index.core.llms import CustomLLM, MockLLM
from llama_index.core.memory import VectorMemory
from llama_index.core.node_parser import HierarchicalNodeParser, TokenTextSplitter, get_leaf_nodes
from llama_index.core.query_engine import RetrieverQueryEngine, RouterQueryEngine, SubQuestionQueryEngine
from llama_index.core.question_gen import LLMQuestionGenerator
from llama_index.core.response_synthesizers import get_response_synthesizer
from llama_index.core.retrievers import (
    AutoMergingRetriever,
    QueryFusionRetriever,
    RecursiveRetriever,
    VectorIndexAutoRetriever,
)
from llama_index.core.schema import Document, IndexNode, NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.selectors import LLMSingleSelector
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.tools import QueryEngineTool
from llama_index.core.vector_stores.types import MetadataInfo, VectorStoreInfo

from llama_index.vector_stores.bqstore import BQVectorStore


class Words(BaseEmbedding):
    """Texts that share words are near: each word is a random direction of its own. An empty text is nowhere."""

    def _get_text_embedding(self, text: str) -> list[float]:
        words = text.lower().replace(".", " ").replace("?", " ").split()
        seeds = [zlib.crc32(word.encode()) for word in words]
        return sum((np.random.default_rng(seed).standard_normal(96) for seed in seeds), np.zeros(96)).tolist()

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


class Says(CustomLLM):
    """Gives its answers one after the other, and keeps what it was asked."""

    answers: list[str]
    asked: list[str] = Field(default_factory=list)

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata()

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        self.asked.append(prompt)
        return CompletionResponse(text=self.answers.pop(0))

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        text = self.complete(prompt).text
        yield CompletionResponse(text=text, delta=text)


WORDS = Words()
ANIMALS = [
    ("cat", "Cats sleep all day.", {"kind": "pet", "legs": 4}),
    ("dog", "Dogs bark at strangers.", {"kind": "pet", "legs": 4}),
    ("duck", "Ducks swim in ponds.", {"kind": "farm", "legs": 2}),
    ("trout", "Trout swim in cold rivers.", {"kind": "wild", "legs": 0}),
]
FURNITURE = [("chair", "Chairs stand in rooms.", {}), ("bed", "Beds are to sleep in.", {})]


def index_of(store: BQVectorStore, given: Any) -> VectorStoreIndex:
    source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id="all")}
    nodes = [
        TextNode(id_=id_, text=text, metadata=metadata, relationships=source, excluded_embed_metadata_keys=[*metadata])
        for id_, text, metadata in given
    ]
    return VectorStoreIndex(nodes, storage_context=StorageContext.from_defaults(vector_store=store), embed_model=WORDS)


@pytest.fixture
def animals() -> Iterator[VectorStoreIndex]:
    with BQVectorStore() as store:
        yield index_of(store, ANIMALS)


@pytest.fixture
def furniture() -> Iterator[VectorStoreIndex]:
    with BQVectorStore() as store:
        yield index_of(store, FURNITURE)


def ids(found: Any) -> list[str]:
    return [each.node.node_id for each in found]


INFO = VectorStoreInfo(
    content_info="facts about animals",
    metadata_info=[
        MetadataInfo(name="kind", type="str", description="pet, farm or wild"),
        MetadataInfo(name="legs", type="int", description="the number of legs"),
    ],
)
AUTO: dict[str, tuple[str, list[str]]] = {
    "text and filter": (
        '{"query": "who swim", "filters": [{"key": "legs", "value": 1, "operator": ">"}], "top_k": 1}', ["duck"],
    ),
    "filter alone": (
        '{"query": "", "filters": [{"key": "kind", "value": "pet", "operator": "=="}], "top_k": 5}', ["cat", "dog"],
    ),
    "a list as a string": (
        '{"query": "", "filters": [{"key": "kind", "value": "farm, wild", "operator": "in"}], "top_k": 5}',
        ["duck", "trout"],
    ),
    "the document": (
        '{"query": "bark", "filters": [{"key": "doc_id", "value": "all", "operator": "=="}], "top_k": 1}', ["dog"],
    ),
    "nothing at all": ('{"query": "", "filters": [], "top_k": 2}', ["cat", "dog"]),
}  # fmt: skip


@pytest.mark.parametrize("name", AUTO)
@pytest.mark.parametrize("empty", [None, [0.0] * 96])
async def test_an_auto_retriever_writes_its_own_filters(
    animals: VectorStoreIndex, name: str, empty: list[float] | None
) -> None:
    said, wanted = AUTO[name]
    for use_async in (False, True):
        llm = Says(answers=[f"```json\n{said}\n```"])
        retriever = VectorIndexAutoRetriever(
            animals, INFO, llm=llm, max_top_k=10, default_empty_query_vector=empty, similarity_top_k=5
        )
        found = await retriever.aretrieve("?") if use_async else retriever.retrieve("?")
        assert ids(found) == wanted
        assert "the number of legs" in llm.asked[0]


async def test_a_router_asks_the_engine_that_was_chosen(animals: VectorStoreIndex, furniture: VectorStoreIndex) -> None:
    tools = [
        QueryEngineTool.from_defaults(index.as_query_engine(llm=MockLLM(), similarity_top_k=1), description=about)
        for index, about in ((animals, "animals"), (furniture, "furniture"))
    ]
    for choice, wanted in ((1, "cat"), (2, "bed")):
        answer = f'[{{"choice": {choice}, "reason": "so"}}]'
        llm = Says(answers=[answer, answer])
        router = RouterQueryEngine(LLMSingleSelector.from_defaults(llm=llm), tools, llm=MockLLM())
        assert ids(router.query("sleep").source_nodes) == ids((await router.aquery("sleep")).source_nodes) == [wanted]


@pytest.mark.parametrize("use_async", [False, True])
def test_sub_questions_go_to_their_engines(
    animals: VectorStoreIndex, furniture: VectorStoreIndex, use_async: bool
) -> None:
    tools = [
        QueryEngineTool.from_defaults(
            index.as_query_engine(llm=MockLLM(), similarity_top_k=1), name=name, description=name
        )
        for name, index in (("animals", animals), ("furniture", furniture))
    ]
    questions = [
        {"sub_question": "who bark", "tool_name": "animals"},
        {"sub_question": "chairs", "tool_name": "furniture"},
    ]
    said = f"```json\n{json.dumps({'items': questions})}\n```"
    engine = SubQuestionQueryEngine.from_defaults(
        query_engine_tools=tools,
        llm=MockLLM(),
        question_gen=LLMQuestionGenerator.from_defaults(llm=Says(answers=[said])),
        response_synthesizer=get_response_synthesizer(llm=MockLLM(), use_async=use_async),
        use_async=use_async,
        verbose=False,
    )
    found = " ".join(each.node.get_content() for each in engine.query("bark and chairs").source_nodes)
    assert "Dogs bark" in found and "Chairs stand" in found


async def test_a_recursive_retriever_follows_index_nodes(animals: VectorStoreIndex) -> None:
    """From summaries in one collection to retrievers of others, and to nodes."""
    with BQVectorStore() as store:
        pointers = [
            IndexNode(id_="to animals", text="about animals that bark", index_id="animals"),
            IndexNode(id_="to a table", text="about prices of food", index_id="table"),
        ]
        context = StorageContext.from_defaults(vector_store=store)
        VectorStoreIndex(pointers, storage_context=context, embed_model=WORDS)
        top = VectorStoreIndex.from_vector_store(store, embed_model=WORDS)  # the nodes come from the store
        retriever = RecursiveRetriever(
            "top",
            retriever_dict={
                "top": top.as_retriever(similarity_top_k=1),
                "animals": animals.as_retriever(similarity_top_k=1),
            },
            node_dict={"table": TextNode(id_="table", text="Hay: 3")},
        )
        assert ids(retriever.retrieve("animals that bark")) == ["dog"]
        assert ids(await retriever.aretrieve("prices of food")) == ["table"]


@pytest.mark.parametrize("use_async", [False, True])
@pytest.mark.parametrize("mode", ["reciprocal_rerank", "relative_score", "dist_based_score", "simple"])
def test_a_fusion_of_queries_and_stores(
    animals: VectorStoreIndex, furniture: VectorStoreIndex, mode: Any, use_async: bool
) -> None:
    llm = Says(answers=["who bark\nwho swim"])
    retriever = QueryFusionRetriever(
        [animals.as_retriever(similarity_top_k=2), furniture.as_retriever(similarity_top_k=2)],
        llm=llm, num_queries=3, mode=mode, use_async=use_async, similarity_top_k=6,
    )  # fmt: skip
    found = retriever.retrieve("sleep")
    assert set(ids(found)) == {"cat", "dog", "duck", "trout", "bed", "chair"}
    assert all(isinstance(each.score, float) for each in found)
    assert len(llm.asked) == 1


def test_leaves_are_merged_into_their_parent() -> None:
    text = " ".join(f"Sentence {i} says that number {i} is here." for i in range(24))
    sizes = {f"of {size}": TokenTextSplitter(chunk_size=size, chunk_overlap=0) for size in (128, 64, 32)}
    parser = HierarchicalNodeParser.from_defaults(node_parser_ids=list(sizes), node_parser_map=sizes)
    nodes = parser.get_nodes_from_documents([Document(id_="doc", text=text)])
    leaves = get_leaf_nodes(nodes)
    docstore = SimpleDocumentStore()
    docstore.add_documents(nodes)
    with BQVectorStore() as store:
        context = StorageContext.from_defaults(vector_store=store, docstore=docstore)
        index = VectorStoreIndex(leaves, storage_context=context, embed_model=WORDS)
        assert {leaf.node_id for leaf in leaves} == {node.node_id for node in store.get_nodes()}
        assert all(node.parent_node is not None for node in store.get_nodes(with_vectors=False))
        merging = AutoMergingRetriever(index.as_retriever(similarity_top_k=len(leaves)), context, verbose=False)
        found = merging.retrieve("what says number 3?")
        assert len(found) < len(leaves) and not {leaf.node_id for leaf in leaves} & set(ids(found))
        answer = RetrieverQueryEngine.from_args(merging, llm=MockLLM()).query("number 3")
        assert "Sentence 3 says" in str(answer)


def test_a_vector_memory_finds_what_was_said() -> None:
    with BQVectorStore() as store:
        memory = VectorMemory.from_defaults(
            vector_store=store, embed_model=WORDS, retriever_kwargs={"similarity_top_k": 1}
        )
        said = [("My cat is called Mia.", "A nice name."), ("My dog is called Rex.", "Rex barks.")]
        for question, answer in said:
            memory.put(ChatMessage(role=MessageRole.USER, content=question))
            memory.put(ChatMessage(role=MessageRole.ASSISTANT, content=answer))
        assert [message.content for message in memory.get("What is my dog called?")] == list(said[1])
        assert [message.content for message in memory.get("Who is Mia? cat")] == list(said[0])
        memory.reset()
        assert memory.get("dog") == [] and store.get_nodes() == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # workflows look at every attribute
async def test_an_agent_asks_a_query_engine(animals: VectorStoreIndex) -> None:
    tool = QueryEngineTool.from_defaults(
        animals.as_query_engine(llm=MockLLM(), similarity_top_k=1), name="animals", description="facts about animals"
    )
    llm = Says(
        answers=[
            'Thought: I need a tool.\nAction: animals\nAction Input: {"input": "who bark at strangers"}',
            "Thought: I can answer.\nAnswer: Dogs do.",
        ]
    )
    agent = ReActAgent(tools=[tool], llm=llm, streaming=False)
    response = await agent.run("Who barks?")
    assert str(response) == "Dogs do."
    (called,) = response.tool_calls
    assert ids(called.tool_output.raw_output.source_nodes) == ["dog"]
    assert "Dogs bark at strangers." in llm.asked[1]  # what the store found
