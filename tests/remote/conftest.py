"""Where remote collections are: in qdrant-client's local mode, in Qdrant's engine, on the server of QDRANT_URL."""

import importlib.util
import os
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from qdrant_client import QdrantClient

import bqstore

BACKENDS = ("local mode", "engine", "server")


def client_of(backend: str) -> Any:
    """A client, as `bqstore.open` takes it."""
    if backend == "local mode":
        return QdrantClient(":memory:")
    if backend == "engine":
        if importlib.util.find_spec("qdrant_edge") is None:
            pytest.skip('qdrant-edge-py is not there; pip install -e ".[test]" to run this on Qdrant\'s engine')
        return importlib.import_module("tests.remote.engine_client").EngineClient()
    url = os.environ.get("QDRANT_URL")
    if not url:
        pytest.skip("no Qdrant server: set QDRANT_URL=http://host:6333 (and QDRANT_API_KEY) to run this on one")
    port = os.environ.get("QDRANT_GRPC_PORT")
    over_grpc = {"prefer_grpc": True, "grpc_port": int(port)} if port else {}
    key = os.environ.get("QDRANT_API_KEY")
    return QdrantClient(url=url, api_key=key, timeout=60, check_compatibility=False, **over_grpc)


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
