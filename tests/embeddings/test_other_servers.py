"""Servers other than OpenAI's: what they leave out, refuse, limit and say."""

import json
import logging
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.thread import _threads_queues  # the pools' threads, which Python waits for when it ends
from typing import Any

import numpy as np
import openai
import pytest

from bqstore.embeddings import OpenAIEmbedder
from bqstore.embeddings.openai import requester
from bqstore.errors import EmbeddingError, InvalidInputError

from .conftest import KEY
from .fake_server import DIM, PATIENCE, Broken, Refusal, vector_of

Imitation = Callable[[dict[str, Any]], "tuple[int, Any] | None"]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(requester, "_FIRST_PAUSE", 0.002)


def answer_to(texts: list[str], **usage: float) -> dict[str, Any]:
    data = [{"index": i, "embedding": vector_of(text).tolist()} for i, text in enumerate(texts)]
    return {"data": data, "usage": usage or {"prompt_tokens": len(texts)}}


# Row by row, what the world's servers do.


@pytest.mark.parametrize("indices", ["left out when 0", "left out", "null", "all 0"])
def test_an_index_that_is_left_out_is_the_position(make, server, indices):
    def imitate(request):
        answer = answer_to(request["input"])
        for item in answer["data"]:
            if indices == "left out" or (indices == "left out when 0" and item["index"] == 0):
                del item["index"]
            elif indices in ("null", "all 0"):
                item["index"] = None if indices == "null" else 0
        return 200, answer

    server.imitate = imitate
    np.testing.assert_allclose(make().embed(["a", "b", "c"]), [vector_of(t) for t in "abc"], rtol=1e-6)


def test_a_model_of_openais_name_may_have_another_dimension_elsewhere(make, server):
    server.dim = 6
    assert make(model="text-embedding-ada-002", dimensions=None).embed(["a"]).shape == (1, 6)


def limited(most: int, status: int, words: str) -> Imitation:
    def imitate(request):
        return (status, {"error": {"message": words}}) if len(request["input"]) > most else None

    return imitate


LIMITS = {
    "Gemini": (400, "BatchEmbedContentsRequest.requests: at most 100 requests can be in one batch"),
    "Jina": (422, "List should have at most 512 items after validation, not 2048"),
    "Cohere": (400, "invalid request: total number of texts must be at most 96, received 200"),
    "Vertex": (400, "250 instance(s) is allowed per prediction. Actual: 2048"),
    "unknown words": (400, "non"),
}


@pytest.mark.parametrize("words", LIMITS.values(), ids=LIMITS)
def test_a_limit_in_any_words_halves_the_request(make, server, words):
    server.imitate = limited(3, *words)
    texts = [f"text {i}" for i in range(20)]
    np.testing.assert_array_equal(make(max_concurrency=1).embed(texts), [vector_of(text) for text in texts])
    assert server.twice == []


def test_one_text_that_is_refused_is_named_and_the_others_are_kept(make, server):
    def imitate(request):
        return (400, {"error": {"message": "content policy"}}) if "bad" in request["input"] else None

    server.imitate = imitate
    texts = [f"text {i}" for i in range(20)]
    texts[7] = "bad"
    with pytest.raises(EmbeddingError, match=r'text 7 has no vector: .*HTTP 400.*The server says: "content policy"'):
        make().embed(texts)
    asked = len(server.requests)
    texts.pop(7)
    make().embed(texts)
    assert len(server.requests) == asked and server.twice == []


def test_a_refusal_of_everything_is_not_asked_for_every_text(make, server):
    server.imitate = lambda request: (400, {"error": {"message": "this model embeds nothing"}})
    with pytest.raises(EmbeddingError, match="text 0 has no vector"):
        make().embed([f"text {i}" for i in range(64)])
    assert len(server.requests) < 12


