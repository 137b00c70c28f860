"""Why a server cannot be reached, answers that are none, clients that do not fit, and the end of the process."""

import asyncio
import atexit
import errno
import hashlib
import os
import socket
import ssl
import sys
from types import SimpleNamespace

import httpx
import numpy as np
import openai
import pytest

from bqstore.embeddings import OpenAIEmbedder
from bqstore.embeddings.openai import client as client_module
from bqstore.embeddings.openai import tokens
from bqstore.embeddings.openai.background import Background
from bqstore.embeddings.openai.rate_limiter import StoppedError
from bqstore.embeddings.openai.refusals import RefusalReader
from bqstore.embeddings.openai.request_parts import weighted_mean
from bqstore.embeddings.openai.responses import decode
from bqstore.embeddings.openai_batch.results import parse
from bqstore.errors import EmbeddingError, InvalidInputError

from .conftest import KEY
from .fake_server import vector_of

URL = "https://there.example/v1"
READER = RefusalReader(openai, URL, "there.example", lambda: KEY)


def caused_by(cause: Exception) -> openai.APIConnectionError:
    error = openai.APIConnectionError(request=httpx.Request("POST", URL))
    error.__cause__ = cause
    return error


def no_tls() -> ssl.SSLError:
    """What a server on http that is asked by https is met with; such a call was tried again for minutes."""
    ours, its = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    try:
        ssl.create_default_context().wrap_bio(ours, its, server_hostname="there.example").do_handshake()
    except ssl.SSLError as error:
        return error
    raise AssertionError("that is no TLS")


@pytest.mark.parametrize(
    ("cause", "says", "again"),
    [
        (ssl.SSLCertVerificationError(1, "no"), "its certificate is not trusted", False),
        (no_tls(), "it does not speak https there", False),
        (ConnectionRefusedError(), "it refused the connection", False),
        (socket.gaierror(socket.EAI_NONAME, "no"), "no host has this name", False),
        (OSError(errno.ENETUNREACH, "no"), "there is no way to its network", False),
        (OSError(errno.ECONNRESET, "no"), "check the network", True),
    ],
)
def test_why_a_server_cannot_be_reached_is_told_and_tried_again_where_that_may_help(cause, says, again):
    if isinstance(cause, ssl.SSLCertVerificationError):
        cause.verify_message = "self-signed certificate"
    found = READER.of_error(caused_by(cause), "a-model", [])
    assert says in found.advice and found.retryable is again


def test_an_answer_that_the_package_cannot_read_is_told_by_its_kind():
    assert "cannot be read (OpenAIError)" in READER.of_error(openai.OpenAIError("secret"), "a-model", []).message


def test_vectors_of_two_dimensions_are_no_answer():
    assert decode([{"embedding": [1.0, 2.0]}, {"embedding": [1.0]}], 2) is None
    assert parse(b"[" * 100_000) == parse(b"{}") == ("", {}, "unreadable")


def test_an_answer_that_nests_without_end_is_refused(make):
    found = make()._client._read([b"[" * 1_000_000], {}, ["a"], "a-model")
    assert "something else than 1 finite vectors" in found.message


# ---- clients


def test_clients_that_do_not_fit_are_refused(server):
    one = openai.OpenAI(api_key=KEY, base_url=server.url)
    other = openai.AsyncOpenAI(api_key=KEY, base_url=server.url + "/other")
    with pytest.raises(InvalidInputError, match="talk to different servers; expected the same base_url"):
        OpenAIEmbedder(client=one, async_client=other)
    with pytest.raises(InvalidInputError, match="a client has a key and a server of its own"):
        OpenAIEmbedder(client=one, api_key=KEY)
    with pytest.raises(InvalidInputError, match="the prefix of texts is 5; expected a string"):
        OpenAIEmbedder(client=one, document_prefix=5)
    with pytest.raises(EmbeddingError, match="only an async_client was given"):
        OpenAIEmbedder(async_client=other, cache=False)._client.for_batches()
    embedder = OpenAIEmbedder("m", client=one, cache=False, max_retries=0, progress=False)
    assert embedder._client.for_batches() is one
    np.testing.assert_array_equal(embedder.embed(["a"]), [vector_of("a")])
    one.close()
    with pytest.raises(EmbeddingError, match="the connections to the server are closed"):
        embedder.embed_query("b")
    embedder.close()


def test_a_key_that_a_function_gives_is_no_other_function(make, server):
    with pytest.raises(EmbeddingError, match="gave another function; expected a string"):
        make(api_key=lambda: len).embed_query("a")
    given = make(api_key=lambda: KEY)
    given._client.for_batches().embeddings.create(model="m", input=["a"])
    assert server.headers[-1]["authorization"] == f"Bearer {KEY}"


def test_without_pydantic_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydantic", None)
    with pytest.raises(ImportError, match=r'pip install "bqstore\[openai\]"'):
        OpenAIEmbedder(api_key=KEY)


# ---- loops


def test_a_request_on_a_loop_that_has_ended_is_not_awaited():
    loop = asyncio.new_event_loop()
    loop.close()
    request = asyncio.sleep(0)
    with pytest.raises(StoppedError):
        asyncio.run(client_module._on_loop(loop, request))
    client_module._close_later(None, os.getpid() + 1)  # the connections of the parent of a fork


def test_at_the_end_of_python_what_is_under_way_is_cancelled_and_nothing_more_begins():
    own = Background()
    atexit.unregister(own._end)
    waits = own.submit(asyncio.sleep(600))
    own.pid += 1  # a fork has no such thread, and leaves it alone
    own._end()
    assert own.submit(asyncio.sleep(0, "here")).result() == "here"
    own.pid -= 1
    own._end()
    assert waits.cancelled() and own.loop.is_closed()
    with pytest.raises(EmbeddingError, match="Python is ending"):
        own.submit(asyncio.sleep(0))


# ---- tokens


class PanicException(BaseException):
    pass


def test_a_text_that_tiktoken_cannot_count_is_counted_in_bytes(monkeypatch, tmp_path):
    def encode_ordinary(text):
        raise PanicException if text == "é!" else KeyboardInterrupt

    table = tmp_path / "table"
    table.write_bytes(b"a table")
    monkeypatch.setattr(tokens, "table_path", lambda: table)
    monkeypatch.setattr(tokens, "_SHA256", hashlib.sha256(b"a table").hexdigest())
    encoding = SimpleNamespace(encode_ordinary=encode_ordinary)
    monkeypatch.setitem(sys.modules, "tiktoken", SimpleNamespace(get_encoding=lambda name: encoding))
    count = tokens.load_counter.__wrapped__()
    assert count("é!") == 3
    with pytest.raises(KeyboardInterrupt):
        count("other")


def test_the_mean_of_the_parts_of_a_long_text_has_the_length_of_one_only_if_they_have():
    one, other = np.array([1.0, 0.0], np.float32), np.array([0.0, 1.0], np.float32)
    np.testing.assert_allclose(weighted_mean([(one, 3), (other, 4)]), [0.6, 0.8], rtol=1e-6)
    np.testing.assert_allclose(weighted_mean([(2 * one, 1), (other, 1)]), [1.0, 0.5], rtol=1e-6)
    assert weighted_mean([(one, 1), (-one, 1)]).tolist() == [0.0, 0.0]
