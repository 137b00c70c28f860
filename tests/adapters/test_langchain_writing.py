"""What goes into a `BQVectorStore` and comes out by id: adding, replacing, deleting, opening."""

import asyncio
import copy
import subprocess
import sys
import threading
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document

import bqstore
from bqstore import clock
from langchain_bqstore import BQVectorStore

from .langchain_texts import Spelled


@pytest.fixture
def store() -> BQVectorStore:
    return BQVectorStore(Spelled())


# ---- ids


def test_ids_are_the_given_ones_and_uuids_for_the_others(store: BQVectorStore) -> None:
    ids = store.add_documents([Document("1 0", id="one"), Document("0 1")])
    assert ids[0] == "one" and len(ids[1]) == 36
    assert [d.id for d in store.get_by_ids(ids)] == ids
    assert store.add_texts(["1 1", "2 1"], ids=["two", None])[0] == "two"
    assert len(store.collection) == 4


def test_keyword_ids_come_before_those_of_the_documents(store: BQVectorStore) -> None:
    documents = [Document("1 0", id="a"), Document("0 1", id="b")]
    assert store.add_documents(documents, ids=["x", "y"]) == ["x", "y"]
    assert store.add_documents(documents, ids=None) == ["a", "b"]
    assert [d.id for d in documents] == ["a", "b"]


@pytest.mark.parametrize(
    "id_", ["ü", "日本語", "a/b\\c", "../up", "' OR 1=1 --", " ", "\n", "0", "😀" * 256, "%", "\x00"]
)
def test_any_string_is_an_id(store: BQVectorStore, id_: str) -> None:
    store.add_texts(["1 0", "0 1"], [{"n": 1}, {"n": 2}], ids=[id_, "other"])
    store.add_texts(["1 0"], [{"n": 3}], ids=[id_])
    assert store.get_by_ids([id_]) == [Document("1 0", id=id_, metadata={"n": 3})]
    assert store.similarity_search("1 0", k=1)[0].id == id_
    assert store.delete([id_]) is True
    assert store.get_by_ids([id_]) == []
    assert len(store.collection) == 1


def test_the_last_of_equal_ids_in_a_batch_wins(store: BQVectorStore) -> None:
    assert store.add_texts(["1 0", "0 1", "1 1"], ids=["a", "b", "a"]) == ["a", "b", "a"]
    assert len(store.collection) == 2
    assert store.get_by_ids(["a"])[0].page_content == "1 1"
    assert store.add_texts(["1 0", "0 1", "2 1"], ids=["a", "b", "a"], batch_size=1) == ["a", "b", "a"]
    assert store.get_by_ids(["a"])[0].page_content == "2 1"


def test_get_by_ids_keeps_their_order(store: BQVectorStore) -> None:
    store.add_texts([f"{i} 1" for i in range(20)], ids=[str(i) for i in range(20)])
    wanted = ["7", "missing", "3", "19", "3", "0"]
    assert [d.id for d in store.get_by_ids(wanted)] == ["7", "3", "19", "3", "0"]
    assert store.get_by_ids([]) == []


# ---- what is stored


def test_inputs_are_not_changed(store: BQVectorStore) -> None:
    metadata: dict[str, Any] = {"tags": ["a", "b"], "nested": {"x": 1}, "none": None}
    documents = [Document("1 0", metadata=metadata), Document("0 1")]
    before, metadatas, ids = copy.deepcopy(documents), [metadata, None], [None, "b"]
    store.add_documents(documents)
    store.add_texts(["1 0", "0 1"], metadatas, ids=ids)
    assert documents == before
    assert metadatas == [before[0].metadata, None] and ids == [None, "b"]
    found = store.similarity_search("1 0", k=1)[0]
    found.metadata["tags"].append("c")
    assert store.similarity_search("1 0", k=1)[0].metadata == before[0].metadata


def test_texts_and_metadata_come_back_whole(store: BQVectorStore) -> None:
    metadata = {"ü": "日本", "deep": {"a": [1, 2.5, True, None]}, "day": date(2024, 2, 29), "": "empty key"}
    store.add_texts(["1 0"], [metadata], ids=["a"])
    assert store.get_by_ids(["a"])[0].metadata == metadata


def test_iterables_are_read_once(store: BQVectorStore) -> None:
    ids = store.add_texts((f"{i} 1" for i in range(5)), iter([{"i": i} for i in range(5)]), ids=iter("abcde"))  # type: ignore[arg-type]
    assert ids == list("abcde")
    assert store.get_by_ids(["e"]) == [Document("4 1", id="e", metadata={"i": 4})]