@pytest.mark.parametrize("how", ["NaN", "null", "500", "empty", "beyond float32", "left out", "cut off"])
def test_one_text_that_cannot_be_embedded_is_named_and_the_others_are_kept(make, server, how):
    def imitate(request):
        if "bad" not in request["input"]:
            return None
        if how == "500":
            return 500, {"error": {"message": "unsupported value: NaN"}}
        answer, at = answer_to(request["input"]), request["input"].index("bad")
        if how == "left out":
            del answer["data"][at]
        elif how == "cut off":  # and nothing tells which texts the others belong to
            answer["data"] = [{"embedding": item["embedding"]} for item in answer["data"][:at]]
        else:
            given = {"NaN": [float("nan")] * DIM, "null": None, "empty": [], "beyond float32": [1e300] * DIM}
            answer["data"][at]["embedding"] = given[how]
        return 200, answer

    server.imitate = imitate
    texts = [f"text {i}" for i in range(16)]
    texts[5] = "bad"
    with pytest.raises(EmbeddingError, match="text 5 has no vector"):
        make(max_retries=2).embed(texts)
    asked = len(server.requests)
    texts.pop(5)
    np.testing.assert_allclose(make().embed(texts), [vector_of(text) for text in texts], rtol=1e-6)
    assert len(server.requests) == asked


def test_a_server_that_is_down_is_not_asked_for_every_text(make, server):
    server.imitate = lambda request: (500, {"error": {"message": "down"}})
    with pytest.raises(EmbeddingError, match="HTTP 500") as caught:
        make(max_retries=2).embed([f"text {i}" for i in range(64)])
    assert len(server.requests) == 3 + 2 and "text 0 has" not in str(caught.value)


def test_a_request_too_large_for_a_minute_is_cut_by_the_numbers_that_are_named(make, server):
    """It was sent again unchanged, eight times."""

    def imitate(request):
        n = sum(map(len, request["input"]))
        said = f"Request too large for m on tokens per min (TPM): Limit 40, Requested {n}. Visit the page"
        return (429, {"error": {"message": said, "code": "rate_limit_exceeded"}}) if n > 40 else None

    server.imitate = imitate
    texts = [f"text {i:03}" for i in range(20)]  # 8 characters each
    np.testing.assert_array_equal(make().embed(texts), [vector_of(text) for text in texts])
    assert len(server.requests) <= 7 and server.twice == []


@pytest.mark.parametrize("said", ["Limit 40000, Used 39000, Requested 5000", ""])
def test_a_rate_limit_of_many_is_waited_for_without_end(make, server, said):
    server.plan = [Refusal(429, {"message": said}, {"retry-after-ms": "1"})] * 20
    embedder = make(max_retries=2)
    np.testing.assert_array_equal(embedder.embed(["a", "b"]), [vector_of("a"), vector_of("b")])
    assert embedder.usage.retried == 20


@pytest.mark.parametrize("words", ["Please try again in 180ms.", "Please retry after 0.18 seconds."])
def test_a_wait_that_only_the_words_of_a_429_tell_is_kept(make, server, words):
    """A proxy leaves out the headers."""
    server.plan = [Refusal(429, {"message": f"Rate limit reached. Limit 9, Used 9. {words}"}, headers={})] * 3
    make(max_retries=0).embed(["a"])
    assert np.diff(server.times).min() >= 0.17


def test_an_error_in_an_answer_of_status_200_is_a_refusal(make, server):
    server.plan = [json.dumps({"error": {"code": 429, "message": "slow down"}}).encode()]
    np.testing.assert_array_equal(make().embed_query("a"), vector_of("a"))
    server.plan = [json.dumps({"error": {"message": "no such provider"}}).encode()]
    with pytest.raises(EmbeddingError, match=r"HTTP 400.*no such provider"):
        make().embed_query("b")


def test_json_that_breaks_off_is_asked_for_again(make, server):
    server.plan = [b'{"data": [{"index": 0, "embed']
    np.testing.assert_array_equal(make().embed_query("a"), vector_of("a"))


