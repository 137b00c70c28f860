"""Clients that are given, where texts are sent, and what a refusal says to the user."""

import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import openai
import pytest
from pydantic import SecretStr

from bqstore.embeddings import OpenAIEmbedder
from bqstore.errors import EmbeddingError, InvalidInputError

from .conftest import KEY
from .fake_server import Refusal, vector_of


@pytest.mark.parametrize(
    ("status", "says"),
    [(401, "refused the API key"), (403, "does not let"), (404, "knows no model"), (400, "")],
)
def test_refusals_say_what_to_do_without_the_servers_words(make, server, status, says):
    said = {"message": f"Incorrect key provided: {KEY}, for text 'a secret'", "code": KEY}
    server.plan = [Refusal(status, said)]
    with pytest.raises(EmbeddingError, match=f"{says}.*HTTP {status}") as caught:
        make().embed_query("a secret")
    assert KEY not in str(caught.value) and "secret" not in str(caught.value)
    assert caught.value.__cause__ is None and caught.value.__context__ is None
    assert len(server.requests) == 1


def test_a_password_in_base_url_is_not_shown(make, server):
    server.plan = [Refusal(404, {"message": "no such page"})]
    with pytest.raises(EmbeddingError, match="check model and base_url, which is http://127") as caught:
        make(base_url=server.url.replace("//", "//user:hunter2@")).embed_query("a")
    assert "hunter2" not in str(caught.value)


def test_a_server_that_is_not_there(make):
    with pytest.raises(EmbeddingError, match=r"127\.0\.0\.1 cannot be reached, after 0 retries"):
        make(base_url="http://127.0.0.1:9/v1", max_retries=0).embed_query("a")


def test_a_server_that_does_not_answer_in_time(make, server):
    server.hold, server.served_before_hold = threading.Event(), 0
    embedder = make(timeout=0.05, max_retries=0)
    with pytest.raises(EmbeddingError, match="did not answer in time"):
        embedder.embed_query("a")
    server.hold.set()


def test_nothing_is_needed_but_what_openai_installs(make, monkeypatch):
    monkeypatch.setitem(sys.modules, "httpx", None)  # which openai 2 brings, and openai 3 does not
    np.testing.assert_array_equal(make().embed_query("a"), vector_of("a"))


def test_the_package_is_imported_late_and_a_missing_one_names_the_extra():
    program = """
import sys
import threading
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "openai":
            raise ModuleNotFoundError("No module named 'openai'", name="openai")
sys.meta_path.insert(0, Blocker())
from bqstore.embeddings import OpenAIEmbedder
assert "openai" not in sys.modules
try:
    OpenAIEmbedder(api_key="sk-x")
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert 'pip install "bqstore[openai]"' in done.stdout


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


def test_no_proxy_is_between_this_machine_and_itself(make, server, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    np.testing.assert_array_equal(make(max_retries=0).embed_query("a"), vector_of("a"))


def test_a_client_that_is_given_needs_no_more_than_embeddings_and_an_address(server, tmp_path):
    """One that watches another may not have all of its methods."""
    with openai.OpenAI(api_key=KEY, base_url=server.url) as inner:
        watched = SimpleNamespace(embeddings=inner.embeddings, base_url=inner.base_url)
        np.testing.assert_array_equal(
            OpenAIEmbedder("own", client=watched, cache=tmp_path).embed_query("a"), vector_of("a")
        )


def test_a_timeout_beside_a_client_counts(server):
    """It was ignored."""
    server.hold, server.served_before_hold = threading.Event(), 0
    with openai.OpenAI(api_key=KEY, base_url=server.url) as client:
        embedder = OpenAIEmbedder("own", client=client, cache=False, timeout=0.05, max_retries=0)
        with pytest.raises(EmbeddingError, match="did not answer in time"):
            embedder.embed_query("a")
        server.hold.set()
        embedder.close()


def test_a_key_that_a_client_is_given_later_is_sent(server):
    """The old one was."""
    with (
        openai.OpenAI(api_key=KEY, base_url=server.url) as client,
        OpenAIEmbedder("own", client=client, cache=False) as embedder,
    ):
        embedder.embed_query("a")
        client.api_key = "sk-another"
        embedder.embed_query("b")
    assert [headers["authorization"] for headers in server.headers] == [f"Bearer {KEY}", "Bearer sk-another"]


async def _awaited():
    return "sk-awaited"


@pytest.mark.parametrize(
    ("key", "sent"), [(SecretStr("sk-hidden"), "sk-hidden"), (lambda: "sk-made", "sk-made"), (_awaited, "sk-awaited")]
)
def test_keys_of_other_kinds(make, server, key, sent):
    embedder = make(api_key=key)
    embedder.embed_query("a")
    assert server.headers[0]["authorization"] == f"Bearer {sent}" and sent not in str(vars(embedder))


@pytest.mark.parametrize(
    ("key", "says"), [(lambda: 1 / 0, "raised ZeroDivisionError"), (lambda: "", "there is no API key")]
)
def test_a_function_that_gives_no_key_is_named(make, server, key, says):
    with pytest.raises(EmbeddingError, match=says):
        make(api_key=key).embed_query("a")
    assert server.requests == []


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("ALL_PROXY", "socks5://user:geheim@127.0.0.1:9", "socksio"),
        ("HTTPS_PROXY", "ftp://user:geheim@127.0.0.1:9", "ftp"),
        ("SSL_CERT_FILE", "/nowhere/certificates.pem", "SSL_CERT_FILE"),
    ],
)
def test_an_environment_that_lets_no_client_be_made_is_named(monkeypatch, name, value, says):
    """It said that base_url is not a URL."""
    monkeypatch.setenv(name, value)
    with pytest.raises(EmbeddingError, match=f"in this environment.*{says}") as caught:
        OpenAIEmbedder(api_key=KEY, base_url="https://embeddings.example.com/v1", cache=False)
    assert "geheim" not in str(caught.value)
