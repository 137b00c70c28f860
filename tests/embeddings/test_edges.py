"""What went wrong once, at the edges: interrupts, forks, event loops, folders that go, settings of no sense."""

import asyncio
import base64
import json
import shutil
import threading
from types import SimpleNamespace

import numpy as np
import openai
import pytest

import bqstore
from bqstore.embeddings import CachedEmbedder, OpenAIEmbedder
from bqstore.embeddings.in_flight import TABLE, Claim, InFlight
from bqstore.embeddings.openai import tokens
from bqstore.embeddings.openai.embedding_task import EmbeddingTask
from bqstore.embeddings.openai.rate_limiter import RateLimiter, StoppedError
from bqstore.embeddings.openai.requester import Call, run_on_loop
from bqstore.errors import EmbeddingError, InvalidInputError, ReadOnlyError

from .conftest import KEY
from .fake_server import DIM, Refusal, vector_of

# ---- event loops


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_many_calls_on_a_loop_leave_it_the_threads_that_requests_need(server, host):
    url = server.url.replace("127.0.0.1", host)
    async with openai.AsyncOpenAI(api_key=KEY, base_url=url) as client:
        embedder = OpenAIEmbedder("own", async_client=client, cache=False, max_concurrency=4)
        calls = [embedder.aembed_query(f"text {i}") for i in range(50)]
        vectors = await asyncio.wait_for(asyncio.gather(*calls), 30)
    np.testing.assert_array_equal(vectors, [vector_of(f"text {i}") for i in range(50)])
    assert server.most_under_way <= 4


def test_a_loop_that_has_stopped_is_not_waited_for():
    async def nothing():
        await asyncio.Event().wait()

    call = Call(lambda texts, timeout: None, None)
    loop = asyncio.new_event_loop()
    call.cancelled.set()
    with pytest.raises(StoppedError):
        run_on_loop(loop, nothing(), call)  # it never ran
    loop.run_until_complete(asyncio.sleep(0.01))  # what was never begun is cancelled
    loop.close()
    with pytest.raises(StoppedError):
        run_on_loop(loop, nothing(), call)


# ---- where texts go


def test_a_redirect_to_http_is_not_followed(make, server):
    server.plan = [Refusal(307, {}, {"location": "http://example.invalid/v1/embeddings"})]
    with pytest.raises(EmbeddingError, match="redirects to a server over http://"):
        make().embed_query("a")
    assert len(server.requests) == 1


