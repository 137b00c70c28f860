"""`BQByteStore` and `BQRecordManager`: LangChain's own suites, the oracle beside them, and the folder they share."""

import os
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager, aindex, index
from langchain_tests.integration_tests.base_store import BaseStoreAsyncTests, BaseStoreSyncTests

import bqstore
from langchain_bqstore import BQByteStore, BQRecordManager, BQVectorStore

from ..engine.other_process import other_process
from .langchain_texts import Spelled

ROOT = Path(bqstore.__file__).parents[1]


class TestByteStore(BaseStoreSyncTests[bytes]):
    @pytest.fixture
    def kv_store(self, tmp_path: Path) -> Generator[BQByteStore, None, None]:
        with BQByteStore(tmp_path) as store:
            yield store

    @pytest.fixture
    def three_values(self) -> tuple[bytes, bytes, bytes]:
        return b"foo", b"", b"\0\xff"


class TestByteStoreAsync(BaseStoreAsyncTests[bytes]):
    @pytest.fixture
    async def kv_store(self, tmp_path: Path) -> AsyncGenerator[BQByteStore, None]:
        with BQByteStore(tmp_path) as store:
            yield store

    @pytest.fixture
    def three_values(self) -> tuple[bytes, bytes, bytes]:
        return b"foo", b"", b"\0\xff"


def test_namespaces_and_kinds_are_apart(tmp_path: Path) -> None:
    with (
        BQByteStore(tmp_path) as one,
        BQByteStore(tmp_path, namespace="other") as two,
        BQRecordManager("default", tmp_path) as records,
    ):
        one.mset([("k", b"1")])
        records.update(["k"])
        assert two.mget(["k"]) == [None] and list(two.yield_keys()) == []
        records.delete_keys(["k"])
        assert one.mget(["k"]) == [b"1"] and not records.exists(["k"])[0]


# ---- records


@pytest.fixture(params=[BQRecordManager, InMemoryRecordManager])
def records(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Any, None, None]:
    """Ours, and the one that says what is right."""
    manager = request.param("n", tmp_path) if request.param is BQRecordManager else request.param("n")
    manager.create_schema()
    yield manager
    if hasattr(manager, "close"):
        manager.close()


def pause() -> None:
    """Until the clock of the oracle has moved."""
    time.sleep(0.001)


def test_records_are_listed_as_those_of_langchain(records: Any) -> None:
    records.update(["b", "a", "c"], group_ids=["g", None, "h"])
    pause()
    between = records.get_time()
    pause()
    records.update(["c", "d"], group_ids=["g", "h"], time_at_least=between)
    assert records.exists(["a", "z", "d"]) == [True, False, True]
    expected: list[tuple[dict[str, Any], set[str]]] = [
        ({}, {"a", "b", "c", "d"}),
        ({"before": between}, {"a", "b"}),
        ({"after": between}, {"c", "d"}),
        ({"group_ids": ["g"]}, {"b", "c"}),
        ({"group_ids": ["g", "h"], "before": between}, {"b"}),
        ({"group_ids": []}, {"a", "b", "c", "d"}),
        ({"group_ids": ["none"]}, set()),
        ({"before": between, "after": between}, set()),
        ({"limit": 0}, {"a", "b", "c", "d"}),
    ]
    for asked, keys in expected:
        assert set(records.list_keys(**asked)) == keys, asked
    assert len(records.list_keys(limit=3)) == 3 and len(records.list_keys(limit=9)) == 4
    records.delete_keys(["a", "z"])
    records.delete_keys([])
    records.update([])
    assert set(records.list_keys()) == {"b", "c", "d"}
    with pytest.raises(ValueError, match="group"):
        records.update(["a", "b"], group_ids=["g"])
    with pytest.raises(ValueError):
        records.update(["a"], time_at_least=records.get_time() + 100)
    assert not records.exists(["a"])[0]


async def test_async_records_are_those_of_langchain(records: Any) -> None:
    await records.acreate_schema()
    await records.aupdate(["a", "b"], group_ids=["g", None], time_at_least=await records.aget_time() - 1)
    pause()
    assert await records.aexists(["a", "c"]) == [True, False]
    assert await records.alist_keys(before=await records.aget_time(), group_ids=["g"]) == ["a"]
    await records.adelete_keys(["a"])
    assert await records.alist_keys(limit=5) == ["b"]


def document(text: str, source: str) -> Document:
    return Document(text, metadata={"source": source})


