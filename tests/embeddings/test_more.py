"""Long texts, streams, threads, given clients, any embedder with a cache, costs, and the bound of the cache."""

import asyncio
import io
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import openai
import pytest

import bqstore
from bqstore.embeddings import CachedEmbedder, EmbeddingCache, OpenAIEmbedder, ingest
from bqstore.embeddings.openai import tokens
from bqstore.errors import EmbeddingError, InvalidInputError, SettingsConflictError, UnknownKeywordError

from .conftest import KEY
from .fake_server import Refusal, vector_of

# ---- long texts


@pytest.mark.parametrize("counted", [True, False])
def test_truncate(make, server, counted):
    server.max_chars, server.count_the_input = 100, counted
    text = "word " * 60
    vector = make(on_too_long="truncate").embed(["a", text])[1]
    sent = server.texts[-1]
    assert text.startswith(sent) and 60 < len(sent) <= 100
    np.testing.assert_array_equal(vector, vector_of(sent))
    server.requests.clear()
    np.testing.assert_array_equal(make(on_too_long="truncate").embed(["a", text])[1], vector)
    assert server.requests == []  # what was made of a long text is kept under that name only
    with pytest.raises(EmbeddingError, match="text 0 is longer"):
        make().embed([text])


def test_split_mean(make, server):
    server.max_chars = 100
    text = " ".join(f"word{i}" for i in range(40))
    vector = make(on_too_long="split_mean").embed_query(text)
    parts = list(server.answered)
    assert "".join(parts) == text and max(map(len, parts)) <= 100
    mean = np.average([vector_of(part) for part in parts], axis=0, weights=[len(part) for part in parts])
    np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), rtol=1e-3, atol=1e-4)
    server.requests.clear()
    make(on_too_long="split_mean").embed_query(text)
    assert server.requests == []


def test_a_batch_too_big_is_halved_and_the_server_remembered(make, server):
    server.max_texts = 3
    texts = [f"text {i}" for i in range(40)]
    embedder = make(max_concurrency=1)
    np.testing.assert_array_equal(embedder.embed(texts), [vector_of(text) for text in texts])
    refused = [request for request in server.requests if len(request["input"]) > 3]
    embedder.embed([f"more {i}" for i in range(40)])
    assert server.twice == []
    assert [r for r in server.requests if len(r["input"]) > 3] == refused  # no more of them
    server.max_texts, server.max_request_chars = 10**9, 50
    np.testing.assert_array_equal(make(cache=False).embed(texts), [vector_of(text) for text in texts])


def test_tokens_are_counted_where_that_helps(make, server, tables):
    counter = tokens.counter_for("text-embedding-3-small")
    assert counter is not None and counter("hello world") == 2
    assert tokens.counter_for("home-made") is None
    texts = [f"{i} and many more words of plain English" for i in range(200)]
    make(max_request_tokens=2_200, cache=False).embed(texts)  # 9 tokens each, 40 bytes
    assert len(server.requests) == 1
    with pytest.raises(EmbeddingError, match="text 1 is longer"):
        make(cache=False).embed(["a", "word " * 9_000])
    assert len(server.requests) == 1  # nothing was sent
    make(on_too_long="truncate").embed(["word " * 9_000])
    assert counter(server.texts[-1]) <= 8_192 < counter(server.texts[-1]) * 1.05
    said = make().estimate(["hello world", "hello world", "a b c"])
    assert (said.texts, said.cached, said.tokens, said.requests, said.exact) == (3, 0, 5, 1, True)


def test_tables_that_are_not_there_are_not_waited_for(monkeypatch, tmp_path):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    tokens.load_counter.cache_clear()
    assert tokens.counter_for("text-embedding-3-small") is None
    (tmp_path / tokens.table_path().name).write_bytes(b"cut off")
    tokens.load_counter.cache_clear()
    assert tokens.counter_for("text-embedding-3-small") is None and len(list(tmp_path.iterdir())) == 1
    tokens.load_counter.cache_clear()


# ---- streams


def test_a_stream_is_in_order_and_reads_only_as_far_as_needed(make, server):
    read = []

    def texts():
        for i in range(1000):
            read.append(i)
            yield f"text {i}"

    embedder = make()
    coming = embedder.stream(texts(), batch=10, ahead=3)
    for place in range(5):
        start, vectors = next(coming)
        assert start == place * 10
        np.testing.assert_array_equal(vectors, [vector_of(f"text {i}") for i in range(start, start + 10)])
        assert len(read) <= start + 40
    coming.close()
    embedder.close()
    assert server.twice == [] and len(server.texts) <= 80


