"""Where remote collections are: in qdrant-client's local mode, and on a real server, where QDRANT_URL names one."""

import os
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from qdrant_client import QdrantClient

import bqstore

BACKENDS = ("local mode", "server")


def client_of(backend: str) -> Any:
    """A client, as `bqstore.open` takes it."""
    if backend == "local mode":
        return QdrantClient(":memory:")
    url = os.environ.get("QDRANT_URL")
    if not url:
        pytest.skip("no Qdrant server: set QDRANT_URL=http://host:6333 (and QDRANT_API_KEY) to run this on one")
    return QdrantClient(url=url, api_key=os.environ.get("QDRANT_API_KEY"), timeout=60)


@pytest.fixture(params=BACKENDS)
def client(request: pytest.FixtureRequest) -> Iterator[Any]:
    found = client_of(request.param)
    yield found
    found.close()


@pytest.fixture
def name(client: Any) -> Iterator[str]:
    """A name of its own for a collection, which is removed at the end."""
    found = f"bqstore-test-{uuid.uuid4().hex[:12]}"
    yield found
    client.delete_collection(found)


@pytest.fixture
def col(client: Any, name: str) -> Iterator[bqstore.RemoteCollection]:
    with bqstore.open(client, name) as found:
        assert isinstance(found, bqstore.RemoteCollection)
        yield found
