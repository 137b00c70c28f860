"""The cache on disk: nothing is paid for twice, whatever happens to the file or the process."""

import multiprocessing
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from bqstore.embeddings import EmbeddingCache, OpenAIEmbedder, user_cache_folder
from bqstore.embeddings import cache as cache_module
from bqstore.embeddings.cache import KeyMaker
from bqstore.errors import StorageError

from .conftest import KEY
from .fake_server import vector_of

ROOT = Path(__file__).parents[2]


def keys_of(n: int, salt: str = "") -> list[bytes]:
    key_of = KeyMaker("there", "m", None)
    return [key_of(f"{salt}{i}") for i in range(n)]


def vectors_of(n: int, dim: int = 16) -> np.ndarray:
    return np.random.default_rng(n).standard_normal((n, dim)).astype(np.float32)


def test_what_is_cached_is_not_asked_for(make, server):
    first = make().embed(["a", "b"])
    second = make().embed(["c", "b", "a"])
    assert [request["input"] for request in server.requests] == [["a", "b"], ["c"]]
    np.testing.assert_array_equal(second, [vector_of("c"), first[1], first[0]])
    make().embed_query("c")
    assert len(server.requests) == 2


def test_the_key_is_model_dimensions_server_and_text(make, server, tmp_path):
    make().embed_query("a")
    make(dimensions=4).embed_query("a")
    make(model="text-embedding-3-large").embed_query("a")
    make(base_url=server.url + "/other").embed_query("a")
    assert len(server.requests) == 4
    assert len({KeyMaker(*of)("c") for of in (("a", "b", None), ("a", "b", 0), ("ab", "", None))}) == 3


def test_the_default_folder_is_the_users_and_private(make, monkeypatch, tmp_path):
    make(cache=True).embed_query("the text")
    folder = user_cache_folder()
    assert folder == tmp_path / "cache-home" / "bqstore" / "embeddings"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert all(b"the text" not in path.read_bytes() for path in folder.iterdir())


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {}, "home/.cache"),
        ("linux", {"XDG_CACHE_HOME": "relative"}, "home/.cache"),
        ("darwin", {}, "home/Library/Caches"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local"),
        ("win32", {}, "home/AppData/Local"),
    ],
)
def test_user_cache_folder(monkeypatch, tmp_path, platform, variables, expected):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert user_cache_folder() == tmp_path / expected / "bqstore" / "embeddings"


def test_false_keeps_nothing(make, server, tmp_path):
    embedder = make(cache=False)
    embedder.embed_query("a")
    embedder.embed_query("a")
    assert len(server.requests) == 2
    assert not (tmp_path / "cache").exists() and not (tmp_path / "cache-home").exists()


def test_a_damaged_entry_is_a_miss_and_is_mended(tmp_path):
    cache, keys, vectors = EmbeddingCache(tmp_path), keys_of(5), vectors_of(5)
    cache.put(keys, vectors)
    with sqlite3.connect(tmp_path / "embeddings-1.db") as db:
        db.execute("UPDATE embeddings SET vector = zeroblob(64) WHERE key = ?", [keys[0]])
        db.execute("UPDATE embeddings SET vector = 'text' WHERE key = ?", [keys[1]])
        db.execute("UPDATE embeddings SET crc = 'text' WHERE key = ?", [keys[2]])
        other = db.execute("SELECT vector, crc FROM embeddings WHERE key = ?", [keys[4]]).fetchone()
        db.execute("UPDATE embeddings SET vector = ?, crc = ? WHERE key = ?", [*other, keys[3]])
    db.close()
    assert list(cache.get(keys)) == keys[4:]
    cache.put(keys, vectors)
    assert len(cache.get(keys)) == 5


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 4096, 5000, 20_000, -1, -4096])
def test_a_file_cut_anywhere_never_gives_a_wrong_vector(tmp_path, size):
    cache, keys, vectors = EmbeddingCache(tmp_path), keys_of(200), vectors_of(200, 300)
    cache.put(keys, vectors)
    path = tmp_path / "embeddings-1.db"
    os.truncate(path, size if size >= 0 else path.stat().st_size + size)
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        for key, vector in cache.get(keys).items():
            np.testing.assert_array_equal(vector, vectors[keys.index(key)])
        cache.put(keys, vectors)
        assert len(EmbeddingCache(tmp_path).get(keys)) == 200