def test_a_base_url_that_leads_elsewhere_is_named(make, server):
    refusals = [Refusal(404, {"message": "Not Found"}), Refusal(405, {"message": "Method Not Allowed"})]
    server.plan = [b"<html>Welcome to the server</html>", *refusals]
    for _ in range(3):
        with pytest.raises(EmbeddingError, match=re.escape(server.url.removesuffix("/v1")) + ".* to end in /v1"):
            make(base_url=server.url.removesuffix("/v1")).embed_query("a")


def test_the_servers_words_are_shown_and_logged_without_key_and_texts(make, server, caplog):
    caplog.set_level(logging.INFO, "bqstore")
    text = "The patient's name is John Q. Doe, born in Springfield."
    said = f"\x1b[31mThe model is busy\x00loading. Key {KEY}, part {KEY[8:]}, text '{text}', cut '{text[14:40]}...'"
    server.plan = [Refusal(503, {"message": said}), Refusal(400, {"message": said})]
    with pytest.raises(EmbeddingError) as caught:
        make().embed_query(text)
    for shown in (str(caught.value), caplog.text):
        assert "The model is busy loading" in shown
        assert KEY[8:] not in shown and "John" not in shown and "Springfield" not in shown
        assert "\x1b" not in shown and "\0" not in shown  # which a terminal would obey
    assert "sent again in" in caplog.text


@pytest.mark.parametrize("word", ["encoding_format", "encodingFormat"])
@pytest.mark.parametrize("refused", [{"base64"}, {"base64", "float"}])
@pytest.mark.parametrize("given", [False, True])
def test_a_server_that_takes_no_base64_is_asked_for_lists(make, server, refused, word, given):
    def imitate(request):
        if request.get("encoding_format") in refused:
            return 422, {"detail": [{"msg": f"{word}: unexpected value"}]}
        return 200, answer_to(request["input"])

    server.imitate = imitate
    client = openai.OpenAI(api_key=KEY, base_url=server.url)
    embedder = make(**({"client": client, "api_key": None, "base_url": None} if given else {}))
    np.testing.assert_allclose(embedder.embed(["a", "b"]), [vector_of("a"), vector_of("b")], rtol=1e-6)
    embedder.embed(["c"])
    assert len(server.requests) == len(refused) + 2
    client.close()


@pytest.mark.parametrize("refused", [{"base64"}, {"base64", "float"}])
def test_requests_that_are_refused_base64_at_the_same_time_are_all_sent_again(make, server, refused):
    server.hold, server.served_before_hold = threading.Event(), 0

    def imitate(request):
        if len(server.requests) == 4:
            server.hold.set()
        if request.get("encoding_format") in refused:
            return 400, {"error": {"message": "encoding_format is not supported"}}
        return 200, answer_to(request["input"])

    server.imitate = imitate
    vectors = make(max_request_texts=1, max_concurrency=4).embed(list("abcd"))
    np.testing.assert_allclose(vectors, [vector_of(text) for text in "abcd"], rtol=1e-6)


def test_prefixes_and_fields_are_sent_and_cached_apart(make, server):
    settings = {"document_prefix": "passage: ", "query_prefix": "query: "}
    embedder = make(**settings)
    np.testing.assert_array_equal(embedder.embed(["a"])[0], vector_of("passage: a"))
    np.testing.assert_array_equal(embedder.embed_query("a"), vector_of("query: a"))
    assert embedder.estimate(["a"]).cached == 1
    other = make(
        extra_body={"input_type": "passage", "truncate": "END"},
        query_body={"input_type": "query"},
        extra_headers={"x-tenant": "t"},
    )
    other.embed(["passage: a"])
    other.embed_query("passage: a")
    assert [request.get("input_type") for request in server.requests] == [None, None, "passage", "query"]
    assert server.requests[-1]["truncate"] == "END" and server.headers[-1]["x-tenant"] == "t"
    with pytest.raises(InvalidInputError, match="extra_body is"):
        make(extra_body=["input_type"])


@pytest.mark.parametrize("usage", [{"total_tokens": 12}, {"prompt_tokens": 12.0, "total_tokens": 12.0}])
def test_tokens_are_counted_as_the_server_tells_them(make, server, usage):
    server.imitate = lambda request: (200, answer_to(request["input"], **usage))
    embedder = make()
    embedder.embed(["a text of several words that has more bytes than tokens"])
    assert embedder.usage.tokens == 12