FIRST = [document("1 0", "a"), document("0 1", "a"), document("1 1", "b")]
THEN = [document("1 0", "a"), document("2 1", "a")]  # "0 1" is gone from a; b is not looked at
CLEANUPS = [
    (None, {"1 0", "0 1", "1 1", "2 1"}, 0),
    ("incremental", {"1 0", "2 1", "1 1"}, 1),
    ("scoped_full", {"1 0", "2 1", "1 1"}, 1),
    ("full", {"1 0", "2 1"}, 2),
]


@pytest.mark.parametrize(("cleanup", "left", "deleted"), CLEANUPS)
@pytest.mark.parametrize("batch_size", [1, 100])
def test_index_cleans_up_as_asked(tmp_path: Path, cleanup: Any, left: set[str], deleted: int, batch_size: int) -> None:
    how: dict[str, Any] = {"cleanup": cleanup, "source_id_key": "source", "key_encoder": "sha256"}
    oracle, beside = InMemoryRecordManager("n"), BQVectorStore(Spelled())
    for again, documents in enumerate([FIRST, THEN, THEN]):  # opened anew in between
        with BQVectorStore(Spelled(), path=tmp_path) as store, BQRecordManager("n", tmp_path) as records:
            done = index(documents, records, store, batch_size=batch_size, **how)
            pause()
            assert done == index(documents, oracle, beside, batch_size=batch_size, **how)
            if again:
                assert {record.text for record in store.collection.scroll()} == left
            if again == 1 and batch_size > 1:
                assert (done["num_added"], done["num_deleted"]) == (1, deleted)


@pytest.mark.parametrize(("cleanup", "left", "deleted"), CLEANUPS)
async def test_aindex_cleans_up_as_asked(tmp_path: Path, cleanup: Any, left: set[str], deleted: int) -> None:
    how: dict[str, Any] = {"cleanup": cleanup, "source_id_key": "source", "key_encoder": "sha256"}
    with BQVectorStore(Spelled(), path=tmp_path) as store, BQRecordManager("n", tmp_path) as records:
        await aindex(FIRST, records, store, **how)
        then = await aindex(THEN, records, store, **how)
        assert (then["num_added"], then["num_deleted"]) == (1, deleted)
        assert {record.text for record in store.collection.scroll()} == left


def test_a_backup_has_the_records_of_its_documents(tmp_path: Path) -> None:
    how: dict[str, Any] = {"cleanup": "full", "source_id_key": "source", "key_encoder": "sha256"}
    with (
        BQVectorStore(Spelled(), path=tmp_path / "store") as store,
        BQRecordManager("n", tmp_path / "store") as records,
    ):
        index(FIRST, records, store, **how)
        store.collection.backup(tmp_path / "copy")
    with BQVectorStore(Spelled(), path=tmp_path / "copy") as store, BQRecordManager("n", tmp_path / "copy") as records:
        done = index([*FIRST, document("2 2", "c")], records, store, **how)
        assert (done["num_added"], done["num_skipped"], done["num_deleted"]) == (1, 3, 0)


def test_a_clock_that_was_set_back_deletes_nothing_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how: dict[str, Any] = {"cleanup": "full", "source_id_key": "source", "key_encoder": "sha256"}
    with BQVectorStore(Spelled(), path=tmp_path) as store, BQRecordManager("n", tmp_path) as records:
        index(FIRST, records, store, **how)
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() - 3600)
        done = index(THEN, records, store, **how)
        assert (done["num_added"], done["num_skipped"], done["num_deleted"]) == (1, 1, 2)


def test_a_store_with_settings_of_its_own_may_be_opened_behind_its_record_manager(tmp_path: Path) -> None:
    """The manager makes no collection before it is used: one would have the default settings."""
    with BQRecordManager("n", tmp_path) as records:
        records.create_schema()
        assert records.exists(["x"]) == [False] and records.list_keys() == [] and records.get_time() > 0
        with BQVectorStore(Spelled(), path=tmp_path, distance="euclid", m=8) as store:
            assert index(FIRST, records, store, cleanup="full", key_encoder="sha256")["num_added"] == 3
            assert sorted(records.list_keys()) == sorted(store.collection.ids())
    with pytest.raises(bqstore.ClosedError):
        records.get_time()
    with pytest.raises(bqstore.NotFoundError):
        BQRecordManager("n", tmp_path / "none", read_only=True)
    with BQRecordManager("n", tmp_path, read_only=True) as reader:
        assert len(reader.list_keys()) == 3 and reader.exists(["x"]) == [False]
        for write in (reader.update, reader.delete_keys):
            with pytest.raises(bqstore.ReadOnlyError):
                write(["x"])


