"""The cache on disk: nothing is paid for twice, whatever happens to its file, its folder or the process."""

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import pytest

from bqstore.embeddings import EmbeddingCache, user_cache_folder
from bqstore.embeddings import disk_cache as cache_module
from bqstore.embeddings.disk_cache import KeyMaker
from bqstore.errors import InvalidInputError, StorageError

from .conftest import SYNCHRONOUS
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


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 5))])
def test_flipped_bytes_never_give_a_wrong_vector(tmp_path, seed):
    rng = np.random.default_rng(seed)
    keys, vectors = keys_of(60), vectors_of(60, 100)
    for trial in range(5):
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


def test_after_so_many_damaged_files_no_other_is_begun(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "_FILES_TRIED", 2)
    cache, damaged = EmbeddingCache(tmp_path), b"no database at all" * 500
    monkeypatch.setattr(cache_module, "_create", lambda path: path.write_bytes(damaged))
    (tmp_path / "embeddings-7.db").write_bytes(damaged)
    with pytest.warns(UserWarning, match="is damaged") as said:
        assert cache.get(keys_of(3)) == {}
    assert len(said) == 2 and cache._newest().name == "embeddings-9.db"
    cache._begin_next_file(tmp_path / "embeddings-8.db", OSError())  # another process has begun the ninth
    assert cache._newest().name == "embeddings-9.db"


def test_a_file_of_an_older_version_is_cut_whole_and_an_empty_one_left(tmp_path):
    path = tmp_path / "old.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous = OFF")
        db.execute("CREATE TABLE embeddings (key BLOB, vector BLOB)")
        db.executemany("INSERT INTO embeddings VALUES (?, ?)", ((bytes([i]), bytes(3000)) for i in range(100)))
        before = path.stat().st_size
        cache_module._trim(db, 100_000, shrink=True)
        assert 0 < db.execute("SELECT count(*) FROM embeddings").fetchone()[0] < 40
        assert path.stat().st_size <= 100_000 < before
        cache_module._trim(db, 1)
        assert db.execute("SELECT count(*) FROM embeddings").fetchone()[0] == 0


def test_a_cache_that_cannot_be_written_only_warns(make, server, tmp_path, monkeypatch):
    embedder = make()

    def full(path: Path) -> sqlite3.Connection:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("bqstore.embeddings.disk_cache._connect", full)
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
        keys, vectors = keys_of(10, f"{thread}-"), vectors_of(10)
        for i in range(10):
            cache.put([keys[i]], vectors[i : i + 1])
            assert len(cache.get(keys)) == i + 1

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))


FILLING = """
import sys, warnings
import numpy as np
from bqstore.embeddings import disk_cache as cache
warnings.simplefilter("error")
warnings.filterwarnings("ignore", "the embedding cache .* is damaged")
cache._BUSY_SECONDS = 600  # on a slow machine others may hold the lock for long
folder, name = sys.argv[1:]
own, key_of = cache.EmbeddingCache(folder), cache.KeyMaker("there", "m", None)
print("ready", flush=True)
sys.stdin.read()
for i in range(15):
    own.put([key_of(f"{name}{i}")], np.full((1, 16), i, np.float32))
    own.get([key_of(f"{name}{i}")])
"""


@pytest.mark.parametrize("damaged", [False, True])
def test_many_processes(tmp_path, damaged):
    if damaged:
        (tmp_path / "embeddings-1.db").write_bytes(b"no database at all" * 500)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with ExitStack() as stack:
        workers = [
            stack.enter_context(subprocess.Popen([sys.executable, "-c", FILLING, str(tmp_path), f"{n}-"], **pipes))
            for n in range(3)
        ]
        assert [worker.stdout.readline() for worker in workers] == ["ready\n"] * 3
        for worker in workers:
            worker.stdin.close()  # all begin
        assert [worker.wait() for worker in workers] == [0] * 3
    cache = EmbeddingCache(tmp_path)
    for n in range(3):
        found = cache.get(keys_of(15, f"{n}-"))
        assert [found[key][0] for key in keys_of(15, f"{n}-")] == list(range(15))


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


def test_what_was_written_outlives_a_power_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "_SYNCHRONOUS", SYNCHRONOUS)
    with closing(cache_module._connect(tmp_path / "embeddings-1.db")) as db:
        assert db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL: each commit reaches the disk


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


def test_the_oldest_go_first(tmp_path):
    def pages(cache):
        return (cache.folder / "embeddings-1.db").stat().st_size

    keys = [bytes([i]) * 32 for i in range(200)]
    rows = np.ones((200, 1536), np.float32)
    cache = EmbeddingCache(tmp_path, max_bytes=600_000)
    for start in range(0, 200, 20):
        cache.put(keys[start : start + 20], rows[start : start + 20])
        assert pages(cache) <= 600_000
    found = sorted(cache.get(keys))
    assert 40 < len(found) < 100 and found == keys[-len(found) :]
    smaller = EmbeddingCache(tmp_path, max_bytes=300_000)
    assert pages(smaller) <= 300_000 and sorted(smaller.get(keys)) == keys[-len(smaller.get(keys)) :] != []
    with pytest.raises(InvalidInputError, match="max_cache_bytes is 0"):
        EmbeddingCache(tmp_path, max_bytes=0)


@pytest.mark.filterwarnings("error")
def test_a_cache_folder_that_was_removed_is_made_again(make, server, tmp_path):
    embedder = make()
    embedder.embed_query("a")
    shutil.rmtree(tmp_path / "cache")
    embedder.embed_query("b")
    embedder.embed_query("b")
    assert server.texts == ["a", "b"]


def test_a_cache_folder_that_cannot_be_made_again_only_warns(make, server, tmp_path):
    embedder = make()
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").write_text("a file")
    with pytest.warns(UserWarning, match="going on without it"):
        np.testing.assert_array_equal(embedder.embed_query("b"), vector_of("b"))


def test_a_cache_that_may_only_be_read_is_read(tmp_path, monkeypatch):
    """It was a StorageError."""
    keys, vectors = keys_of(3), vectors_of(3)
    EmbeddingCache(tmp_path).put(keys[:2], vectors[:2])
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)  # root may write everywhere
    cache = EmbeddingCache(tmp_path, max_bytes=1)
    cache.put(keys, vectors)
    assert sorted(cache.get(keys)) == sorted(keys[:2])
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    (tmp_path / "empty").mkdir()
    with pytest.raises(StorageError, match="cannot be written"):
        EmbeddingCache(tmp_path / "empty")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # another user's own: it was a PermissionError
    with pytest.raises(StorageError, match="cannot be read"):
        EmbeddingCache(tmp_path)


def test_a_full_disk_ends_no_embedding_where_warnings_are_errors(make, server, tmp_path, caplog):
    embedder = make()
    embedder.embed(["a"])
    for path in (tmp_path / "cache").iterdir():
        path.unlink()
    (tmp_path / "cache").rmdir()
    (tmp_path / "cache").write_text("in the way")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert embedder.embed(["b"]).shape == (1, 8)
    assert "going on without it" in caplog.text