def test_a_usage_of_no_tokens_at_all_is_not_believed(make, server):
    """llama.cpp's server and others say 0 of any text; nothing had cost anything then."""
    server.imitate = lambda request: (200, answer_to(request["input"], prompt_tokens=0, total_tokens=0))
    embedder = make()
    embedder.embed(["a text of 21 bytes"])
    assert embedder.usage.tokens > 0


@pytest.mark.parametrize("how", ["refused", 501, 505])
def test_what_no_other_try_can_cure_is_not_tried_again(make, server, how):
    settings = {"base_url": "http://127.0.0.1:9/v1"} if how == "refused" else {}
    server.plan = [Refusal(501 if how == "refused" else how, {"message": "This model does not support embeddings"})]
    embedder = make(**settings)
    with pytest.raises(EmbeddingError, match=r"refused the connection|does not support embeddings"):
        embedder.embed_query("a")
    assert embedder.usage.requests == 1


def test_a_deadline_ends_an_answer_that_drips(make, server):
    server.drip = 0.5
    with pytest.raises(EmbeddingError, match=r"the deadline of 0\.3 s has passed"):
        make(deadline=0.3).embed_query("a")
    assert server.finished == 0  # the answer takes two minutes


def test_python_ends_while_a_server_holds_up_a_client_that_was_given(server):
    server.hold, server.served_before_hold = threading.Event(), 0
    with openai.OpenAI(api_key=KEY, base_url=server.url) as client, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(OpenAIEmbedder("m", client=client, cache=False).embed_query, "a")
        server.wait_until_under_way(1)
        held = [thread for thread in threading.enumerate() if thread.name.startswith("bqstore-openai")]
        awaited = [thread for thread in held if thread in _threads_queues or not thread.daemon]
        server.hold.set()
        asked.result()
    assert held and not awaited


# What calls do to each other: nothing.


def test_a_stream_that_failed_ahead_of_its_consumer_holds_up_no_other_call(make, server):
    """Texts in flight were shared between calls, and the other call waited for ever."""
    server.max_chars = 10
    texts = [f"text {i}" for i in range(30)]
    texts[25] = "too long for this server"
    paused = make(max_concurrency=1, cache=False).stream(texts, batch=5, ahead=20)
    next(paused)
    results = []
    other = threading.Thread(target=lambda: results.append(make(cache=False).embed(["text 26"])), daemon=True)
    other.start()
    other.join(PATIENCE)
    assert not other.is_alive() and len(results) == 1
    paused.close()


def test_a_deadline_is_kept_though_another_embedder_asks_for_the_same_text(make, server):
    """It ended in a RecursionError."""
    server.hold, server.served_before_hold = threading.Event(), 0
    first = threading.Thread(target=lambda: make(cache=False).embed(["a"]))
    first.start()
    server.wait_until_under_way(1)
    with pytest.raises(EmbeddingError, match=r"the deadline of 0\.2 s has passed"):
        make(cache=False, deadline=0.2).embed(["a"])
    server.hold.set()
    first.join()


def test_closing_waits_for_calls_of_other_threads(make, server):
    """The other thread failed, and its answers were lost."""
    server.hold, server.served_before_hold = threading.Event(), 0
    embedder, results = make(max_request_texts=1, max_concurrency=2), []
    other = threading.Thread(target=lambda: results.append(embedder.embed(["a", "b", "c", "d"])))
    other.start()
    server.wait_until_under_way(2)
    threading.Timer(0.05, server.hold.set).start()
    embedder.close()
    other.join()
    np.testing.assert_array_equal(results[0], [vector_of(text) for text in "abcd"])


def test_a_connection_that_is_dropped_under_a_split_request_is_tried_again(make, server):
    server.imitate = limited(2, 413, "too many")
    server.plan = [None, Broken()]
    np.testing.assert_array_equal(make().embed(list("abcd")), [vector_of(text) for text in "abcd"])