def test_a_store_that_is_open_for_itself_alone_keeps_records_and_so_does_a_reader(tmp_path: Path) -> None:
    how: dict[str, Any] = {"cleanup": "full", "source_id_key": "source", "key_encoder": "sha256"}
    with bqstore.open_key_values(tmp_path) as values:
        values.put({"old": b""}, "langchain/records/n", groups=["a"])
    with BQVectorStore(Spelled(), path=tmp_path, exclusive=True) as store:
        with pytest.raises(bqstore.LockedError, match="or give the store that has it open as vector_store="):
            BQRecordManager("n", tmp_path, lock_timeout=0)
        store.add_texts(["9 9"], ids=["old"])
        with BQRecordManager("n", vector_store=store) as records:
            assert records.exists(["old"]) == [True] and records.list_keys(group_ids=["a"]) == ["old"]
            assert index(FIRST, records, store, **how)["num_deleted"] == 1
    with BQVectorStore(Spelled(), path=tmp_path, read_only=True) as store:
        records = BQRecordManager("n", vector_store=store)
        assert records.exists([*store.collection.ids(), "x"]) == [True] * 3 + [False]
        with pytest.raises(bqstore.ReadOnlyError):
            records.update(["x"])
    with BQVectorStore(Spelled(), path=tmp_path) as store:
        with pytest.raises(bqstore.InvalidInputError, match="lock_timeout is given beside vector_store="):
            BQRecordManager("n", vector_store=store, lock_timeout=1)
        with pytest.raises(bqstore.UnknownKeywordError, match="'timeout'; known: lock_timeout, mode, read_only"):
            BQRecordManager("n", tmp_path, timeout=1)


def test_records_of_an_earlier_release_are_found_where_there_is_no_collection(tmp_path: Path) -> None:
    with bqstore.open_key_values(tmp_path) as values:
        values.put({"old": b""}, "langchain/records/n", groups=["a"])
    with BQRecordManager("n", tmp_path) as records:
        assert records.exists(["old", "x"]) == [True, False]


@pytest.mark.slow  # the framework is imported a second time
def test_two_processes_index_different_sources_at_once(tmp_path: Path) -> None:
    program = """
import sys
from langchain_core.documents import Document
from langchain_core.indexing import index
from langchain_bqstore import BQRecordManager, BQVectorStore
from tests.adapters.langchain_texts import Spelled
name, folder = sys.argv[1:]
with BQVectorStore(Spelled(), path=folder) as store, BQRecordManager("n", vector_store=store) as records:
    for turn in range(6):
        pages = [Document(f"{turn * 10 + i} {len(name)}", metadata={"source": name}) for i in range(10)]
        done = index(pages, records, store, batch_size=3, cleanup="incremental", source_id_key="source",
                     key_encoder="sha256")
        assert (done["num_added"], done["num_deleted"]) == (10, 10 if turn else 0), done
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "integrations")])}
    command = [sys.executable, "-c", program]
    running = [subprocess.Popen([*command, name, str(tmp_path)], env=environment, cwd=ROOT) for name in ("a", "bb")]
    assert [each.wait() for each in running] == [0, 0]
    with BQVectorStore(Spelled(), path=tmp_path) as store, BQRecordManager("n", vector_store=store) as records:
        assert {record.text for record in store.collection.scroll()} == {
            f"{i} {n}" for i in range(50, 60) for n in (1, 2)
        }
        assert sorted(records.list_keys()) == sorted(store.collection.ids()) and store.collection.verify().ok
        assert len(records.list_keys(group_ids=["a"])) == len(records.list_keys(group_ids=["bb"])) == 10


@pytest.mark.slow  # the framework is imported a second time
def test_another_process_has_the_bytes_and_the_records(tmp_path: Path) -> None:
    with BQByteStore(tmp_path) as store, BQRecordManager("n", tmp_path) as records, other_process(None) as other:
        other("import sys; sys.path.insert(0, 'integrations')")
        other(f"import langchain_bqstore as l; b = l.BQByteStore({str(tmp_path)!r})")
        other("b.mset([('page', b'1')])")
        assert store.mget(["page"]) == [b"1"]
        records.update(["k"], group_ids=["g"])
        other(f"r = l.BQRecordManager('n', {str(tmp_path)!r})")
        assert other("r.list_keys(group_ids=['g'])") == ["k"]


@pytest.mark.parametrize("kind", ["ParentDocumentRetriever", "MultiVectorRetriever"])
def test_retrievers_find_parents_after_reopening(tmp_path: Path, kind: str) -> None:
    retrievers = pytest.importorskip("langchain_classic.retrievers", reason="in langchain-classic (peers)")
    splitter = pytest.importorskip("langchain_text_splitters").CharacterTextSplitter(
        separator="|", chunk_size=3, chunk_overlap=0
    )
    parents = [document("1 0|9 0", "a"), document("0 1|0 9", "b")]

    def opened() -> Any:
        store, parts = BQVectorStore(Spelled(), path=tmp_path), BQByteStore(tmp_path)
        if kind == "ParentDocumentRetriever":
            return retrievers.ParentDocumentRetriever(vectorstore=store, byte_store=parts, child_splitter=splitter)
        return retrievers.MultiVectorRetriever(vectorstore=store, byte_store=parts)

    retriever = opened()
    if kind == "ParentDocumentRetriever":
        retriever.add_documents(parents)
    else:
        retriever.vectorstore.add_documents([Document("1 0", metadata={"doc_id": "p"})])
        retriever.docstore.mset([("p", parents[0])])
    retriever.vectorstore.close()
    assert opened().invoke("1 0")[0].page_content == "1 0|9 0"


@pytest.mark.parametrize(
    "source", [5, Path("a/b"), "https://example.com/?q=" + "é" * 1000], ids=["number", "path", "long"]
)
def test_documents_were_added_and_then_their_source_was_refused(tmp_path: Path, source: Any) -> None:
    """Numbers of rows, and addresses of more than 1,024 bytes, as LangChain's own record managers take them."""
    with BQVectorStore(Spelled(), path=tmp_path) as store, BQRecordManager("n", vector_store=store) as records:
        for text, deleted in (("1 0", 0), ("2 0", 1)):
            how: Any = {"source_id_key": lambda document: source, "key_encoder": "sha256"}
            done = index([Document(text, metadata={"source": "x"})], records, store, cleanup="incremental", **how)
            assert done["num_deleted"] == deleted
        assert records.list_keys(group_ids=[source]) == store.collection.ids()
        assert records.list_keys(group_ids=[f"{source}x"]) == []
        assert records.exists(["noted"]) == [False]
        store.add_documents([Document("3 0", metadata={"source": str(source)})], ids=["noted"])
        assert "noted" in records.list_keys(group_ids=[source], before=records.get_time())  # by its metadata


