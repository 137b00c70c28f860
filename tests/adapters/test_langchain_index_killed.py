"""`index()` that ends between any two commits, of documents or records: what the next run finds, and mends."""

from contextlib import suppress
from datetime import datetime, timezone
from itertools import count
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.indexing import aindex, index

import bqstore
from langchain_bqstore import BQRecordManager, BQVectorStore

from .langchain_texts import Spelled

COMMITS: list[tuple[type, str]] = [(bqstore.Records, name) for name in ("expect", "put", "delete")]  # which may be none
COMMITS += [(bqstore.Collection, "add"), (bqstore.Collection, "delete")]


def documents(*texts: str) -> list[Document]:
    return [Document(text, metadata={"source": source}) for text, source in (each.split("@") for each in texts)]


FIRST = documents("1 0@a", "0 1@a", "1 1@b")
THEN = documents("1 0@a", "2 1@a", "1 1@b", "3 1@b")  # "0 1" is gone
OVER = datetime(2020, 1, 1, tzinfo=timezone.utc)
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
    for text, place in (("1 0", "a#1"), ("2 0", "b#1"), ("3 1", "a#1")):
        with pytest.MonkeyPatch.context() as patched, suppress(KilledError):
            killed_at(patched, 3 if text != "3 1" else 100)  # behind the commit of the document
            index([Document(text, metadata={"place": place})], records, store, **how)
        assert sorted(records.list_keys()) == sorted(store.collection.ids())
    assert contents(store) == {"2 0", "3 1"}  # what is of "b" may be a run's that goes on
    (b,) = records.list_keys(before=records.get_time(), group_ids=["b"])
    assert b in store.collection
    with BQRecordManager("n", vector_store=store) as guessing, pytest.MonkeyPatch.context() as patched:
        killed_at(patched, 3)
        with pytest.raises(KilledError):
            index([Document("4 1", metadata={"place": "c#1"})], guessing, store, **how)
    with BQRecordManager("n", vector_store=store, source_id_key="place") as other:
        later = records.get_time()
        (c,) = other.list_keys(before=later, group_ids=["c#1"])
        assert other.list_keys(before=later, group_ids=["c"]) == [] and c in store.collection


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


def commits_of(store: BQVectorStore) -> int:
    return int(store.collection._engine.store.head.seq)


def test_documents_and_their_records_are_one_commit() -> None:
    """A batch was three: keys that are about to be added, documents, records."""
    store = BQVectorStore(Spelled())
    new = [documents(f"{i} 1@{'ab'[i % 2]}")[0] for i in range(20)]
    for told, commits in ((None, 1 + 10), ("source", 10)):  # a first batch shows whether the guess is right
        store.reset_collection()
        records, before = BQRecordManager("n", vector_store=store, source_id_key=told), commits_of(store)
        index(new, records, store, cleanup="incremental", batch_size=2, **HOW)
        assert commits_of(store) - before == commits
        assert len(records.list_keys(group_ids=["a"])) == 10
    before = commits_of(store)
    assert index(new, records, store, cleanup="full", batch_size=2, **HOW)["num_skipped"] == 20
    assert commits_of(store) - before == 10  # of times
    assert index(new[:10], records, store, cleanup="full", batch_size=20, **HOW)["num_deleted"] == 10
    assert commits_of(store) - before == 10 + 2  # times, and the deletion of documents with their records


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("told", [None, "source"])
async def test_a_kill_between_documents_and_their_sources_leaves_records_of_exactly_these_documents(
    told: Any, is_async: bool
) -> None:
    store = BQVectorStore(Spelled())
    records = BQRecordManager("n", vector_store=store, source_id_key=told)
    how: Any = {**HOW, "batch_size": 2, "cleanup": "incremental"}
    with pytest.MonkeyPatch.context() as patched, pytest.raises(KilledError):
        killed_at(patched, 3)
        await (aindex(FIRST, records, store, **how) if is_async else index(FIRST, records, store, **how))
    assert contents(store) == {"1 0", "0 1"}
    there = store.collection.ids()
    assert records.exists([*there, "other"]) == [True, True, False]
    assert records.list_keys(group_ids=["a"]) == sorted(there) and records.list_keys(group_ids=["b"]) == []
    done = index(FIRST, records, store, **how)
    assert (done["num_added"], done["num_skipped"], done["num_deleted"]) == (1, 2, 0)


