"""`BQSemanticCache`: answers of language models, found again by prompts that mean the same."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import sha256
from os import PathLike
from typing import Any, Final, NamedTuple

from langchain_core.caches import RETURN_VAL_TYPE, BaseCache
from langchain_core.embeddings import Embeddings
from langchain_core.messages import message_to_dict, messages_from_dict
from langchain_core.outputs import ChatGeneration, Generation
from typing_extensions import Self

import bqstore

from .embeddings import call_async
from .vectorstores import BQVectorStore

_WAITING: Final = 1000  # prompts whose vector is kept until their answer comes
_HERE: Final = {
    "distance_threshold": "here it is score_threshold=, the least cosine: 1 - the cosine distance",
    **dict.fromkeys(("redis_url", "redis_client", "database_path"), "there is no server; the folder goes into path="),
}  # of other caches


class Asked(NamedTuple):
    """A prompt: what is compared by meaning, what must be the same, and a name for all of it."""

    text: str
    rest: dict[str, str]
    id: str


class BQSemanticCache(BaseCache):
    """A cache of language models' answers that finds them by the meaning of a prompt, kept in a folder.

    Of a conversation only the text of the last message is compared by meaning. All before it, the system prompt among
    it, and the settings of the model must be the same: an answer to another conversation is never taken. A prompt that
    was there word for word is found without embedding it.

    Parameters
    ----------
    embedding : Embeddings or bqstore.Embedder
                                makes the vectors of prompts
    path : str or path          the folder, made if missing; None keeps everything in memory
    collection_name : str       the collection for it alone
    score_threshold : float     prompts with a lower score, a cosine of 1 at most, are not the same. How near two
                                questions with one answer are depends on the model: measure it on your own
    ttl : float or None         seconds after which an answer is not used any more
    **settings                  other keywords of `BQVectorStore`

    Raises
    ------
    InvalidInputError           the collection holds documents, which `clear` would delete; or no score can reach the
                                threshold: of "cosine" they end at 1, of "euclid" at 0
    BqstoreError                any error of `BQVectorStore`

    >>> from langchain_bqstore import BQSemanticCache
    >>> from langchain_core.embeddings import DeterministicFakeEmbedding
    >>> from langchain_core.language_models import FakeListLLM
    >>> cache = BQSemanticCache(DeterministicFakeEmbedding(size=64))  # in memory; path="folder" keeps it on disk
    >>> llm = FakeListLLM(responses=["first", "second"], cache=cache)
    >>> llm.invoke("Who sleeps?"), llm.invoke("Who sleeps?"), llm.invoke("Who barks?")
    ('first', 'first', 'second')
    """

    def __init__(
        self,
        embedding: Embeddings | bqstore.Embedder,
        path: str | PathLike[str] | None = None,
        collection_name: str = "llm-cache",
        *,
        score_threshold: float = 0.95,
        ttl: float | None = None,
        **settings: Any,
    ) -> None:
        for name, value in (("score_threshold", score_threshold), ("ttl", ttl)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0):
                raise bqstore.InvalidInputError(f"{name} is {value!r}; expected a number above 0")
        for name in settings.keys() & _HERE.keys():
            raise bqstore.UnknownKeywordError(f"the cache has no keyword {name!r}: {_HERE[name]}")
        _check_threshold(score_threshold, settings.get("distance"))  # before anything is made
        self._store = BQVectorStore(embedding, path=path, collection_name=collection_name, **settings)
        try:
            _check_threshold(score_threshold, self.collection.info().distance)
            _check_documents(self.collection)
        except BaseException:
            self.close()
            raise
        self._least, self._ttl = score_threshold, ttl
        self._vectors: OrderedDict[str, Any] = OrderedDict()

    @property
    def collection(self) -> bqstore.Collection:
        """The open `bqstore.Collection`, a document for each answer.

        >>> cache.update("Who sleeps?", "model", [Generation(text="Cats.")])
        >>> len(cache.collection)
        1
        """
        return self._store.collection

    def lookup(self, prompt: str, llm_string: str) -> RETURN_VAL_TYPE | None:
        """Return the answer to this prompt, or to the nearest that means the same; None if there is none.

        >>> cache.lookup("Who sleeps?", "model") is None
        True
        """
        asked = asked_of(prompt, llm_string)
        if (found := self._same(asked)) is not None:
            return found
        return self._nearest(asked, self._store.embeddings.embed_query(asked.text))

    async def alookup(self, prompt: str, llm_string: str) -> RETURN_VAL_TYPE | None:
        """Run `lookup` without blocking the event loop.

        >>> import asyncio
        >>> asyncio.run(cache.alookup("Who sleeps?", "model")) is None
        True
        """
        asked = asked_of(prompt, llm_string)
        if (found := await bqstore.reading(self._same, asked)) is not None:
            return found
        vector = await call_async(self._store.embeddings, "embed_query", asked.text)
        return await bqstore.reading(self._nearest, asked, vector)

    def update(self, prompt: str, llm_string: str, return_val: RETURN_VAL_TYPE) -> None:
        """Keep an answer, durably. One that cannot be written as JSON is not kept.

        >>> cache.update("Who sleeps?", "model", [Generation(text="Cats.")])
        >>> cache.lookup("Who sleeps?", "model")[0].text
        'Cats.'
        """
        asked, answer = asked_of(prompt, llm_string), _written(return_val)
        if answer is not None:
            vector = self._vectors.pop(asked.id, None)
            self._keep(asked, answer, self._store.embeddings.embed_query(asked.text) if vector is None else vector)

    async def aupdate(self, prompt: str, llm_string: str, return_val: RETURN_VAL_TYPE) -> None:
        """Run `update` without blocking the event loop.

        >>> import asyncio
        >>> asyncio.run(cache.aupdate("Who sleeps?", "model", [Generation(text="Cats.")]))
        """
        asked, answer = asked_of(prompt, llm_string), _written(return_val)
        if answer is not None:
            vector = self._vectors.pop(asked.id, None)
            if vector is None:
                vector = await call_async(self._store.embeddings, "embed_query", asked.text)
            await bqstore.writing(self._keep, asked, answer, vector)

    def clear(self, *, llm_string: str | None = None, **kwargs: Any) -> None:
        """Forget every answer, or those of a model with these settings.

        >>> cache.update("Who sleeps?", "model", [Generation(text="Cats.")])
        >>> cache.clear(llm_string="another"), len(cache.collection)
        (None, 1)
        >>> cache.clear(), len(cache.collection)
        (None, 0)
        """
        for name in kwargs:
            raise bqstore.UnknownKeywordError(f"clear() has no keyword {name!r}; known: llm_string")
        if llm_string is None:
            self.collection.clear()
        else:
            self.collection.delete(filter={"llm": _digest(llm_string)})

    async def aclear(self, *, llm_string: str | None = None, **kwargs: Any) -> None:
        """Run `clear` without blocking the event loop.

        >>> import asyncio
        >>> asyncio.run(cache.aclear())
        """
        await bqstore.writing(self.clear, llm_string=llm_string, **kwargs)

    def close(self) -> None:
        """Close the collection. Closing twice is fine; ``with cache:`` closes too.

        >>> cache.close()
        """
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _same(self, asked: Asked) -> RETURN_VAL_TYPE | None:
        found = self.collection.get([asked.id])
        return _read(found[0].text) if found else None

    def _nearest(self, asked: Asked, vector: Any) -> RETURN_VAL_TYPE | None:
        found = self.collection.search(vector, 1, filter=asked.rest, score_threshold=self._least)
        if found:
            return _read(found[0].text)
        self._vectors[asked.id] = vector  # for `update`, which comes next
        while len(self._vectors) > _WAITING:
            self._vectors.popitem(last=False)
        return None

    def _keep(self, asked: Asked, answer: str, vector: Any) -> None:
        self.collection.add([vector], [asked.id], [answer], [asked.rest], expires_at=self._ttl)


def _check_threshold(score_threshold: float, distance: object) -> None:
    """Refuse a threshold that no score reaches."""
    highest = {"cosine": 1.0, "euclid": 0.0}.get(str(distance), score_threshold)
    if score_threshold > highest:
        raise bqstore.InvalidInputError(
            f"score_threshold is {score_threshold!r}, and scores of distance={distance!r} end at {highest:g}: nothing "
            "would be found; expected distance='cosine' and a threshold of at most 1"
        )


def _check_documents(collection: bqstore.Collection) -> None:
    """Refuse a collection of documents: `BQSemanticCache.clear` would delete them."""
    first = next(iter(collection.scroll(limit=1)), None)
    if first is not None and not {"llm", "before"} <= first.metadata.keys():
        raise bqstore.InvalidInputError(
            f"the collection {collection.info().collection!r} holds documents that are no answers; a cache needs one "
            "for itself: give it another collection_name"
        )


def asked_of(prompt: str, llm_string: str) -> Asked:
    """Return a prompt in its parts: the text of the last message, or all of a prompt that is no conversation.

    >>> asked_of("Who sleeps?", "model").text
    'Who sleeps?'
    """
    text, before = prompt, ""
    try:
        messages = json.loads(prompt)
        last = messages[-1]["kwargs"]
        if isinstance(last["content"], str) and "lc" in messages[-1]:
            for each in messages:  # older versions of LangChain leave the ids, which are new with each call
                each.get("kwargs", {}).pop("id", None)
            text, last["content"] = last["content"], ""
            before = json.dumps(messages, sort_keys=True)
    except (ValueError, LookupError, TypeError, AttributeError):  # no conversation: passed as it is
        pass
    rest = {"llm": _digest(llm_string), "before": _digest(before)}
    return Asked(text, rest, _digest(json.dumps([text, rest])))


def _digest(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _written(answer: Sequence[Any]) -> str | None:
    """An answer as JSON, never as pickle; None where it is none."""
    out = []
    for each in answer:
        if not isinstance(each, Generation):
            return None
        is_chat = isinstance(each, ChatGeneration)
        what = {"message": message_to_dict(each.message)} if isinstance(each, ChatGeneration) else {"text": each.text}
        out.append({"chat": is_chat, "info": each.generation_info, **what})
    try:
        return json.dumps(out)
    except (TypeError, ValueError):
        return None


def _read(text: str | None) -> list[Generation]:
    out: list[Generation] = []
    for each in json.loads(text or "[]"):
        if each["chat"]:
            (message,) = messages_from_dict([each["message"]])
            out.append(ChatGeneration(message=message, generation_info=each["info"]))
        else:
            out.append(Generation(text=each["text"], generation_info=each["info"]))
    return out
