"""The API key: where it comes from, and that it goes nowhere but to the server."""

import logging
import traceback

import pytest

from bqstore.embeddings import OpenAIEmbedder
from bqstore.embeddings.openai.api_key import check_encrypted
from bqstore.errors import EmbeddingError, InvalidInputError, UnknownKeywordError

from .conftest import KEY
from .fake_server import Refusal


def test_a_missing_key_says_what_to_set():
    with pytest.raises(EmbeddingError, match=r"api_key=.* OPENAI_API_KEY"):
        OpenAIEmbedder()


def test_an_empty_key_is_a_missing_key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", " \n")
    with pytest.raises(EmbeddingError, match="there is no API key"):
        OpenAIEmbedder()


def test_the_key_of_the_environment_is_used_without_its_newline(server, monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_API_KEY", KEY + "\n")
    with OpenAIEmbedder(base_url=server.url, cache=False, dimensions=8) as embedder:
        embedder.embed_query("a")
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("key", ["sk-geheim-ü", "sk-secret\nX-Other: 1", "sk-secret\x00"])
def test_a_key_that_cannot_be_sent_is_refused_without_being_quoted(key):
    with pytest.raises(EmbeddingError, match="holds characters that no key has") as caught:
        OpenAIEmbedder(api_key=key)
    assert "secret" not in repr(caught.value) and "geheim" not in repr(caught.value)


def test_the_key_shows_nowhere(make, server, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    embedder = make()
    server.plan = [Refusal(500, {"message": KEY}), Refusal(401, {"message": KEY})]
    with pytest.raises(EmbeddingError) as caught:
        embedder.embed_query("a")
    embedder.embed_query("a")
    shown = [
        repr(embedder),
        str(vars(embedder)),
        caplog.text,
        "".join(traceback.format_exception(caught.value)),
    ]
    assert all(KEY not in text for text in shown)
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert stored and KEY.encode() not in stored


@pytest.mark.parametrize("url", ["http://example.com/v1", "http://8.8.8.8/v1", "ftp://localhost/v1"])
def test_only_https_but_on_this_machine(url):
    with pytest.raises(InvalidInputError, match="https://"):
        OpenAIEmbedder(api_key=KEY, base_url=url, cache=False)
    OpenAIEmbedder(api_key=KEY, base_url="https://example.com/v1", cache=False).close()
    with pytest.raises(InvalidInputError, match="base_url is not a URL"):
        check_encrypted("https://[::1")


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


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("api_base", "base_url"), ("model_name", "model"), ("chunk_size", "max_request_texts")],
)
def test_a_keyword_of_the_frameworks_classes_was_answered_with_another_one_than_its_own(theirs, ours):
    """`api_base`, a URL, with 'api_key', and `model_name` with a setting of stores."""
    with pytest.raises(UnknownKeywordError, match=f"did you mean '{ours}'"):
        OpenAIEmbedder(api_key=KEY, **{theirs: "x"})


def test_a_redirect_to_http_is_not_followed(make, server):
    server.plan = [Refusal(307, {}, {"location": "http://example.invalid/v1/embeddings"})]
    with pytest.raises(EmbeddingError, match="redirects to a server over http://"):
        make().embed_query("a")
    assert len(server.requests) == 1


def test_a_key_of_another_type_and_a_url_that_is_none_are_not_shown(make):
    with pytest.raises(EmbeddingError, match="api_key is of type bytes"):
        make(api_key=KEY.encode())
    with pytest.raises(InvalidInputError, match="base_url is not a URL"):
        make(base_url="http://127.0.0.1\t.example.com/")
