"""Servers by http: this machine, a private network, the internet."""

import warnings

import pytest

from bqstore.embeddings import OpenAIEmbedder
from bqstore.errors import InvalidInputError

from .conftest import KEY

PRIVATE = [
    "http://ollama:11434/v1",
    "http://192.168.1.7:8000/v1",
    "http://host.docker.internal:1234/v1",
    "http://[fd00::1]/v1",
    "http://100.64.0.9:8000/v1",  # of a mesh network
]


@pytest.mark.parametrize("url", PRIVATE)
def test_a_private_network_is_reached_by_http_with_one_warning(url):
    with pytest.warns(UserWarning, match="over http://") as warned:
        OpenAIEmbedder(api_key=KEY, base_url=url, cache=False).close()
    assert len(warned) == 1 and warned[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        OpenAIEmbedder(api_key=KEY, base_url=url, cache=False, allow_http=True).close()


def test_the_internet_is_reached_by_http_if_that_is_allowed():
    with pytest.raises(InvalidInputError, match="allow_http=True"):
        OpenAIEmbedder(api_key=KEY, base_url="http://embeddings.example.com/v1", cache=False)
    OpenAIEmbedder(api_key=KEY, base_url="http://embeddings.example.com/v1", cache=False, allow_http=True).close()
    with pytest.raises(InvalidInputError, match="allow_http is"):
        OpenAIEmbedder(api_key=KEY, allow_http="yes", cache=False)