def test_batch_size_cuts_what_is_embedded_and_committed() -> None:
    embedding = Spelled()
    store = BQVectorStore(embedding)
    assert len(store.add_documents([Document(f"{i} 1") for i in range(7)], batch_size=3)) == 7
    assert embedding.calls == [("documents", 3), ("documents", 3), ("documents", 1)]
    embedding.calls.clear()
    store.add_texts([f"{i} 1" for i in range(3)], batch_size=np.int64(2))
    assert embedding.calls == [("documents", 2), ("documents", 1)]
    embedding.calls.clear()
    store.add_texts([f"{i} 2" for i in range(7)])
    assert embedding.calls == [("documents", 7)]


def test_adding_nothing_does_nothing() -> None:
    embedding = Spelled()
    store = BQVectorStore(embedding)
    assert store.add_texts([]) == store.add_documents([]) == store.add_texts([], [], ids=[], batch_size=4) == []
    assert embedding.calls == []
    assert store.similarity_search("1 0") == []


def test_what_another_adapter_keeps_does_not_show(store: BQVectorStore) -> None:
    kept = {bqstore.REF_DOC_ID_KEY: "source", bqstore.PRIVATE_PREFIX + "node": {"a": 1}, "lang": "en"}
    store.collection.add([[1, 0], [0, 1]], ids=["a", "b"], texts=[None, "x"], metadatas=[kept, None])
    wanted = Document("", id="a", metadata={"lang": "en"})
    assert store.get_by_ids(["a"]) == [wanted]
    assert store.similarity_search("1 0", k=1) == [wanted]
    assert store.similarity_search_with_score("1 0", k=1) == [(wanted, 1.0)]


# ---- deleting


def test_delete_is_true_for_unknown_ids_too(store: BQVectorStore) -> None:
    store.add_texts(["1 0"], ids=["a"])
    assert store.delete(["nobody"]) is True
    assert store.delete([]) is True
    assert len(store.collection) == 1
    assert store.delete(["a", "nobody", "a"]) is True
    assert len(store.collection) == 0


def test_delete_by_filter(store: BQVectorStore) -> None:
    store.add_texts(["1 0", "0 1", "1 1"], [{"n": 1}, {"n": 2}, {"n": 2}], ids=["a", "b", "c"])
    assert store.delete(["a", "b"], filter={"n": 2}) is True
    assert [d.id for d in store.get_by_ids(["a", "b", "c"])] == ["a", "c"]
    assert store.delete(filter={"n": 2}) is True
    assert [d.id for d in store.get_by_ids(["a", "b", "c"])] == ["a"]


def test_delete_without_argument_deletes_nothing(store: BQVectorStore) -> None:
    store.add_texts(["1 0"])
    for arguments in ({}, {"ids": None}, {"filter": {}}, {"ids": None, "filter": None}):
        with pytest.raises(bqstore.InvalidInputError, match=r"clear\(\) deletes everything"):
            store.delete(**arguments)
    assert len(store.collection) == 1


# ---- opening


def test_what_is_added_is_there_when_it_is_opened_again(tmp_path: Path) -> None:
    with BQVectorStore(Spelled(), path=tmp_path, collection_name="notes", distance="dot", m=8) as store:
        store.add_texts(["1 0", "0 1"], [{"n": 1}, {"n": 2}], ids=["a", "b"])
        before = store.similarity_search_with_score("2 1", k=2)
    with BQVectorStore(Spelled(), path=str(tmp_path), collection_name="notes") as store:
        assert store.similarity_search_with_score("2 1", k=2) == before
        assert store.collection.info().distance == "dot"
        assert store.collection.info().hnsw.m == 8
    with BQVectorStore(Spelled(), path=tmp_path, collection_name="others") as store:
        assert store.similarity_search("1 0") == []


def test_the_core_reads_what_was_added(tmp_path: Path) -> None:
    with BQVectorStore(Spelled(), path=tmp_path) as store:
        store.add_texts(["3 4"], [{"n": 1}], ids=["a"])
    with bqstore.open(tmp_path) as col:
        (record,) = col.get(["a"], with_vectors=True)
        assert (record.text, record.metadata, record.vector.tolist()) == ("3 4", {"n": 1}, [3.0, 4.0])


