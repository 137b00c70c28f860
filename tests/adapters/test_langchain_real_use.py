"""Parts of LangChain that take a vector store, each used as its documentation shows."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.example_selectors import MaxMarginalRelevanceExampleSelector, SemanticSimilarityExampleSelector
from langchain_core.language_models import FakeListLLM
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from langchain_core.stores import ByteStore, InMemoryByteStore
from langchain_core.structured_query import Comparator, Comparison, Operation, Operator, StructuredQuery
from langchain_core.tools import create_retriever_tool

from bqstore import InvalidInputError
from langchain_bqstore import BQByteStore, BQTranslator, BQVectorStore
from tests.adapters.langchain_texts import Spelled

FILMS = [
    ("1 0 0", {"year": 1954, "genre": "drama", "title": "Seven Samurai", "cast": ["Mifune", "Shimura"]}),
    ("0.9 0.1 0", {"year": 1950, "genre": "drama", "title": "Rashomon", "cast": ["Mifune", "Kyo"]}),
    ("0 1 0", {"year": 1979, "genre": "horror", "title": "Alien", "cast": ["Weaver"]}),
    ("0 0.9 0.1", {"year": 1982, "genre": "horror", "title": "The Thing"}),
]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[BQVectorStore]:
    with BQVectorStore(Spelled(), path=tmp_path) as made:
        made.add_texts([text for text, _ in FILMS], [film for _, film in FILMS], ids=list("abcd"))
        yield made


def ids(documents: Any) -> list[str]:
    return sorted(document.id for document in documents)


class Heard(BaseCallbackHandler):
    """The names of the runs that a callback hears of."""

    def __init__(self) -> None:
        self.runs: list[str] = []

    def on_retriever_start(self, serialized: Any, query: str, *, name: str = "", **kwargs: Any) -> None:
        self.runs.append(f"start {name} {'films' in kwargs['tags']}")

    def on_retriever_end(self, documents: Any, **kwargs: Any) -> None:
        self.runs.append(f"end {len(documents)}")


# ---- langchain-core


async def test_a_chain_with_callbacks_tags_and_batches(store: BQVectorStore) -> None:
    heard = Heard()
    retriever = store.as_retriever(k=1, tags=["films"], name="Films")
    prompt = ChatPromptTemplate.from_template("{context} | {question}")
    joined = retriever | RunnableLambda(lambda found: found[0].metadata["title"])
    llm = FakeListLLM(responses=["Kurosawa"] * 10)
    chain = {"context": joined, "question": RunnablePassthrough()} | prompt | llm
    assert chain.invoke("1 0 0", config={"callbacks": [heard]}) == "Kurosawa"
    assert heard.runs == ["start Films True", "end 1"]
    assert [ids(found) for found in retriever.batch(["1 0 0", "0 1 0"])] == [["a"], ["c"]]
    assert [ids(found) for found in await retriever.abatch(["1 0 0", "0 1 0"])] == [["a"], ["c"]]
    kinds = [event["event"] async for event in retriever.astream_events("1 0 0")]
    assert kinds[0] == "on_retriever_start" and kinds[-1] == "on_retriever_end"


async def test_a_retriever_as_a_tool(store: BQVectorStore) -> None:
    tool = create_retriever_tool(
        store.as_retriever(k=2),
        "films",
        "Searches films.",
        document_prompt=ChatPromptTemplate.from_template("{title} ({year})"),  # type: ignore[arg-type]
        response_format="content_and_artifact",
    )
    call = {"name": "films", "args": {"query": "1 0 0"}, "id": "1", "type": "tool_call"}
    for answer in (tool.invoke(call), await tool.ainvoke(call)):
        assert "Seven Samurai (1954)" in answer.content and ids(answer.artifact) == ["a", "b"]


async def test_examples_are_selected_by_similarity() -> None:
    examples = [
        {"input": "1 0", "output": "east"},
        {"input": "0.9 0.1", "output": "nearly"},
        {"input": "0 1", "output": "n"},
    ]
    near = SemanticSimilarityExampleSelector.from_examples(
        examples, Spelled(), BQVectorStore, k=2, input_keys=["input"]
    )
    assert [each["output"] for each in near.select_examples({"input": "1 0"})] == ["east", "nearly"]
    assert (await near.aselect_examples({"input": "0 1"}))[0]["output"] == "n"
    near.add_example({"input": "1 0.01", "output": "new"})
    assert near.select_examples({"input": "1 0.01"})[0]["output"] == "new"
    diverse = MaxMarginalRelevanceExampleSelector.from_examples(
        examples, Spelled(), BQVectorStore, k=2, input_keys=["input"], fetch_k=3
    )
    assert [each["output"] for each in diverse.select_examples({"input": "1 0"})] == ["east", "n"]


CONDITIONS: list[tuple[Comparator, str, Any, list[str]]] = [
    (Comparator.EQ, "genre", "horror", ["c", "d"]),
    (Comparator.NE, "genre", "horror", ["a", "b"]),
    (Comparator.GT, "year", 1954, ["c", "d"]),
    (Comparator.GTE, "year", 1954, ["a", "c", "d"]),
    (Comparator.LT, "year", 1954, ["b"]),
    (Comparator.LTE, "year", 1954, ["a", "b"]),
    (Comparator.CONTAIN, "cast", "Mifune", ["a", "b"]),
    (Comparator.LIKE, "title", "Sam", ["a"]),
    (Comparator.IN, "genre", ["drama"], ["a", "b"]),
    (Comparator.NIN, "genre", ["drama"], ["c", "d"]),
]


def test_the_conditions_are_all_comparators() -> None:
    assert {comparator for comparator, *_ in CONDITIONS} == set(Comparator) == set(BQTranslator.allowed_comparators)


# ---- langgraph


async def test_a_retriever_tool_in_an_agent(store: BQVectorStore) -> None:
    pytest.importorskip("langgraph", reason="agents run in langgraph (peers)")
    from langgraph.graph import END, START, MessagesState, StateGraph
    from langgraph.prebuilt import ToolNode, tools_condition

    tool = create_retriever_tool(store.as_retriever(k=1), "films", "Searches films.")
    call = {"name": "films", "args": {"query": "0 1 0"}, "id": "1", "type": "tool_call"}

    def model(state: Any) -> dict[str, Any]:
        """Searches first, and then says what was found."""
        last = state["messages"][-1]
        asked = AIMessage("", tool_calls=[call])  # type: ignore[list-item]
        return {"messages": [AIMessage(f"It is {last.content}") if isinstance(last, ToolMessage) else asked]}

    graph = StateGraph(MessagesState)
    graph.add_node("model", model)
    graph.add_node("tools", ToolNode([tool]))
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", tools_condition, {"tools": "tools", END: END})
    graph.add_edge("tools", "model")
    agent = graph.compile()
    asked: Any = {"messages": [HumanMessage("Which film?")]}
    for answer in (agent.invoke(asked), await agent.ainvoke(asked)):
        assert answer["messages"][-1].content == "It is 0 1 0"


# ---- langchain-classic


@pytest.mark.parametrize(("comparator", "attribute", "value", "wanted"), CONDITIONS, ids=lambda given: str(given)[:12])
async def test_a_self_query_retriever(
    store: BQVectorStore, comparator: Comparator, attribute: str, value: Any, wanted: list[str]
) -> None:
    pytest.importorskip("langchain_classic", reason="SelfQueryRetriever is in langchain-classic (peers)")
    from langchain_classic.chains.query_constructor.schema import AttributeInfo
    from langchain_classic.retrievers.self_query.base import SelfQueryRetriever

    asked = f"{comparator.value}({json.dumps(attribute)}, {json.dumps(value)})"
    answer = json.dumps({"query": "1 0 0", "filter": f'and({asked}, gt("year", 0))'})
    retriever = SelfQueryRetriever.from_llm(
        FakeListLLM(responses=[f"```json\n{answer}\n```"] * 3),
        store,
        "Films",
        [AttributeInfo(name=name, description=name, type="string") for name in ("genre", "year", "title", "cast")],
        structured_query_translator=BQTranslator(),
        enable_limit=False,
        search_kwargs={"k": 10},
    )
    assert ids(retriever.invoke("?")) == wanted
    assert ids(await retriever.ainvoke("?")) == wanted
    tree = Operation(Operator.NOT, [Comparison(comparator, attribute, value)])
    _, given = BQTranslator().visit_structured_query(StructuredQuery("", tree))
    assert ids(store.similarity_search("1 0 0", 10, **given)) == sorted(set("abcd") - set(wanted))


def byte_stores(folder: Path) -> list[ByteStore]:
    return [InMemoryByteStore(), BQByteStore(folder)]


@pytest.mark.parametrize("kind", [0, 1], ids=["memory", "own"])
async def test_parents_of_pieces(store: BQVectorStore, tmp_path: Path, kind: int) -> None:
    pytest.importorskip("langchain_classic", reason="ParentDocumentRetriever is in langchain-classic (peers)")
    from langchain_classic.retrievers import ParentDocumentRetriever
    from langchain_text_splitters import CharacterTextSplitter

    store.reset_collection()
    splitter = CharacterTextSplitter(separator=";", chunk_size=5, chunk_overlap=0)
    retriever = ParentDocumentRetriever(
        vectorstore=store, byte_store=byte_stores(tmp_path)[kind], child_splitter=splitter, search_kwargs={"k": 1}
    )
    whole = Document("1 0 0;0 1 0", metadata={"of": "one"})
    retriever.add_documents([whole, Document("0 0 1;0 0 2")], ids=["one", "two"])
    await retriever.aadd_documents([Document("9 9 9")], ids=["three"])
    assert len(store.collection) == 5
    assert [found.page_content for found in retriever.invoke("0 1 0")] == [whole.page_content]
    assert [found.page_content for found in await retriever.ainvoke("9 9 9")] == ["9 9 9"]


@pytest.mark.parametrize("kind", [0, 1], ids=["memory", "own"])
async def test_several_vectors_of_a_document(store: BQVectorStore, tmp_path: Path, kind: int) -> None:
    pytest.importorskip("langchain_classic", reason="MultiVectorRetriever is in langchain-classic (peers)")
    from langchain_classic.retrievers.multi_vector import MultiVectorRetriever, SearchType

    store.reset_collection()
    whole = {"one": Document("first"), "two": Document("second")}
    for search_type in SearchType:
        retriever = MultiVectorRetriever(
            vectorstore=store,
            byte_store=byte_stores(tmp_path)[kind],
            id_key="of",
            search_type=search_type,
            search_kwargs={"k": 2, "score_threshold": 0.5} if "threshold" in search_type.value else {"k": 2},
        )
        summaries = [
            Document(text, metadata={"of": of}) for text, of in (("1 0", "one"), ("1 0.1", "one"), ("0 1", "two"))
        ]
        retriever.vectorstore.reset_collection()  # type: ignore[attr-defined]
        retriever.vectorstore.add_documents(summaries)
        retriever.docstore.mset(list(whole.items()))
        assert retriever.invoke("1 0")[0].page_content == "first"
        assert (await retriever.ainvoke("0 1"))[0].page_content == "second"


async def test_an_ensemble_and_compression(store: BQVectorStore) -> None:
    pytest.importorskip("langchain_classic", reason="EnsembleRetriever is in langchain-classic (peers)")
    from langchain_classic.retrievers import ContextualCompressionRetriever, EnsembleRetriever
    from langchain_classic.retrievers.document_compressors import LLMChainFilter

    dramas, horrors = (
        store.as_retriever(k=2, filter={"genre": "drama"}),
        store.as_retriever(k=2, filter={"genre": "horror"}),
    )
    both = EnsembleRetriever(retrievers=[dramas, horrors], weights=[0.9, 0.1])
    assert [document.id for document in both.invoke("1 0 0")][:2] == ["a", "b"] and len(both.invoke("1 0 0")) == 4
    assert ids(await both.ainvoke("1 0 0")) == list("abcd")
    answers = FakeListLLM(responses=["YES", "YES", "NO", "NO"] * 2)  # to whether a film matters
    near = ContextualCompressionRetriever(
        base_compressor=LLMChainFilter.from_llm(answers), base_retriever=store.as_retriever(k=4)
    )
    assert ids(near.invoke("1 0 0")) == ["a", "b"] == ids(await near.ainvoke("1 0 0"))


def test_records_in_sql(store: BQVectorStore) -> None:
    pytest.importorskip("langchain_classic", reason="SQLRecordManager is in langchain-classic (peers)")
    from langchain_classic.indexes import SQLRecordManager, index

    records = SQLRecordManager("films", db_url="sqlite://")
    records.create_schema()
    store.reset_collection()
    documents = [Document(text, metadata={"source": film["genre"]}) for text, film in FILMS]

    def run(some: list[Document], cleanup: Any) -> tuple[int, int, int]:
        told = index(some, records, store, cleanup=cleanup, source_id_key="source", key_encoder="sha256")
        return told["num_added"], told["num_skipped"], told["num_deleted"]

    assert run(documents, None) == (4, 0, 0) and run(documents, "incremental") == (0, 4, 0)
    assert run(documents[1:], "incremental") == (0, 3, 1) and len(store.collection) == 3
    assert run(documents[:1], "full") == (1, 0, 3) and store.get()["documents"] == ["1 0 0"]
    assert run([], "full") == (0, 0, 1) and len(store.collection) == 0
    with pytest.raises(InvalidInputError):
        store.delete()