def test_bytes_turned_over_never_give_a_wrong_vector(tmp_path):
    rng = np.random.default_rng(0)
    keys, vectors = keys_of(60), vectors_of(60, 100)
    for trial in range(25):
        cache = EmbeddingCache(tmp_path / str(trial))
        cache.put(keys, vectors)
        path = cache.folder / "embeddings-1.db"
        stored = np.frombuffer(path.read_bytes(), np.uint8).copy()
        stored[rng.integers(0, stored.size, 40)] ^= 255
        path.write_bytes(stored.tobytes())
        with warnings.catch_warnings(record=True):
            warnings.simplefilter("always")
            for key, vector in cache.get(keys).items():
                np.testing.assert_array_equal(vector, vectors[keys.index(key)])
            cache.put(keys, vectors)
            cache.get(keys)


def test_a_file_that_is_no_database_is_left_and_a_new_one_begun(tmp_path):
    (tmp_path / "embeddings-7.db").write_bytes(b"no database at all" * 500)
    cache, keys, vectors = EmbeddingCache(tmp_path), keys_of(3), vectors_of(3)
    with pytest.warns(UserWarning, match=r"embeddings-7\.db is damaged \(file is not a database\)"):
        assert cache.get(keys) == {}
    cache.put(keys, vectors)
    assert len(cache.get(keys)) == 3
    assert {path.name for path in tmp_path.iterdir()} == {"embeddings-7.db", "embeddings-8.db"}


def test_a_cache_that_cannot_be_written_only_warns(make, server, tmp_path, monkeypatch):
    embedder = make()

    def full(path: Path) -> sqlite3.Connection:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("bqstore.embeddings.cache._connect", full)
    with pytest.warns(UserWarning, match="database or disk is full; pass cache="):
        np.testing.assert_array_equal(embedder.embed_query("a"), vector_of("a"))


def test_a_named_folder_that_cannot_be_one_is_refused(make, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be used"):
        make(cache=tmp_path / "file")


def test_a_default_folder_that_cannot_be_one_only_warns(make, server, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="embeddings are not cached"):
        embedder = make(cache=True)
    np.testing.assert_array_equal(embedder.embed_query("a"), vector_of("a"))


def test_many_threads(tmp_path):
    cache = EmbeddingCache(tmp_path)

    def work(thread: int) -> None:
        keys, vectors = keys_of(20, f"{thread}-"), vectors_of(20)
        for i in range(20):
            cache.put([keys[i]], vectors[i : i + 1])
            assert len(cache.get(keys)) == i + 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))


def fill(folder: str, name: str) -> None:
    """One of several processes that write at the same time."""
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "the embedding cache .* is damaged")
    cache = EmbeddingCache(folder)
    for i, key in enumerate(keys_of(30, name)):
        cache.put([key], vectors_of(30)[i : i + 1])
        cache.get([key])


@pytest.mark.parametrize("damaged", [False, True])
def test_many_processes(tmp_path, damaged):
    if damaged:
        (tmp_path / "embeddings-1.db").write_bytes(b"no database at all" * 500)
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=fill, args=(str(tmp_path), f"{i}-")) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    cache = EmbeddingCache(tmp_path)
    assert all(len(cache.get(keys_of(30, f"{i}-"))) == 30 for i in range(4))


def test_an_error_leaves_what_was_embedded(make, server):
    server.max_chars = 10
    with pytest.raises(Exception, match="text 2 is longer"):
        make(max_concurrency=1, max_request_texts=1).embed(["a", "b", "c" * 11, "d"])
    server.requests.clear()
    make().embed(["a", "b"])
    assert server.requests == []


INTERRUPTED = """
import sys
from bqstore.embeddings import OpenAIEmbedder
url, cache = sys.argv[1:]
embedder = OpenAIEmbedder(
    api_key="sk-x", dimensions=8, base_url=url, cache=cache, max_concurrency=2, max_request_texts=1
)
embedder.embed([f"text {i}" for i in range(50)], progress=lambda done, total: print(done, flush=True))
"""