def test_what_is_no_bytes_or_no_keyword_is_refused(tmp_path: Path) -> None:
    with BQByteStore(tmp_path) as store, pytest.raises(bqstore.InvalidInputError, match="expected bytes: encode it"):
        store.mset([("a", "text")])  # type: ignore[list-item]
    with pytest.raises(bqstore.UnknownKeywordError, match="'timeout'"):
        BQByteStore(tmp_path, timeout=3)


def test_a_namespace_of_none_or_a_number_was_kept_under_its_repr(tmp_path: Path) -> None:
    with BQByteStore(tmp_path, namespace=None) as store, BQByteStore(tmp_path) as default:
        store.mset([("k", b"1")])
        assert default.mget(["k"]) == [b"1"] and store.namespace == "default"
    for wrong in (3, "", b"x"):
        with pytest.raises(bqstore.InvalidInputError, match=r"namespace is .*; expected a string"):
            BQByteStore(tmp_path, namespace=wrong)  # type: ignore[arg-type]
        with pytest.raises(bqstore.InvalidInputError, match=r"namespace is .*; expected a string"):
            BQRecordManager(wrong, tmp_path)  # type: ignore[arg-type]
    with pytest.raises(bqstore.InvalidInputError, match="namespace is None"):
        BQRecordManager(None, tmp_path)  # type: ignore[arg-type]


def test_a_folder_in_the_place_of_the_namespace_kept_the_records_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bqstore.open("store").close()
    for swapped in (tmp_path / "store", str(tmp_path / "store"), "./store", "store"):
        with pytest.raises(bqstore.InvalidInputError, match=r"namespace is .*folder"):
            BQRecordManager(swapped, "files")  # type: ignore[arg-type]
    assert not (tmp_path / "files").exists()
    for namespace in ("store", "chroma/store"):  # a name as that of the folder, and one as in LangChain's pages
        with BQRecordManager(namespace, "store") as records:
            assert records.exists(["k"]) == [False]


@pytest.mark.parametrize(
    ("keyword", "here"), [("collection", "collection_name"), ("db_url", "path="), ("vectorstore", "vector_store")]
)
def test_a_keyword_of_another_record_manager_is_refused_with_the_name_it_has_here(keyword: str, here: str) -> None:
    with pytest.raises(bqstore.UnknownKeywordError, match=f"the store has no keyword '{keyword}': .*{here}"):
        BQRecordManager("files", **{keyword: "x"})
    with pytest.raises(bqstore.UnknownKeywordError, match="'root_path': here it is path"):
        BQByteStore(root_path="x")
