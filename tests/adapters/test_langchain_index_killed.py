"""`index()` that ends between any two commits, of documents or records: what the next run finds, and mends."""

from contextlib import suppress
from itertools import count
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.indexing import aindex, index

import bqstore
from langchain_bqstore import BQRecordManager, BQVectorStore

from .langchain_texts import Spelled

COMMITS: list[tuple[type, str]] = [(bqstore.KeyValues, "put"), (bqstore.KeyValues, "delete")]
COMMITS += [(bqstore.Collection, "add"), (bqstore.Collection, "delete")]


def documents(*texts: str) -> list[Document]:
    return [Document(text, metadata={"source": source}) for text, source in (each.split("@") for each in texts)]


FIRST = documents("1 0@a", "0 1@a", "1 1@b")
THEN = documents("1 0@a", "2 1@a", "1 1@b", "3 1@b")  # "0 1" is gone
OTHERS = documents("4 4@a", "5 5@b")  # nothing is left of what a killed run has only looked at, too
HOW: dict[str, Any] = {"source_id_key": "source", "key_encoder": "sha256"}


class KilledError(BaseException):
    """What no code catches, as a kill."""


def killed_at(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    """Let the process end before the n-th commit, the first is 0, or behind it: odd numbers are behind."""
    calls = count()
    for owner, name in COMMITS:
        call = getattr(owner, name)

        def ending(*args: Any, call: Any = call, **kwargs: Any) -> Any:
            at = 2 * next(calls)
            if at == n:
                raise KilledError
            done = call(*args, **kwargs)
            if at + 1 == n:
                raise KilledError
            return done

        monkeypatch.setattr(owner, name, ending)


def contents(store: BQVectorStore) -> set[str]:
    return {record.text or "" for record in store.collection.scroll()}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("then", [THEN, FIRST, OTHERS], ids=["again", "what-was-before", "others"])
@pytest.mark.parametrize("cleanup", ["incremental", "scoped_full", "full"])
@pytest.mark.parametrize("is_async", [False, True])
async def test_a_run_that_ended_anywhere_leaves_nothing_that_the_next_does_not_mend(
    cleanup: Any, then: list[Document], is_async: bool
) -> None:
    async def run(given: list[Document]) -> Any:
        how = {**HOW, "cleanup": cleanup}
        return await aindex(given, records, store, **how) if is_async else index(given, records, store, **how)

    for n in range(100):
        store = BQVectorStore(Spelled())
        records = BQRecordManager("n", vector_store=store)
        await run(FIRST)
        with pytest.MonkeyPatch.context() as patched:
            killed_at(patched, n)
            ended = True
            with suppress(KilledError):
                await run(THEN)
                ended = False
        await run(then)
        assert contents(store) == {document.page_content for document in then}, n
        assert sorted(records.list_keys()) == sorted(store.collection.ids()), n
        done = await run(then)
        assert (done["num_added"], done["num_skipped"], done["num_deleted"]) == (0, len(then), 0), n
        if not ended:
            break
    assert n >= 12  # begun, added, recorded, and deleted three times: six commits


@pytest.mark.parametrize("cleanup", ["incremental", "scoped_full"])
def test_a_cleanup_of_sources_that_a_function_computes_finds_what_a_killed_run_has_added(cleanup: Any) -> None:
    """The source is no value of the metadata, and `index` tells it to `update` alone, which was not reached."""

    def file_of(document: Document) -> str:
        return str(document.metadata["place"].split("#")[0])

    how: dict[str, Any] = {"source_id_key": file_of, "key_encoder": "sha256", "cleanup": cleanup}
    store = BQVectorStore(Spelled())
    records = BQRecordManager("n", vector_store=store, source_id_key=file_of)
    for text, place, left in (("1 0", "a#1", 0), ("2 0", "b#1", 1), ("3 1", "a#1", 1)):
        with pytest.MonkeyPatch.context() as patched, suppress(KilledError):
            killed_at(patched, 3 if text != "3 1" else 100)  # behind the commit of the document
            index([Document(text, metadata={"place": place})], records, store, **how)
        assert len(records.list_keys()) == left * (text == "3 1")
    assert contents(store) == {"2 0", "3 1"}  # what is of "b" may be a run's that goes on
    with BQRecordManager("n", vector_store=store, source_id_key="place") as other:
        other._values = records._values
        later = records.get_time()
        (b,) = other.list_keys(before=later, group_ids=["b#1"])
        assert other.list_keys(before=later, group_ids=["b"]) == [] and b in store.collection


@pytest.mark.parametrize("cleanup", ["incremental", "scoped_full"])
def test_the_source_1_is_not_what_has_the_page_1(cleanup: Any) -> None:
    store = BQVectorStore(Spelled())
    records = BQRecordManager("n", vector_store=store)
    with pytest.MonkeyPatch.context() as patched, suppress(KilledError):
        killed_at(patched, 3)  # behind the commit of the document
        index([Document("1 0", metadata={"source": "7", "page": 1, "of": [1]})], records, store, cleanup=cleanup, **HOW)
    index(documents("2 0@1"), records, store, cleanup=cleanup, **HOW)
    assert contents(store) == {"1 0", "2 0"}
    index(documents("3 0@7"), records, store, cleanup=cleanup, **HOW)
    assert contents(store) == {"2 0", "3 0"}


def test_a_source_id_key_that_cannot_be_one_is_refused() -> None:
    wrong: Any = 5
    with pytest.raises(bqstore.InvalidInputError, match="of type int; expected what index"):
        BQRecordManager("n", vector_store=BQVectorStore(Spelled()), source_id_key=wrong)
    with pytest.raises(bqstore.InvalidInputError, match="found with vector_store=; give both"):
        BQRecordManager("n", source_id_key="source")


def test_a_batch_of_an_indexed_store_is_one_commit_of_documents_and_two_of_records(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = BQVectorStore(Spelled())
    records = BQRecordManager("n", vector_store=store)
    commits: list[str] = []

    def told(name: str, call: Any) -> Any:
        return lambda *args, **kwargs: (commits.append(name), call(*args, **kwargs))[1]

    for owner, name in COMMITS:
        monkeypatch.setattr(owner, name, told(name, getattr(owner, name)))
    index(FIRST, records, store, cleanup="full", **HOW)
    assert commits == ["put", "add", "put"]


def test_without_the_store_a_record_whose_document_is_gone_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `vector_store` is for."""
    store, records = BQVectorStore(Spelled()), BQRecordManager("n")
    index(FIRST, records, store, cleanup="full", **HOW)
    with monkeypatch.context() as patched:
        patched.setattr(records, "delete_keys", lambda keys: (_ for _ in ()).throw(KilledError()))
        with pytest.raises(KilledError):
            index(THEN, records, store, cleanup="full", **HOW)
    assert index(FIRST, records, store, cleanup="full", **HOW)["num_skipped"] == 3
    assert contents(store) == {"1 0", "1 1"}  # and "0 1" is not there


def test_a_cleanup_of_one_source_leaves_what_a_run_of_another_has_begun() -> None:
    store = BQVectorStore(Spelled())
    records, other = BQRecordManager("n", vector_store=store), BQRecordManager("n", vector_store=store)
    records._values = other._values  # of one folder, as on disk
    (new,) = documents("5 5@c")
    assert other.exists(["new"]) == [False]
    store.add_documents([new], ids=["new"])
    index(FIRST, records, store, cleanup="incremental", **HOW)
    assert "new" in store.collection.ids() and records.list_keys(group_ids=["c"], before=records.get_time()) == ["new"]
    other.update(["new"], group_ids=["c"])
    assert index([new, *FIRST], records, store, cleanup="scoped_full", **HOW)["num_deleted"] == 1  # it has another id


def test_a_manager_of_a_store_takes_its_folder(tmp_path: Any) -> None:
    with BQVectorStore(Spelled(), path=tmp_path, collection_name="c") as store:
        store.add_texts(["1 0"], ids=["1"])
        with BQRecordManager("n", vector_store=store) as records:
            records.update(["1", "2"])
            assert records.exists(["1", "2", "3", "1"]) == [True, False, False, True]
        with BQRecordManager("n", vector_store=store, read_only=True) as records:
            assert records.exists(["1", "2"]) == [True, False] and sorted(records.list_keys()) == ["1", "2"]
        with BQRecordManager("n", tmp_path, "c") as records:
            assert records.exists(["1", "2"]) == [True, True]
        with pytest.raises(bqstore.InvalidInputError, match="path is given beside vector_store="):
            BQRecordManager("n", tmp_path, vector_store=store)
        wrong: Any = store.collection
        with pytest.raises(bqstore.InvalidInputError, match="of type Collection; expected a BQVectorStore"):
            BQRecordManager("n", vector_store=wrong)