def test_an_error_in_a_stream_comes_after_the_batches_before_it(make):
    starts = []
    with pytest.raises(InvalidInputError, match="text 25 is empty"):
        for start, _ in make().stream([*"abcdefghijklmnopqrstuvwxy", ""], batch=10):
            starts.append(start)
    assert starts == [0, 10]


def test_batches_before_one_that_is_refused_come_all_the_same(make, server):
    """Batches are asked for together: what came before the refused text was lost with it."""
    server.max_chars = 20
    texts = [f"text {i}" for i in range(60)]
    texts[37] = "far too long for this server"
    starts = []
    with pytest.raises(EmbeddingError, match="text 37 is longer"):
        for start, vectors in make(max_request_texts=5, max_concurrency=1).stream(texts, batch=10, ahead=15):
            np.testing.assert_array_equal(vectors, [vector_of(text) for text in texts[start : start + 10]])
            starts.append(start)
    assert starts == [0, 10, 20]


def test_what_few_batches_lack_is_asked_for_at_once(make, server):
    texts = [f"text {i}" for i in range(20_000)]
    make().embed(texts)
    texts[::100] = [f"new {i}" for i in range(200)]
    server.requests.clear()
    with bqstore.open() as store:
        make().add_to(store, texts, map(str, range(20_000)))
        assert len(store) == 20_000 and len(server.requests) == 4
        for i in (0, 1, 19_900, 19_999):
            (found,) = store.get([str(i)], with_vectors=True)
            np.testing.assert_array_equal(found.vector, vector_of(texts[i]))


def test_add_to_a_collection_twice(make, server, tmp_path):
    texts = [f"text {i}" for i in range(95)]
    ids = [f"id {i}" for i in range(95)]
    with bqstore.open(tmp_path / "store") as store:
        server.plan = [None, None, None, Refusal(400, {})]
        with pytest.raises(EmbeddingError):
            make(max_concurrency=1).add_to(store, iter(texts), iter(ids), batch=10)
        assert len(store) == 30
        server.plan, asked = [], len(server.answered)
        assert make().add_to(store, iter(texts), ids, ({"n": i} for i in range(95)), batch=10) == 95
        assert len(store) == 95 and server.twice == [] and asked < 95
        (found,) = store.get(["id 94"], with_vectors=True)
        assert found.text == "text 94" and found.metadata == {"n": 94}
        with pytest.raises(InvalidInputError, match="ids ends at 3"):
            make().add_to(store, texts, iter(ids[:3]))
        with pytest.raises(InvalidInputError, match="metadatas has more"):
            make().add_to(store, texts[:3], ids[:3], iter([{}] * 4))


def test_another_model_is_refused_before_anything_is_sent(make, server):
    with bqstore.open() as store:
        embedder = make()
        embedder.add_to(store, ["a", "b"], ["1", "2"])
        assert store.info().embedding_model == "text-embedding-3-small"
        (hit,) = embedder.search(store, "b", 1, oversampling=2.0)
        assert hit.id == "2" and hit.score == pytest.approx(1)
        sent = len(server.requests)
        said = r"'text-embedding-3-small' \(8 dimensions\).*'text-embedding-ada-002' \(1,536 dimensions\)"
        others = [make(model="text-embedding-ada-002", dimensions=None), make(dimensions=9), make(model="a-new-one")]
        for other, words in zip(others, (said, r"\(9 dimensions\)", "'a-new-one'"), strict=True):
            with pytest.raises(SettingsConflictError, match=words):
                other.search(store, "b")
            with pytest.raises(SettingsConflictError, match=words):
                other.add_to(store, ["c"])
        assert len(server.requests) == sent and len(store) == 2


def test_an_embedder_that_fails_leaves_no_model_behind(make, server):
    server.plan = [Refusal(400, {})]
    with bqstore.open() as store:
        with pytest.raises(EmbeddingError):
            make().add_to(store, ["a"])
        assert store.info().embedding_model is None


ADDING = """
import sys, time
import bqstore
url, cache, folder = sys.argv[1:]
embedder = bqstore.OpenAIEmbedder(api_key="sk-x", dimensions=8, base_url=url, cache=cache, max_concurrency=3)
with bqstore.open(folder) as store:
    def texts():
        for i in range(100_000):
            if i == 2000:
                print("now", flush=True)
            yield f"text {i}"
    embedder.add_to(store, texts(), (f"id {i}" for i in range(100_000)), batch=20)
"""


