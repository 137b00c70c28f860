"""What a tracer, as LangSmith's, sees of a retriever's searches."""

from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.tracers.base import BaseTracer
from langchain_core.tracers.schemas import Run

import bqstore
from langchain_bqstore import BQVectorStore


class Memory(BaseTracer):
    """Keeps the runs that LangSmith would be sent."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[Run] = []

    def _persist_run(self, run: Run) -> None:
        self.runs.append(run)


class Printer(BaseCallbackHandler):
    def on_chain_start(self, *args: Any, **kwargs: Any) -> None:
        raise AssertionError("a chain for who is no tracer")


@pytest.fixture
def store() -> Any:
    with BQVectorStore(DeterministicFakeEmbedding(size=8), text_index=True) as store:
        store.add_texts(["cats sleep", "dogs bark", "fish"], [{"n": i} for i in range(3)], ids=["1", "2", "3"])
        yield store


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_search_is_a_child_run_that_says_how_it_was_done(store: Any, is_async: bool) -> None:
    tracer = Memory()

    async def ask(**given: Any) -> Run:
        retriever, config = store.as_retriever(**given), {"callbacks": [tracer, Printer()]}
        found = await retriever.ainvoke("cats", config) if is_async else retriever.invoke("cats", config)
        run = tracer.runs[-1]
        assert run.run_type == "retriever" and run.error is None
        if run.child_runs:
            assert run.child_runs[0].outputs["found"] == len(found)
        return run

    (child,) = (await ask(k=2, filter={"n": {"$gt": 0}})).child_runs
    how = store.explain("cats", k=2, filter={"n": {"$gt": 0}})
    assert (child.name, child.inputs) == ("bqstore.search", {"k": 2, "filter": {"n": {"$gt": 0}}})
    assert (child.outputs["way"], child.outputs["selectivity"]) == (how.way, how.selectivity) and how.selectivity < 1
    for given in ({"score_key": "score"}, {"search_type": "similarity_score_threshold", "score_threshold": 0.0}):
        assert [each.name for each in (await ask(**given)).child_runs] == ["bqstore.search"]
    for name in ("hybrid", "text"):
        (child,) = (await ask(search_type=name)).child_runs
        assert (child.outputs["mode"], child.outputs["words"]) == (name, ("cats",))
    assert (await ask(search_type="mmr")).child_runs == []


def test_the_error_of_a_search_is_in_its_run(store: Any) -> None:
    tracer = Memory()
    with pytest.raises(bqstore.InvalidInputError, match="alpha"):
        store.as_retriever(alpha=0.5).invoke("cats", {"callbacks": [tracer]})
    (child,) = tracer.runs[-1].child_runs
    assert "alpha is 0.5" in child.error and "alpha is 0.5" in tracer.runs[-1].error


def test_what_no_tracer_sees_is_not_explained(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    search = bqstore.Collection.search

    def plain(*args: Any, **given: Any) -> Any:
        assert "explain" not in given
        return search(*args, **given)

    monkeypatch.setattr(bqstore.Collection, "search", plain)
    assert store.as_retriever(k=1).invoke("cats", {"callbacks": [Printer()]})
    assert store.as_retriever(k=1, filter={"n": 1}).invoke("cats")
    assert store.similarity_search(None, filter={"n": 1})
