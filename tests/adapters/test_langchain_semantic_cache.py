"""`BQSemanticCache` under real LangChain models: what is taken for the same, and what never is."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import FakeListChatModel, FakeListLLM
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.outputs import ChatGeneration, Generation

import bqstore
from langchain_bqstore import BQSemanticCache, BQVectorStore
from langchain_bqstore.semantic_cache import asked_of

NEAR = {"who sleeps?": [1.0, 0.0], "who is asleep?": [0.99, 0.14], "who barks?": [0.0, 1.0]}


class Known(Embeddings):
    def __init__(self) -> None:
        self.asked: list[str] = []

    def embed_query(self, text: str) -> list[float]:
        self.asked.append(text)
        return NEAR[text]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]


def answers() -> list[str]:
    return [str(i) for i in range(20)]


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_prompt_that_means_the_same_is_answered_from_the_cache(is_async: bool) -> None:
    embedding = Known()
    with BQSemanticCache(embedding) as cache:
        llm = FakeListLLM(responses=answers(), cache=cache)

        async def ask(text: str, **given: Any) -> str:
            return await llm.ainvoke(text, **given) if is_async else llm.invoke(text, **given)

        assert [await ask(text) for text in ("who sleeps?", "who is asleep?", "who barks?")] == ["0", "0", "1"]
        assert [await ask("who sleeps?"), await ask("who barks?")] == ["0", "1"]
        assert embedding.asked == ["who sleeps?", "who is asleep?", "who barks?"]  # each once; what is the same, never
        assert await ask("who sleeps?", stop=["."]) == "2"  # other settings of the model
        await cache.aclear() if is_async else cache.clear()
        assert await ask("who is asleep?") == "3"


async def test_only_the_last_message_is_compared_by_meaning() -> None:
    with BQSemanticCache(Known()) as cache:
        chat = FakeListChatModel(responses=answers(), cache=cache)
        kind, rude = SystemMessage("Be kind."), SystemMessage("Be rude.")
        first = chat.invoke([kind, HumanMessage("who sleeps?", id="1")])
        assert isinstance(first, AIMessage) and first.content == "0"
        assert chat.invoke([kind, HumanMessage("who is asleep?", id="2")]).content == "0"
        assert (await chat.ainvoke([kind, HumanMessage("who is asleep?")])).content == "0"
        assert chat.invoke([rude, HumanMessage("who sleeps?")]).content == "1"
        assert chat.invoke([rude, HumanMessage("who sleeps?", name="Ann")]).content == "2"
        assert chat.invoke([kind, AIMessage("hi"), HumanMessage("who sleeps?")]).content == "3"
        assert chat.invoke("who sleeps?").content == "4"  # no system prompt at all
        assert chat.invoke("who is asleep?").content == "4"


def test_an_id_of_a_message_made_another_prompt_of_it() -> None:
    said = [dumps([SystemMessage("Be kind.", id=each), HumanMessage("who sleeps?", id=each)]) for each in ("1", "2")]
    assert said[0] != said[1] and asked_of(said[0], "m") == asked_of(said[1], "m")
    for odd in ('[1, {"lc": 1, "kwargs": {"content": "x"}}]', '[{"lc": 1, "kwargs": 2}]', '{"a": 1}', '[{"lc": 1}]'):
        assert asked_of(odd, "m").text == odd  # a text that happens to be JSON


def test_answers_come_back_as_they_were_also_in_another_opening(tmp_path: Path) -> None:
    message = AIMessage("cats", tool_calls=[{"name": "f", "args": {"a": [1]}, "id": "x"}], usage_metadata=None)
    kept = [ChatGeneration(message=message, generation_info={"stop": 1}), Generation(text="dogs")]
    with BQSemanticCache(Known(), tmp_path) as cache:
        cache.update("who sleeps?", "m", kept)
        cache.update("who barks?", "m", [Generation(text="a", generation_info={"raw": object()})])  # no JSON: not kept
        cache.update("who barks?", "m", ["text"])  # type: ignore[list-item]
    with BQSemanticCache(Known(), tmp_path) as cache:
        assert cache.lookup("who is asleep?", "m") == kept and cache.lookup("who barks?", "m") is None
        cache.clear(llm_string="n")
        assert cache.lookup("who sleeps?", "m") == kept
        cache.clear(llm_string="m")
        assert cache.lookup("who sleeps?", "m") is None and len(cache.collection) == 0
        assert bqstore.collections(tmp_path) == ["llm-cache"]


def test_an_answer_is_over_after_its_time_and_thresholds_are_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    with BQSemanticCache(Known(), ttl=0.05) as cache:
        cache.update("who sleeps?", "m", [Generation(text="cats")])
        asyncio.run(asyncio.sleep(0.06))
        assert cache.lookup("who sleeps?", "m") is None and cache.lookup("who is asleep?", "m") is None
    with BQSemanticCache(Known(), score_threshold=0.999) as cache:
        cache.update("who sleeps?", "m", [Generation(text="cats")])
        assert cache.lookup("who is asleep?", "m") is None and cache.lookup("who sleeps?", "m")
        for i in range(1010):  # vectors that wait for an answer are bounded
            NEAR[f"{i}"] = [0.0, 1.0]
            cache.lookup(f"{i}", "m")
        assert len(cache._vectors) == 1000
        assert asyncio.run(cache.aupdate("0", "m", [Generation(text="x")])) is None


@pytest.mark.parametrize("wrong", [{"score_threshold": "high"}, {"ttl": -1}, {"score_threshold": True}])
def test_what_is_no_number_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(bqstore.InvalidInputError, match="expected a number above 0"):
        BQSemanticCache(Known(), **wrong)
    with (
        BQSemanticCache(Known()) as cache,
        pytest.raises(bqstore.UnknownKeywordError, match="'llm'; known: llm_string"),
    ):
        cache.clear(llm="m")


def test_a_collection_of_documents_is_no_cache_that_clear_might_empty(tmp_path: Path) -> None:
    with BQVectorStore(Known(), path=tmp_path) as store:
        store.add_texts(["who sleeps?"], ids=["1"])
        with pytest.raises(bqstore.InvalidInputError, match=r"'default' holds documents that are no answers"):
            BQSemanticCache(Known(), tmp_path, "default")
        assert store.collection.ids() == ["1"]
        with BQSemanticCache(Known(), tmp_path) as cache:
            cache.update("who sleeps?", "model", [Generation(text="Cats.")])
        with BQSemanticCache(Known(), tmp_path) as cache:
            assert len(cache.collection) == 1


@pytest.mark.parametrize(
    ("given", "says"),
    [({"score_threshold": 95}, "of distance='cosine' end at 1"), ({"distance": "euclid"}, "'euclid' end at 0")],
)
def test_a_threshold_that_no_score_reaches_is_refused(tmp_path: Path, given: dict[str, Any], says: str) -> None:
    with pytest.raises(bqstore.InvalidInputError, match=says):
        BQSemanticCache(Known(), tmp_path, **given)
    BQSemanticCache(Known(), tmp_path).close()  # the right settings are not refused afterwards
    BQSemanticCache(Known(), distance="dot", score_threshold=95).close()


def test_keywords_of_other_caches_are_refused_with_ours() -> None:
    with pytest.raises(bqstore.UnknownKeywordError, match="'distance_threshold': here it is score_threshold="):
        BQSemanticCache(Known(), distance_threshold=0.2)
