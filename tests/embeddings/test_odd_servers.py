"""Fields, headers, keys and addresses that cannot work, and answers of servers that nobody has documented."""

import asyncio
import gc
import json

import numpy as np
import pytest

from bqstore.embeddings import OpenAIEmbedder
from bqstore.embeddings.openai import requester
from bqstore.errors import EmbeddingError, InvalidInputError

from .conftest import KEY
from .fake_server import Refusal, vector_of


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(requester, "_FIRST_PAUSE", 0.002)


@pytest.mark.parametrize("body", ["extra_body", "query_body"])
def test_a_field_named_input_took_the_place_of_the_texts(make, server, body):
    """The vectors of other texts were cached under the keys of these."""
    with pytest.raises(InvalidInputError, match=f"{body} names input, which is the texts"):
        make(**{body: {"input": ["others"]}})


def test_the_encoding_format_that_was_asked_for_was_not_sent(make, server):
    make(extra_body={"encoding_format": "float"}).embed(["a"])
    assert server.requests[0]["encoding_format"] == "float"


@pytest.mark.parametrize("field", [{1, 2}, float("nan"), object()])
def test_a_field_that_is_no_json_is_refused_before_anything_is_sent(make, field):
    with pytest.raises(InvalidInputError, match="extra_body cannot be written as JSON"):
        make(extra_body={"x": field})
    with pytest.raises(InvalidInputError, match="extra_body is of type list; expected a dictionary"):
        make(extra_body=[field])


@pytest.mark.parametrize("header", [{"x": 5}, {"x": "a\nb: c"}, {"x": "\N{SNOWMAN}"}, {"a b": "c"}, {"": "c"}])
def test_a_header_that_cannot_be_sent_was_taken_for_a_server_that_cannot_be_reached(make, header):
    with pytest.raises(InvalidInputError, match=r"extra_headers: '.*' is no header") as caught:
        make(extra_headers=header)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["'{}'", '"{}"', "Bearer {}"])
def test_a_key_in_quotes_is_named(make, key):
    with pytest.raises(EmbeddingError, match="the API key is in quotes, or begins with Bearer") as caught:
        make(api_key=key.format(KEY))
    assert KEY not in str(caught.value)


def test_that_a_server_without_keys_takes_any_is_said(server):
    with pytest.raises(EmbeddingError, match='a server that asks for none takes any, such as api_key="none"'):
        OpenAIEmbedder(base_url=server.url)
    with pytest.raises(EmbeddingError, match=r"OPENAI_API_KEY$"):
        OpenAIEmbedder()


@pytest.mark.parametrize("end", ["?api-version=2", "#x"])
def test_a_query_in_base_url_had_the_path_written_into_it(make, server, end):
    with pytest.raises(InvalidInputError, match=r"base_url holds a query .*AzureOpenAI"):
        make(base_url=server.url + end)


def test_a_base_url_with_the_end_of_its_requests(make, server):
    server.plan = [Refusal(404, {"detail": "Not Found"})]
    with pytest.raises(EmbeddingError, match="leave out its /embeddings, which every request appends"):
        make(base_url=f"{server.url}/embeddings").embed(["a"])


def test_an_empty_answer_is_asked_for_again(make, server):
    server.plan = [b""]
    np.testing.assert_allclose(make().embed(["a"]), [vector_of("a")], rtol=1e-6)
    server.plan = [b"", b""]
    with pytest.raises(EmbeddingError, match="after 1 retries; check base_url"):
        make(max_retries=1).embed(["b"])


def test_redirects_without_an_end_were_followed_at_each_retry(make, server):
    server.plan = [Refusal(307, {}, {"location": "/v1/embeddings"}) for _ in range(99)]
    with pytest.raises(EmbeddingError, match=r"cannot be reached.*; it redirects from one address to the next; check"):
        make(max_retries=2).embed(["a"])
    assert len(server.requests) < 30


@pytest.mark.parametrize(
    "words", ["API key not valid. Please pass a valid API key.", "Invalid API Key", "API_KEY_INVALID"]
)
def test_a_key_that_is_refused_with_400_was_taken_for_a_text(make, server, words):
    """As Gemini does; each text was sent alone, and the first named."""
    server.imitate = lambda request: (400, [{"error": {"code": 400, "message": words}}])
    with pytest.raises(EmbeddingError, match="refused the API key; check api_key"):
        make().embed(["a", "b"])
    assert len(server.requests) == 1


def test_a_refusal_that_quotes_a_text_about_keys_is_not_about_the_key(make, server):
    def imitate(request):
        if len(request["input"]) > 1:
            return 400, {"error": {"message": f"cannot embed {json.dumps(request['input'])}"}}
        return None

    server.imitate = imitate
    texts = ["Invalid API key", "b"]
    np.testing.assert_allclose(make().embed(texts), [vector_of(t) for t in texts], rtol=1e-6)


async def test_a_call_that_was_cancelled_left_an_error_in_the_log(make, server, caplog):
    server.delay = 0.05
    embedder = make(max_concurrency=1, cache=False)
    calls = [asyncio.create_task(embedder.aembed_query(text)) for text in "abc"]
    await asyncio.to_thread(server.wait_until_under_way, 1)
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    del call, calls
    await asyncio.sleep(0.2)
    gc.collect()
    assert "never retrieved" not in caplog.text
