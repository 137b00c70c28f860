"""Ctrl-C and SIGKILL lose nothing that was embedded, and no request is repeated that need not be."""

import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import bqstore
from bqstore.embeddings.disk_cache import EmbeddingCache
from tests.conftest import child, wait_until

from .fake_server import PATIENCE


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
    with child(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
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


ADDING = """
import itertools, sys, time
import bqstore
url, cache, folder = sys.argv[1:]
embedder = bqstore.OpenAIEmbedder(api_key="sk-x", dimensions=8, base_url=url, cache=cache, max_concurrency=3)
with bqstore.open(folder) as store:
    def texts():
        for i in itertools.count():
            if i == 600:
                print("now", flush=True)
            if i == 3000:
                time.sleep(600)  # the signal comes before, or here at the latest
            yield f"text {i}"
    embedder.add_to(store, texts(), (f"id {i}" for i in itertools.count()), batch=20)
"""


def test_ctrl_c_in_add_to_keeps_what_was_added_and_what_was_embedded(make, server, tmp_path):
    server.delay = 0.005
    arguments = [sys.executable, "-c", ADDING, server.url, str(tmp_path / "cache"), str(tmp_path / "store")]
    with child(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "now\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode != 0 and "KeyboardInterrupt" in said
    answered = set(server.answered)
    with bqstore.open(tmp_path / "store") as store:
        there = len(store)
        assert 300 <= there <= len(answered) <= 3_000 and store.verify().ok
        assert {hit.id for hit in store.scroll()} == {f"id {i}" for i in range(there)}
        make().add_to(store, [f"text {i}" for i in range(there + 200)], [f"id {i}" for i in range(there + 200)])
        assert len(store) == there + 200
    assert server.twice == []  # what was under way was kept, too


KILLED = """
import sys
from bqstore.embeddings import OpenAIEmbedder
url, cache = sys.argv[1:]
embedder = OpenAIEmbedder(api_key="sk-x", dimensions=8, base_url=url, cache=cache, max_concurrency=3)
for start, _ in embedder.stream((f"text {i}" for i in range(1000)), batch=20, ahead=5):
    print(start, flush=True)
"""


def test_a_kill_in_the_middle_repeats_no_more_than_what_was_under_way(make, server, tmp_path):
    server.delay = 0.005
    arguments = [sys.executable, "-c", KILLED, server.url, str(tmp_path / "cache")]
    with child(arguments, stdout=subprocess.PIPE, text=True) as process:
        while (line := process.stdout.readline()) != "200\n":
            assert line, "it has ended"
        process.send_signal(signal.SIGKILL)
    for _ in make().stream((f"text {i}" for i in range(1000)), batch=20):
        pass
    assert len(server.answered) == 1000 and len(server.twice) <= 3 * 20


def test_no_more_is_answered_and_not_stored_than_may_be_under_way(make, server, tmp_path, monkeypatch):
    """A slow disk let answers pile up, which a crash lost: they had to be paid for again."""
    go, put = threading.Event(), EmbeddingCache.put

    def slow(self, keys, vectors):
        assert go.wait(PATIENCE)
        put(self, keys, vectors)

    monkeypatch.setattr(EmbeddingCache, "put", slow)
    embedder = make(cache=tmp_path / "cache", max_concurrency=3)
    stream = embedder.stream((f"text {i}" for i in range(1000)), batch=20, ahead=5)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(list, stream)
        wait_until(lambda: len(server.answered) >= 60)
        time.sleep(0.2)  # in which more could come
        assert len(server.answered) == 60
        go.set()
        assert sum(len(vectors) for _, vectors in running.result()) == 1000