def test_close_gives_the_lock_back(tmp_path: Path) -> None:
    store = BQVectorStore(Spelled(), path=tmp_path, exclusive=True)
    with pytest.raises(bqstore.LockedError):
        BQVectorStore(Spelled(), path=tmp_path)
    store.close()
    store.close()
    with BQVectorStore(Spelled(), path=tmp_path) as again:
        again.add_texts(["1 0"])
    with pytest.raises(bqstore.ClosedError):
        again.similarity_search("1 0")
    with pytest.raises(bqstore.ClosedError):
        store.get_by_ids(["a"])


def test_read_only_follows_the_writer(tmp_path: Path) -> None:
    with pytest.raises(bqstore.NotFoundError):
        BQVectorStore(Spelled(), path=tmp_path, read_only=True)
    with BQVectorStore(Spelled(), path=tmp_path) as writer:
        writer.add_texts(["1 0"], ids=["a"])
        with BQVectorStore(Spelled(), path=tmp_path, read_only=True) as reader:
            assert [d.id for d in reader.similarity_search("1 0")] == ["a"]
            writer.add_texts(["1 0.1"], ids=["b"])
            assert [d.id for d in reader.similarity_search("1 0")] == ["a", "b"]
            with pytest.raises(bqstore.ReadOnlyError):
                reader.add_texts(["1 0"])


def test_settings_reach_the_collection(tmp_path: Path) -> None:
    with BQVectorStore(
        Spelled(),
        path=tmp_path,
        distance="euclid",
        oversampling=5,
        rescore=False,
        hnsw_ef=77,
        full_scan_threshold=0,
        originals="int8",
        embedding_model="spelled",
        m=24,
        ef_construct=99,
        encoding="one_bit",
        dim=4,
        threads=1,
    ) as store:
        info = store.collection.info()
    assert (info.distance, info.originals, info.embedding_model, info.dim) == ("euclid", "int8", "spelled", 4)
    assert info.search == bqstore.SearchParams(oversampling=5.0, rescore=False, hnsw_ef=77)
    assert info.hnsw == bqstore.HnswConfig(m=24, ef_construct=99, full_scan_threshold=0)
    with pytest.raises(bqstore.SettingsConflictError, match="spelled"):
        BQVectorStore(Spelled(), path=tmp_path, embedding_model="other")
    with BQVectorStore(Spelled(), path=tmp_path, search={"oversampling": 2.0}) as store:
        assert store.collection.info().search.oversampling == 2.0


def test_from_texts_and_from_documents_add_to_what_is_there(tmp_path: Path) -> None:
    embedding = Spelled()
    texts, metadatas = ["1 0", "0 1"], [{"n": 1}, {"n": 2}]
    with BQVectorStore.from_texts(texts, embedding, metadatas, ids=["a", "b"], path=tmp_path, m=8) as store:
        assert store.embeddings is embedding
        assert store.get_by_ids(["b"]) == [Document("0 1", id="b", metadata={"n": 2})]
    documents = [Document("1 1", id="c"), Document("2 1"), Document("1 2", id="a")]
    with BQVectorStore.from_documents(documents, embedding, path=tmp_path, batch_size=2) as store:
        assert len(store.collection) == 4
        assert store.get_by_ids(["a"])[0].page_content == "1 2"


def test_from_texts_that_fails_lets_go_of_the_folder(tmp_path: Path) -> None:
    with pytest.raises(bqstore.InvalidInputError):
        BQVectorStore.from_texts(["1 0"], Spelled(), ids=[""], path=tmp_path)
    with BQVectorStore(Spelled(), path=tmp_path) as store:
        assert len(store.collection) == 0


# ---- mistakes