def test_ctrl_c_leaves_what_was_embedded(make, server, tmp_path):
    server.hold = threading.Event()  # the first request is answered; then the server is silent
    arguments = [sys.executable, "-c", INTERRUPTED, server.url, str(tmp_path / "cache")]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        assert [process.stdout.readline() for _ in range(2)] == ["0\n", "1\n"]
        process.send_signal(signal.SIGINT)
        said = process.stderr.readline()  # the traceback comes at once, though requests are still under way
        server.hold.set()
        said += process.stderr.read()
    assert process.returncode != 0 and "KeyboardInterrupt" in said
    asked = set(server.texts)
    assert len(asked) < 50
    server.requests.clear()
    make().embed(sorted(asked))
    assert server.requests == []  # the first, and those that were under way, were kept


def test_a_forked_process_talks_over_its_own_connection(make, server, tmp_path):
    program = """
import os, sys
from bqstore.embeddings import OpenAIEmbedder
embedder = OpenAIEmbedder(api_key="sk-x", dimensions=8, base_url=sys.argv[1], cache=sys.argv[2])
embedder.embed_query("before")
child = os.fork()
embedder.embed_query(f"after {child == 0}")
if child == 0:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
embedder.embed_query("last")
"""
    subprocess.run([sys.executable, "-c", program, server.url, str(tmp_path / "cache")], check=True, timeout=60)
    assert sorted(server.texts) == ["after False", "after True", "before", "last"]


def test_an_embedder_is_shared_by_threads(make, server):
    embedder = make()
    with ThreadPoolExecutor(8) as pool:
        vectors = list(pool.map(embedder.embed_query, [f"text {i % 10}" for i in range(80)]))
    np.testing.assert_array_equal(vectors, [vector_of(f"text {i % 10}") for i in range(80)])


def test_a_key_is_not_needed_to_close(server):
    embedder = OpenAIEmbedder(api_key=KEY, base_url=server.url, cache=False)
    embedder.close()
    embedder.close()


def test_a_lock_that_refuses_at_once_is_tried_again(tmp_path, monkeypatch):
    """Turning from one kind of journal to another: "database is locked", and the cache was given up."""
    real, refusals = cache_module._connect, [1, 2, 3]

    def connect(path):
        if refusals:
            refusals.pop()
            raise sqlite3.OperationalError("database is locked")
        return real(path)

    monkeypatch.setattr(cache_module, "_connect", connect)
    cache = EmbeddingCache(tmp_path)
    cache.put([b"k" * 32], np.ones((1, 3), np.float32))
    assert list(cache.get([b"k" * 32])) == [b"k" * 32] and not refusals


def test_making_a_file_that_exists_drops_nobodys_lock(tmp_path):
    path = tmp_path / "embeddings-1.db"
    with closing(cache_module._connect(path)):
        pass
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        cache_module._create(path)
        code = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('BEGIN IMMEDIATE')"
        done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
        assert "locked" in done.stderr


def test_a_file_with_a_log_of_an_earlier_version_is_taken_over(tmp_path):
    cache, keys, vectors = EmbeddingCache(tmp_path), keys_of(3), vectors_of(3)
    cache.put(keys[:2], vectors[:2])
    with closing(sqlite3.connect(tmp_path / "embeddings-1.db", isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        assert set(cache.get(keys)) == set(keys[:2])  # beside one that has it open
    cache.put(keys[2:], vectors[2:])
    assert set(cache.get(keys)) == set(keys)
    with closing(sqlite3.connect(tmp_path / "embeddings-1.db")) as db:
        assert db.execute("PRAGMA journal_mode").fetchone() != ("wal",)


def test_a_cache_whose_writer_was_killed_in_the_middle_of_a_write(tmp_path):
    cache, keys, vectors = EmbeddingCache(tmp_path), keys_of(400), vectors_of(400)
    cache.put(keys[:100], vectors[:100])
    code = """
import os, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA journal_mode=TRUNCATE")
db.execute("PRAGMA cache_size=1")  # so that pages are written before the commit
db.execute("BEGIN IMMEDIATE")
db.execute("UPDATE embeddings SET vector = zeroblob(20000)")
os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "embeddings-1.db")], check=False)
    assert (tmp_path / "embeddings-1.db-journal").stat().st_size > 0  # or nothing was left to undo
    found = EmbeddingCache(tmp_path).get(keys)
    assert set(found) == set(keys[:100])
    cache.put(keys[100:], vectors[100:])
    found = cache.get(keys)
    for key, vector in zip(keys, vectors, strict=True):
        np.testing.assert_array_equal(found[key], vector)