def test_ctrl_c_in_add_to_keeps_what_was_added_and_what_was_embedded(make, server, tmp_path):
    server.delay = 0.005
    arguments = [sys.executable, "-c", ADDING, server.url, str(tmp_path / "cache"), str(tmp_path / "store")]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "now\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode != 0 and "KeyboardInterrupt" in said
    answered = set(server.answered)
    with bqstore.open(tmp_path / "store") as store:
        there = len(store)
        assert 500 <= there <= len(answered) < 10_000 and store.verify().ok
        assert {hit.id for hit in store.scroll()} == {f"id {i}" for i in range(there)}
        make().add_to(store, [f"text {i}" for i in range(there + 200)], [f"id {i}" for i in range(there + 200)])
        assert len(store) == there + 200
    assert server.twice == []  # what was under way was kept, too


KILLED = """
import sys
from bqstore.embeddings import OpenAIEmbedder
url, cache = sys.argv[1:]
embedder = OpenAIEmbedder(api_key="sk-x", dimensions=8, base_url=url, cache=cache, max_concurrency=3)
for start, _ in embedder.stream((f"text {i}" for i in range(4000)), batch=20, ahead=5):
    print(start, flush=True)
"""


def test_a_kill_in_the_middle_repeats_no_more_than_what_was_under_way(make, server, tmp_path):
    server.delay = 0.005
    arguments = [sys.executable, "-c", KILLED, server.url, str(tmp_path / "cache")]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        while process.stdout.readline() != "200\n":
            pass
        process.send_signal(signal.SIGKILL)
    for _ in make().stream((f"text {i}" for i in range(4000)), batch=20):
        pass
    assert len(server.answered) == 4000 and len(server.twice) <= 3 * 20


# ---- threads, clients, event loops


def test_equal_texts_in_two_threads_are_asked_for_once(make, server):
    embedder, results = make(cache=False), []
    server.hold = threading.Event()
    server.requests.append({"input": []})  # the next is not the first: it is held
    first = threading.Thread(target=lambda: results.append(embedder.embed(["a", "b"])))
    first.start()
    while server.under_way < 1:
        pass
    second = threading.Thread(target=lambda: results.append(make(cache=False).embed(["b", "c"])))
    second.start()
    while server.under_way < 2:
        pass
    server.hold.set()
    first.join()
    second.join()
    assert server.twice == [] and sorted(server.texts) == ["a", "b", "c"] and len(results) == 2


@pytest.mark.parametrize("azure", [False, True])
def test_a_client_that_is_given(server, azure):
    if azure:
        client = openai.AzureOpenAI(api_key=KEY, azure_endpoint=server.url, api_version="2024-02-01")
    else:
        client = openai.OpenAI(api_key=KEY, base_url=server.url)
    server.plan = [Refusal(500, {})]
    with OpenAIEmbedder("deployed", client=client, cache=False) as embedder:
        np.testing.assert_array_equal(embedder.embed_query("a"), vector_of("a"))
        assert embedder.usage.requests == len(server.requests) == 2  # the retries are ours
    assert not client.is_closed() and client.max_retries == 2
    client.close()
    with pytest.raises(InvalidInputError, match="client is of type str"):
        OpenAIEmbedder(client="a client")


async def test_an_async_client(server, tmp_path):
    async with openai.AsyncOpenAI(api_key=KEY, base_url=server.url) as client:
        embedder = OpenAIEmbedder("own", async_client=client, cache=tmp_path, max_request_texts=1, max_concurrency=4)
        server.plan, server.delay = [Refusal(429, {}), None], 0.005
        texts = [f"text {i}" for i in range(12)]
        np.testing.assert_array_equal(await embedder.aembed(texts), [vector_of(text) for text in texts])
        np.testing.assert_array_equal(await embedder.aembed_query("text 3"), vector_of("text 3"))
        assert len(server.requests) == 13 and server.most_under_way <= 4
        with pytest.raises(EmbeddingError, match="use aembed"):
            await asyncio.to_thread(embedder.embed, ["b"])


async def test_without_an_async_client_it_runs_in_a_thread(make):
    np.testing.assert_array_equal(await make().aembed(["a", "b"]), [vector_of("a"), vector_of("b")])