@pytest.mark.parametrize(
    ("keyword", "meant"),
    [
        ({"oversample": 3}, "oversampling"),
        ({"hnswef": 3}, "hnsw_ef"),
        ({"collection": "x"}, "collection_name"),
        ({"relevance_fn": None}, "relevance_score_fn"),
        ({"full_scan_treshold": None}, "full_scan_threshold"),
        ({"ef_constuct": 3}, "ef_construct"),
        ({"readonly": True}, "read_only"),
    ],
)
def test_an_unknown_setting_names_the_nearest(tmp_path: Path, keyword: dict[str, Any], meant: str) -> None:
    for make in (BQVectorStore, lambda *a, **k: BQVectorStore.from_texts(["1 0"], *a, **k)):
        with pytest.raises(bqstore.UnknownKeywordError, match=f"no keyword '{next(iter(keyword))}'.*'{meant}'"):
            make(Spelled(), path=tmp_path / "store", **keyword)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"texts": ["1 0"], "ids": ["a", "b"]}, "ids has 2 entries for 1 texts"),
        ({"texts": ["1 0"], "ids": []}, "ids has 0 entries for 1 texts"),
        ({"texts": ["1 0", "0 1"], "metadatas": [{}]}, "metadatas has 1 entries for 2 texts"),
        ({"texts": "1 0"}, "texts is of type str; expected a list"),
        ({"texts": ["1 0"], "ids": "a"}, "ids is of type str; expected a list"),
        ({"texts": None}, "texts is of type NoneType; expected a list"),
        ({"texts": ["1 0"], "batch_size": 0}, "batch_size is 0"),
        ({"texts": ["1 0"], "batch_size": True}, "batch_size is True; expected an integer of at least 1, or None"),
        ({"texts": ["1 0"], "batch_size": np.True_}, "batch_size is"),
        ({"texts": ["1 0"], "batch_size": 2.0}, "batch_size is 2.0"),
        ({"texts": ["1 0"], "batch_size": "2"}, "batch_size is '2'"),
        ({"texts": ["1 0", None]}, "text 1 is of type NoneType; expected a string"),
        ({"texts": ["1 0", 7]}, "text 1 is of type int; expected a string"),
        ({"texts": ["1 0", "\ud800"]}, "text 1 holds a lone surrogate"),
        ({"texts": ["1 0"], "ids": [""]}, "id 0 has 0 bytes"),
        ({"texts": ["1 0"], "ids": ["x" * 1025]}, "1,025 bytes"),
        ({"texts": ["1 0"], "ids": [7]}, "id 0 is an int"),
        ({"texts": ["1 0"], "metadatas": [{"x": object()}]}, "not JSON"),
        ({"texts": ["1 0"], "metadatas": [7]}, "metadata 0 is an int; expected a dict"),
        ({"texts": ["1 0"], "metadatas": [{1: "x"}]}, "key of type int"),
        ({"texts": ["1 0"], "metadatas": [{"x": "y" * 17_000_000}]}, "at most 16,777,216"),
        ({"texts": ["1 0"], "metadatas": [{"_bq_x": 1}]}, "'_bq_x'"),
        ({"texts": ["1 0"], "batchsize": 3}, "no keyword 'batchsize'; known: metadatas, ids, batch_size"),
    ],
)
async def test_mistakes_are_told_before_anything_is_embedded(arguments: dict[str, Any], message: str) -> None:
    embedding = Spelled()
    store = BQVectorStore(embedding)
    with pytest.raises(bqstore.InvalidInputError, match=message):
        store.add_texts(**arguments)
    with pytest.raises(bqstore.InvalidInputError, match=message):
        await store.aadd_texts(**arguments)
    assert embedding.calls == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"texts": ["1 0", "1 0 0"]}, "vector 1 has 3 dimensions"),
        ({"texts": ["nan 0"]}, "NaN or infinity"),
    ],
)
def test_a_bad_vector_refuses_the_whole_batch(store: BQVectorStore, arguments: dict[str, Any], message: str) -> None:
    store.add_texts(["1 1"], ids=["before"])
    with pytest.raises(bqstore.InvalidInputError, match=message):
        store.add_texts(**arguments)
    assert [record.id for record in store.collection.scroll()] == ["before"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metadatas": [None, None, {"x": object()}]}, "metadata 2 cannot"),
        ({"metadatas": [None, None, {"x": 1j}], "ids": ["a", "b", "c"]}, r"\(document 'c'\)"),
        ({"metadatas": [{}, {}, {"_bq_x": 1}]}, "metadata 2 has the key '_bq_x'"),
        ({"ids": ["a", None, ""]}, "id 2 has 0 bytes"),
        ({"texts": ["1 0", "0 1", None]}, "text 2 is"),
    ],
)
async def test_a_mistake_in_a_later_batch_is_found_before_the_first_is_written(
    arguments: dict[str, Any], message: str
) -> None:
    embedding = Spelled()
    store = BQVectorStore(embedding)
    given: dict[str, Any] = {"texts": ["1 0", "0 1", "1 1"], "batch_size": 2, **arguments}
    with pytest.raises(bqstore.InvalidInputError, match=message):
        store.add_texts(**given)
    with pytest.raises(bqstore.InvalidInputError, match=message):
        await store.aadd_texts(**given)
    assert (embedding.calls, len(store.collection)) == ([], 0)


def test_unknown_keywords_of_delete(store: BQVectorStore) -> None:
    with pytest.raises(bqstore.UnknownKeywordError, match="'filters'; did you mean 'filter'"):
        store.delete(filters={"n": 1})