def test_no_proxy_is_between_this_machine_and_itself(make, server, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    np.testing.assert_array_equal(make(max_retries=0).embed_query("a"), vector_of("a"))


def test_a_client_that_was_given_is_not_used_after_a_fork(server, tmp_path, monkeypatch):
    with openai.OpenAI(api_key=KEY, base_url=server.url) as client:
        embedder = OpenAIEmbedder("own", client=client, cache=tmp_path)
        embedder.embed_query("a")
        monkeypatch.setattr("os.getpid", lambda: -1)
        with pytest.raises(EmbeddingError, match="make client and embedder in this process"):
            embedder.embed_query("b")
    assert server.texts == ["a"]


def test_a_closed_embedder_says_so_and_sends_nothing(make, server):
    embedder = make()
    embedder.close()
    with pytest.raises(EmbeddingError, match="closed; make the embedder anew"):
        embedder.embed_query("a")
    assert server.requests == [] and embedder.usage.retried == 0


async def test_an_embedder_closed_on_a_loop_ends_its_threads_and_says_so(make, server):
    embedder, before = make(), set(threading.enumerate())
    await embedder.aembed(["a"])
    (caller,) = [thread for thread in set(threading.enumerate()) - before if "openai-call" in thread.name]
    embedder.close()
    await asyncio.to_thread(caller.join, 20)
    assert not caller.is_alive()
    with pytest.raises(EmbeddingError, match="closed; make the embedder anew"):
        await embedder.aembed(["b"])
    assert server.texts == ["a"]


def test_a_client_that_is_given_needs_no_more_than_embeddings_and_an_address(server, tmp_path):
    """One that watches another may not have all of its methods."""
    with openai.OpenAI(api_key=KEY, base_url=server.url) as inner:
        watched = SimpleNamespace(embeddings=inner.embeddings, base_url=inner.base_url)
        np.testing.assert_array_equal(
            OpenAIEmbedder("own", client=watched, cache=tmp_path).embed_query("a"), vector_of("a")
        )


# ---- answers


@pytest.mark.parametrize("value", [0.0, 1e-30, 1e30])
def test_a_vector_without_a_length_is_refused_and_not_kept(make, server, value):
    row = base64.b64encode(np.full(DIM, value, "<f4").tobytes()).decode()
    server.plan = [json.dumps({"data": [{"index": 0, "embedding": row}]}).encode()]
    with pytest.raises(EmbeddingError, match="no direction"):
        make().embed_query("a")
    np.testing.assert_array_equal(make().embed_query("a"), vector_of("a"))
    assert len(server.requests) == 2


@pytest.mark.parametrize("said", ["0", "Wed, 21 Oct 2015 07:28:10 GMT"])
def test_a_wait_of_nothing_does_not_use_up_the_retries_at_once(make, server, monkeypatch, said):
    pauses = []
    monkeypatch.setattr(RateLimiter, "pause", lambda self, seconds, until, stopped: pauses.append(seconds))
    server.plan = [Refusal(429, {}, {"retry-after": said})] * 3
    make().embed_query("a")
    assert len(pauses) == 3


# ---- what is under way


def test_ctrl_c_while_claiming_leaves_nothing_claimed():
    def interrupted():
        yield b"a"
        yield b"b"
        raise KeyboardInterrupt

    table = InFlight()
    claim = Claim(table)
    with pytest.raises(KeyboardInterrupt):
        claim.take(interrupted())
    assert set(table.claims) == {b"a", b"b"}
    claim.release()
    assert table.claims == {}


def test_work_that_nobody_closed_leaves_nothing_claimed(make):
    embedder = make()
    task = EmbeddingTask(embedder._requester, None, embedder._key_of, ["a", "b"], range(2), embedder._call())
    keys = set(task._keys)
    assert keys <= set(TABLE.claims)
    del task
    assert not keys & set(TABLE.claims)


@pytest.mark.parametrize("other", ["error", "split_mean"])
def test_a_text_cut_for_one_is_not_another_ones_answer(make, server, monkeypatch, other):
    waits, await_vector = threading.Event(), Claim.await_vector
    monkeypatch.setattr(Claim, "await_vector", lambda *given: waits.set() or await_vector(*given))
    text = "word " * 60
    server.max_chars, server.hold = 100, threading.Event()
    got = []
    first = threading.Thread(target=lambda: got.append(make(on_too_long="truncate", cache=False).embed([text])))
    first.start()
    while server.under_way < 1:  # its second request is held
        pass

    def ask():
        try:
            got.append(make(on_too_long=other, cache=False).embed([text]))
        except EmbeddingError as error:
            got.append(str(error))

    second = threading.Thread(target=ask)
    second.start()
    assert waits.wait(60)
    server.hold.set()
    first.join()
    second.join()
    if other == "error":
        assert "text 0 is longer" in got[1]
    else:
        assert not np.allclose(got[0], got[1])


@pytest.mark.usefixtures("tables")
def test_a_text_cut_to_one_length_is_not_kept_as_cut_to_another(make, server):
    text = "word " * 100
    for most in (10, 20):
        make(on_too_long="truncate", max_input_tokens=most).embed([text])
        assert most * 0.9 <= tokens.counter_for("text-embedding-3-small")(server.texts[-1]) <= most
    assert len(server.requests) == 2


# ---- the cache


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


class Inner:
    model = "own"

    def __init__(self, **settings):
        self.__dict__.update(settings)

    def embed_documents(self, texts):
        return [vector_of(text, self.dimensions).tolist() for text in texts]

    def embed_query(self, text):
        return vector_of(text, self.dimensions).tolist()


def test_a_cache_tells_dimensions_and_servers_of_one_name_apart(tmp_path):
    for settings in ({"dimensions": 8}, {"dimensions": 4}, {"dimensions": 4, "base_url": "http://localhost:1"}):
        embedder = CachedEmbedder(Inner(**settings), cache=tmp_path)
        np.testing.assert_allclose(embedder.embed(["a"])[0], vector_of("a", settings["dimensions"]))
        assert embedder.dim == settings["dimensions"]
        assert len(embedder._cache.get([embedder._passage_key("b")])) == 0
    other = CachedEmbedder(Inner(dimensions=4, base_url="http://localhost:2"), cache=tmp_path)
    assert other._cache.get([other._passage_key("a")]) == {}


# ---- what is not sent


def test_nothing_is_sent_for_a_collection_that_cannot_be_written(make, server, tmp_path):
    bqstore.open(tmp_path / "store").close()
    with bqstore.open(tmp_path / "store", read_only=True) as reader, pytest.raises(ReadOnlyError):
        make().add_to(reader, ["a"])
    assert server.requests == []


@pytest.mark.parametrize(
    ("alongside", "said"),
    [
        ({"ids": ["1"]}, "ids has 1"),
        ({"ids": ["1", "2", "3"]}, "ids has 3"),
        ({"ids": "ab"}, "ids is of type str"),
        ({"ids": [1, 2]}, "id 0 is an int"),
        ({"ids": ["1", ""]}, "id 1"),
        ({"metadatas": [{}]}, "metadatas has 1"),
    ],
)
def test_nothing_is_sent_where_lists_do_not_fit(make, server, alongside, said):
    with bqstore.open() as store, pytest.raises(InvalidInputError, match=said):
        make().add_to(store, ["a", "b"], **alongside)
    assert server.requests == []


@pytest.mark.parametrize("texts", [None, 5, b"ab"])
def test_what_is_no_list_of_texts_is_named(make, texts):
    for call in (make().embed, make().estimate, make().batch().submit, lambda t: list(make().stream(t))):
        with pytest.raises(InvalidInputError, match=f"texts is of type {type(texts).__name__}"):
            call(texts)


@pytest.mark.parametrize(
    "settings",
    [
        {"dimensions": "512"},
        {"dimensions": 8.0},
        {"dimensions": True},
        {"max_concurrency": "8"},
        {"max_concurrency": 2.5},
        {"max_retries": None},
        {"timeout": None},
        {"timeout": float("inf")},
        {"deadline": "3"},
        {"price": "0.02"},
        {"cache": None},
        {"cache": ""},
        {"max_cache_bytes": "1GB"},
        {"max_input_tokens": "5"},
        {"max_request_texts": 2.5},
        {"progress": "yes"},
        {"base_url": 5},
    ],
)
def test_a_setting_of_another_type_is_named(make, settings):
    (name,) = settings
    with pytest.raises(InvalidInputError, match=f"^{name} is "):
        make(**settings)


def test_a_key_of_another_type_and_a_url_that_is_none_are_not_shown(make):
    with pytest.raises(EmbeddingError, match="api_key is of type bytes"):
        make(api_key=KEY.encode())
    with pytest.raises(InvalidInputError, match="base_url is not a URL"):
        make(base_url="http://127.0.0.1\t.example.com/")


def test_a_dimension_of_numpys_is_a_number(make):
    np.testing.assert_array_equal(make(dimensions=np.int64(DIM)).embed_query("a"), vector_of("a"))


# ---- what other servers say of size

SIZE = {
    "vLLM": (400, {"object": "error", "message": "This model's maximum context length is 512 tokens.", "code": 400}),
    "Ollama": (400, {"error": {"message": "the input length exceeds the context length", "code": None}}),
    "LM Studio": (400, {"error": "the model is loaded with context length of only 512 tokens, which is not enough"}),
    "text-embeddings-inference": (413, {"message": "`inputs` must have less than 512 tokens. Given: 600", "code": 413}),
    "llama.cpp": (
        500,
        {"error": {"message": "input (600 tokens) is too large to process. increase the batch"}},
    ),
    "llama.cpp, newer": (400, {"error": {"message": "input (600 tokens) is larger than the max context size (512)"}}),
    "detail": (422, {"detail": "Input text exceeds maximum length of 8192 tokens"}),
    "Azure": (400, {"error": {"message": "Too many inputs. The max number of inputs is 16."}}),
}


@pytest.mark.parametrize("words", SIZE.values(), ids=SIZE)
def test_a_refusal_for_size_is_known_by_each_servers_words(make, server, words):
    status, body = words
    refusal = Refusal(status, {})
    refusal.body = lambda: body
    server.plan = [refusal]
    np.testing.assert_array_equal(make().embed(["a", "b"]), [vector_of("a"), vector_of("b")])
    assert [request["input"] for request in server.requests] == [["a", "b"], ["a"], ["b"]]