@pytest.mark.parametrize("cleanup", ["incremental", "scoped_full"])
def test_a_guess_that_was_wrong_is_put_right_also_where_the_run_that_made_it_was_killed(cleanup: Any) -> None:
    """`index` goes by "path", and documents have a "source", too."""

    def pages(*texts: str) -> list[Document]:
        return [Document(text, metadata={"source": "web", "path": "p"}) for text in texts]

    how: Any = {"source_id_key": "path", "key_encoder": "sha256", "cleanup": cleanup}
    store = BQVectorStore(Spelled())
    records = BQRecordManager("n", vector_store=store)
    with pytest.MonkeyPatch.context() as patched, pytest.raises(KilledError):
        killed_at(patched, 3)
        index(pages("1 0"), records, store, **how)
    assert records.list_keys(group_ids=["web"]) == store.collection.ids()
    assert index(pages("2 0", "3 0"), records, store, batch_size=1, **how)["num_deleted"] == 1
    assert contents(store) == {"2 0", "3 0"} and records.list_keys(group_ids=["web"]) == []
    assert records.list_keys(group_ids=["p"]) == sorted(store.collection.ids())


@pytest.mark.parametrize("cleanup", ["incremental", "scoped_full"])
def test_a_source_that_was_the_same_under_two_keys_is_found_where_a_killed_run_has_added_another(cleanup: Any) -> None:
    """`index` goes by "path", which was "source" in the first batch: the document of the second stayed for good."""

    def page(text: str, source: str, path: str) -> Document:
        return Document(text, metadata={"source": source, "path": path})

    how: Any = {"source_id_key": "path", "key_encoder": "sha256", "cleanup": cleanup, "batch_size": 1}
    store = BQVectorStore(Spelled())
    records = BQRecordManager("n", vector_store=store)
    with pytest.MonkeyPatch.context() as patched, pytest.raises(KilledError):
        killed_at(patched, 9)  # behind the commit of the second document
        index([page("1 0", "a", "a"), page("2 0", "web", "b")], records, store, **how)
    assert contents(store) == {"1 0", "2 0"}
    index([page("1 0", "a", "a"), page("3 0", "web", "b")], records, store, **how)
    assert contents(store) == {"1 0", "3 0"}


def test_a_document_that_goes_takes_its_record_along_whoever_deletes_it() -> None:
    store = BQVectorStore(Spelled())
    records, other = (BQRecordManager(name, vector_store=store) for name in ("n", "m"))
    ways = {
        "by id": lambda: store.delete(store.collection.ids()[:1]),
        "by filter": lambda: store.delete(filter={"source": "b"}),
        "expired": lambda: (store.update_metadata(filter={"source": "a"}, expires_at=OVER), store.collection.expire()),
        "all": store.reset_collection,
    }
    for name, way in ways.items():
        for each in (records, other):
            index(FIRST, each, store, cleanup="full", force_update=True, **HOW)
        before = commits_of(store)
        way()
        assert commits_of(store) - before <= 2, name
        for each in (records, other):
            assert each.list_keys() == sorted(store.collection.ids()), name
        assert len(records.list_keys()) < 3
        before = commits_of(store)
        records.delete_keys(["gone"])
        assert commits_of(store) == before


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
    (new,) = documents("5 5@c")
    assert other.exists(["new"]) == [False]
    store.add_documents([new], ids=["new"])
    index(FIRST, records, store, cleanup="incremental", **HOW)
    assert "new" in store.collection.ids() and records.list_keys(group_ids=["c"], before=records.get_time()) == ["new"]
    other.update(["new"], group_ids=["c"])
    assert index([new, *FIRST], records, store, cleanup="scoped_full", **HOW)["num_deleted"] == 1  # it has another id


def test_a_store_on_a_server_is_refused_when_the_manager_is_made() -> None:
    qdrant = pytest.importorskip("qdrant_client")
    client = qdrant.QdrantClient(":memory:")
    with BQVectorStore(Spelled(), path=client, collection_name="c") as store:
        with pytest.raises(bqstore.InvalidInputError, match="on a server, which keeps no records; name a folder"):
            BQRecordManager("n", vector_store=store)
        with BQRecordManager("n") as records:
            assert index(FIRST, records, store, cleanup="full", **HOW)["num_added"] == 3
            assert index(FIRST[:1], records, store, cleanup="full", **HOW)["num_deleted"] == 2
            assert len(store.collection) == 1
    client.close()


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
