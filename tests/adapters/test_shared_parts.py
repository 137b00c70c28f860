"""What the core does for both adapters: async forms of calls, batches, methods that are not there, word searches."""

import asyncio
import inspect
from typing import Any

import pytest
from llama_index.core.vector_stores.types import VectorStoreQuery, VectorStoreQueryMode

import bqstore
from langchain_bqstore import BQVectorStore
from llama_index.vector_stores.bqstore import BQDocumentStore, BQIndexStore, BQKVStore
from llama_index.vector_stores.bqstore import BQVectorStore as NodeStore

from .langchain_texts import Spelled


class Steps:
    """Yields what it is told to, and says what it was sent and what was raised."""

    def __init__(self, *steps: Any) -> None:
        self.steps, self.met = steps, list[Any]()

    @bqstore.in_steps
    def run(self, end: Any = "end") -> Any:
        for step in self.steps:
            try:
                self.met.append((yield step))
            except BaseException as error:
                self.met.append(type(error))
                raise
        return end

    arun = bqstore.awaited(run).writing


def failing() -> None:
    raise ValueError("no")


@pytest.mark.parametrize("use_async", [False, True])
def test_a_call_in_steps_is_sent_what_each_returned_and_raised(use_async: bool) -> None:
    def run(steps: Steps) -> Any:
        return asyncio.run(steps.arun(end=3)) if use_async else steps.run(end=3)

    waits = bqstore.Waits(lambda: "waited", lambda: asyncio.sleep(0, "awaited"))
    steps = Steps(lambda: 1, waits)
    assert run(steps) == 3
    assert steps.met == [1, "awaited" if use_async else "waited"]
    steps = Steps(lambda: 1, failing, lambda: 2)
    with pytest.raises(ValueError, match="no"):
        run(steps)
    assert steps.met == [1, ValueError]


async def test_a_cancelled_call_in_steps_hears_of_it() -> None:
    steps = Steps(bqstore.Waits(failing, lambda: asyncio.sleep(60)))
    task = asyncio.create_task(steps.arun())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert steps.met == [asyncio.CancelledError]


def test_a_stop_iteration_of_a_step_ended_the_call_without_a_word() -> None:
    steps = Steps(lambda: next(iter(())))
    with pytest.raises(RuntimeError, match="StopIteration"):
        steps.run()


async def test_an_async_form_uses_the_plain_method_of_a_subclass() -> None:
    class Mine(BQVectorStore):
        def get_by_ids(self, ids: Any, /) -> Any:
            return ["mine", *ids]

        def similarity_search(self, query: str, *args: Any, **kwargs: Any) -> Any:  # in steps where it is not replaced
            return [query, *super().similarity_search(query, *args, **kwargs)]

    with Mine(Spelled()) as store:
        assert await store.aget_by_ids(["a"]) == ["mine", "a"]
        await store.aadd_texts(["1 0"], ids=["1"])
        mine, found = await store.asimilarity_search("1 0", k=1)
        assert (mine, found.id) == ("1 0", "1")


def test_async_forms_have_the_signatures_of_the_plain_calls() -> None:
    for name in ("add_texts", "similarity_search", "get_by_ids", "max_marginal_relevance_search"):
        plain, made = getattr(BQVectorStore, name), getattr(BQVectorStore, f"a{name}")
        assert inspect.signature(plain) == inspect.signature(made)
        assert inspect.iscoroutinefunction(made) and not inspect.iscoroutinefunction(plain)
        assert made.__name__ == f"a{name}" and f"`{name}`" in made.__doc__
    assert str(inspect.signature(BQVectorStore.add_texts)).endswith("-> 'list[str]'")


@pytest.mark.parametrize("mode", ["hybrid", "text"])
async def test_a_mode_for_words_without_a_text_index_spoke_of_text_after_embedding_the_query(mode: str) -> None:
    class Asked(Spelled):
        asked = 0

        def embed_query(self, text: str) -> list[float]:
            self.asked += 1
            return super().embed_query(text)

    model = Asked()
    with BQVectorStore(model) as store:
        store.add_texts(["1 0"])
        calls = [lambda: store.similarity_search("1", mode=mode), lambda: store.explain("1", mode=mode)]
        for call in (*calls, lambda: store.as_retriever(search_type=mode).invoke("1")):
            with pytest.raises(bqstore.InvalidInputError, match=rf"^mode='{mode}' .*no text index: .*text_index=True"):
                call()
        with pytest.raises(bqstore.InvalidInputError, match=rf"^mode='{mode}' .*set_text_index\(\)"):
            await store.asimilarity_search_with_score("1", mode=mode)
        assert model.asked == 0
        store.collection.set_text_index()
        assert len(store.similarity_search("1 0", mode=mode)) == 1


@pytest.mark.parametrize("mode", ["hybrid", "text_search", "sparse"])
def test_a_query_mode_for_words_without_a_text_index_is_named(mode: str) -> None:
    with NodeStore() as store:
        for given in (mode, VectorStoreQueryMode(mode)):
            query = VectorStoreQuery(query_embedding=[1.0, 0.0], query_str="a", mode=given)  # type: ignore[arg-type]
            for ask in (store.query, store.explain):
                with pytest.raises(bqstore.InvalidInputError, match=f"^the query mode '{mode}' .*no text index.*=True"):
                    ask(query)


@pytest.mark.parametrize("cls", [BQDocumentStore, BQIndexStore, BQKVStore])
def test_stores_of_llama_index_were_opened_by_names_that_these_have_not(cls: type) -> None:
    with pytest.raises(
        AttributeError, match=rf"^{cls.__name__} has no 'from_persist_path': {cls.__name__}\(path\) opens"
    ):
        cls.from_persist_path  # type: ignore[attr-defined] # noqa: B018
    assert "from_persist_path" not in dir(cls())


@pytest.mark.parametrize("given", [{"mode": "hybrid"}, {"alpha": 0.3}, {"rerank": lambda text, found: []}])
def test_what_mmr_does_not_take_was_told_as_of_a_method_of_the_collection(given: dict[str, Any]) -> None:
    with BQVectorStore(Spelled(), text_index=True) as store:
        store.add_texts(["1 0"])
        for search in (
            lambda: store.max_marginal_relevance_search("1 0", **given),
            lambda: store.as_retriever(search_type="mmr", search_kwargs=given).invoke("1 0"),
        ):
            with pytest.raises(
                bqstore.UnknownKeywordError, match=r"^max_marginal_relevance_search has no keyword '[a-z]+': it is"
            ):
                search()