def test_a_missing_langchain_core_names_the_extra() -> None:
    blocked = (
        "import sys; sys.modules['langchain_core'] = None\n"
        "try:\n    import langchain_bqstore\n"
        "except ImportError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", blocked], capture_output=True, text=True, check=True)
    assert 'pip install "bqstore[langchain]"' in done.stdout


def test_many_threads_add_and_search(store: BQVectorStore) -> None:
    errors: list[BaseException] = []

    def work(t: int) -> None:
        try:
            for i in range(10):
                (id_,) = store.add_texts([f"{t + 1} {i + 1}"], [{"t": t}], ids=[f"{t}-{i}"])
                assert store.get_by_ids([id_])[0].metadata == {"t": t}
                assert store.similarity_search(f"{t + 1} {i + 1}", k=1, filter={"t": t})[0].id == id_
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(t,)) for t in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(store.collection) == 40


WORKER = """
import sys
from bqstore import clock
from langchain_bqstore import BQVectorStore
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding

sys.stdin.readline()
name = sys.argv[2]
for _ in range(2):  # a notebook's cell that runs twice
    documents = [Document(f"{name} {i}", id=f"{name}-{i}") for i in range(5)]
    store = BQVectorStore.from_documents(documents, DeterministicFakeEmbedding(size=32), path=sys.argv[1])
    assert store.similarity_search(f"{name} 3", k=1)[0].id == f"{name}-3"
"""


@pytest.mark.slow
def test_four_workers_make_the_same_store_at_once(tmp_path: Path) -> None:
    """Web workers, two notebooks: the first version let only one of them open it."""
    command = [sys.executable, "-W", "error::RuntimeWarning", "-c", WORKER, str(tmp_path)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    workers = [subprocess.Popen([*command, name], **pipes) for name in "abcd"]
    errors = [worker.communicate("\n")[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * 4, errors
    with bqstore.open(tmp_path) as col:
        assert len(col) == 20 and col.verify().ok


# ---- documents that expire


def test_a_text_is_over_after_its_time_and_no_document_shows_it(
    store: BQVectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = bqstore.EXPIRES_AT_KEY
    store.add_texts(["1 0", "0 1"], ids=["a", "b"], expires_at=[60, None], batch_size=1)
    store.add_documents([Document("1 1", id="c", metadata={key: 60, "n": 1})])
    store.add_embeddings([("2 1", [2.0, 1.0])], ids=["d"], expires_at=(60 for _ in range(1)))
    asyncio.run(store.aadd_texts(["1 2"], ids=["e"], expires_at=60))
    asyncio.run(store.aadd_embeddings([("1 3", [1.0, 3.0])], ids=["f"], expires_at=60))
    assert store.get_by_ids(["c"]) == [Document("1 1", id="c", metadata={"n": 1})]
    assert len(store.similarity_search("1 0", k=9)) == 6
    late = clock.now() + 120 * 10**6
    monkeypatch.setattr(clock, "now", lambda: late)
    assert [d.id for d in store.similarity_search("1 0", k=9)] == ["b"] == [d.id for d in store.get_by_ids([*"abcdef"])]
    assert store.collection.expire() == 5


def test_a_store_that_is_made_from_texts_takes_their_times() -> None:
    made = [
        BQVectorStore.from_texts(["1 0", "0 1"], Spelled(), expires_at=[60, None]),
        asyncio.run(BQVectorStore.afrom_texts(["1 0"], Spelled(), expires_at=60)),
        BQVectorStore.from_documents([Document("1 0")], Spelled(), expires_at=60),
        BQVectorStore.from_embeddings([("1 0", [1.0, 0.0])], Spelled(), expires_at=60),
    ]
    times = [[bqstore.EXPIRES_AT_KEY in each.metadata for each in store.collection.scroll()] for store in made]
    assert times == [[True, False], [True], [True], [True]]


def test_a_time_that_is_none_is_refused_before_anything_is_embedded(store: BQVectorStore) -> None:
    with pytest.raises(bqstore.InvalidInputError, match="expires_at 1 is 'soon'"):
        store.add_texts(["1 0", "no vector"], expires_at=[60, "soon"])
    with pytest.raises(bqstore.InvalidInputError, match="has 1 entry for 2 documents"):
        store.add_texts(["1 0", "no vector"], expires_at=[60])
    with pytest.raises(bqstore.InvalidInputError, match="expires_at 0 is a ndarray"):
        store.add_texts(["1 0"], expires_at=np.array(60.0))
    assert len(store.collection) == 0