@pytest.mark.parametrize("url", ["http://example.com/v1", "http://10.0.0.1/v1", "ftp://localhost/v1"])
def test_only_https_but_on_this_machine(url):
    with pytest.raises(InvalidInputError, match="https://"):
        OpenAIEmbedder(api_key=KEY, base_url=url)


def test_a_key_in_the_wrong_place_is_not_shown():
    for wrong in ({"model": KEY}, {"apikey": KEY}):
        with pytest.raises(InvalidInputError, match="api_key") as caught:
            OpenAIEmbedder(**wrong)
        assert KEY not in str(caught.value)
        trace = caught.value.__traceback__.tb_next
        while trace is not None:
            assert KEY not in repr(trace.tb_frame.f_locals)
            trace = trace.tb_next
    with pytest.raises(UnknownKeywordError, match="did you mean 'max_concurrency'"):
        OpenAIEmbedder(api_key=KEY, concurrency=4)


# ---- any embedder, with a cache


class Counting:
    """Like LangChain's `Embeddings`."""

    def __init__(self):
        self.asked = []

    def embed_documents(self, texts):
        self.asked += texts
        return [vector_of(text).tolist() for text in texts]

    def embed_query(self, text):
        self.asked.append(text)
        return (-vector_of(text)).tolist()


def test_a_cache_around_anything(tmp_path):
    inner = Counting()
    for _ in range(2):
        embedder = CachedEmbedder(inner, model="own", cache=tmp_path)
        np.testing.assert_array_equal(embedder.embed(["a", "b", "a"]), [vector_of("a"), vector_of("b"), vector_of("a")])
        np.testing.assert_array_equal(embedder.embed_query("a"), -vector_of("a"))
    assert inner.asked == ["a", "b", "a"]
    assert CachedEmbedder(embedder, cache=False).embed([]).shape == (0, 0)
    assert embedder.as_langchain().embed_documents(["a"]) == [vector_of("a").tolist()]
    with pytest.raises(InvalidInputError, match="no model's name"):
        CachedEmbedder(inner)
    inner.embed_documents = lambda texts: [[1.0, float("nan")]]
    with pytest.raises(EmbeddingError, match="something else than 1 finite vectors"):
        CachedEmbedder(inner, model="own", cache=tmp_path).embed(["c"])


def test_a_cached_embedder_fills_a_collection_and_searches_it(tmp_path):
    class Inner:
        model_name, texts = "own", []

        def embed_documents(self, texts):
            self.texts += texts
            return [vector_of(text).tolist() for text in texts]

        def embed_query(self, text):
            return vector_of(text).tolist()

    texts = [f"text {i}" for i in range(25)]
    embedder = CachedEmbedder(Inner(), cache=tmp_path)
    with bqstore.open() as store:
        assert embedder.add_to(store, iter(texts), texts, batch=10) == 25
        assert embedder.add_to(store, iter(texts), texts, batch=7) == 25 and Inner.texts == texts
        assert store.info().embedding_model == "own" and len(store) == 25
        assert embedder.search(store, "text 7", 1)[0].id == "text 7"
        with pytest.raises(SettingsConflictError, match=r"'own'.*'another'"):
            CachedEmbedder(Inner(), model="another", cache=tmp_path).search(store, "text 7")


# ---- what it costs


def test_estimate_and_usage(make, server):
    embedder = make(price=2.0)
    assert embedder.estimate(["abcd", "efg"]).price == pytest.approx(7 * 2.0 / 1e6)
    embedder.embed(["abcd", "efg"])
    said = embedder.estimate(iter(["abcd", "new one"]))
    assert (said.texts, said.cached, said.requests) == (2, 1, 1)
    used = embedder.usage
    assert (used.texts, used.tokens, used.requests, used.retried, used.cached) == (2, 7, 1, 0, 0)
    assert used.price == pytest.approx(7 * 2.0 / 1e6)
    assert make(model="home-made").usage.price is None and len(server.requests) == 1
    assert embedder.estimate(["abcdef"], batch=True).price == pytest.approx(6 * 1.0 / 1e6)


def test_the_line_on_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    clock = iter([0.0, 1.0, 4.0])
    monkeypatch.setattr("bqstore.progress.time", SimpleNamespace(monotonic=lambda: next(clock)))
    with ingest.progress_line(lambda: 0.5) as line:
        line(100, 1000)
        assert sys.stderr.getvalue() == ""
        line(500, 1000)
    assert "embedding: 500 of 1,000 (100 texts/s, $0.0000, 5 s left)" in sys.stderr.getvalue()


# ---- the bound of the cache


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
