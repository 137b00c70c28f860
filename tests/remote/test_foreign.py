"""Collections that langchain-qdrant and LlamaIndex's store have made are opened, and searched with the same filters."""

import uuid

import numpy as np
import pytest
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.utils import node_to_metadata_dict
from qdrant_client import models

import bqstore
from llama_index.vector_stores.bqstore import BQVectorStore

IDS = [str(uuid.UUID(int=i)) for i in (3, 1, 2)]


def made(client, name, vectors, payloads, ids=IDS, unnamed=True):
    space = models.VectorParams(size=3, distance=models.Distance.COSINE)
    client.create_collection(name, vectors_config=space if unnamed else {"text-dense": space})
    points = [
        models.PointStruct(id=id_, vector=vector if unnamed else {"text-dense": vector}, payload=payload)
        for id_, vector, payload in zip(ids, vectors.tolist(), payloads, strict=True)
    ]
    client.upsert(name, points, wait=True)


def test_of_langchain_qdrant(client, name):
    """`page_content`, and metadata under its own key; the point's id is the document's."""
    payloads = [{"page_content": f"text {i}", "metadata": {"n": i, "of": {"lang": "en"}}} for i in range(3)]
    made(client, name, np.eye(3), payloads)
    with bqstore.open(client, name) as col:
        assert col.ids() == sorted(IDS) and IDS[0] in col and "x" not in col
        assert col.get([IDS[2], IDS[0]])[0] == bqstore.Record(IDS[2], "text 2", {"n": 2, "of": {"lang": "en"}})
        hits = col.search([0, 1, 0.1], k=2, filter={"n": {"$gte": 1}, "of.lang": "en"})
        assert [hit.id for hit in hits] == [IDS[1], IDS[2]]
        assert col.add([[1, 1, 1]], ids=[IDS[1]], texts=["new"]).replaced == 1
        assert col.get([IDS[1]])[0].text == "new" and len(col) == 3
        assert col.update_metadata([IDS[0]], {"n": 7}) == 1 and col.count({"n": 7}) == 1
        assert col.delete([IDS[0]]) == 1 and len(col) == 2


def test_of_llama_index(client, name):
    """Metadata lies in the payload itself, beside the node: it is read, and not written."""
    nodes = [TextNode(id_=id_, text=f"text {i}", metadata={"n": i}) for i, id_ in enumerate(IDS)]
    payloads = [node_to_metadata_dict(node, remove_text=False, flat_metadata=False) for node in nodes]
    made(client, name, np.eye(3), payloads, unnamed=False)
    with bqstore.open(client, name) as col:
        store = BQVectorStore(collection=col)
        assert [node.get_content() for node in store.get_nodes([IDS[2], IDS[0]])] == ["text 2", "text 0"]
        assert [hit.text for hit in col.search([1, 0.5, 0], k=3, filter={"n": {"$lt": 2}})] == ["text 0", "text 1"]
        assert col.count({"n": [0, 2]}) == 2
        with pytest.raises(bqstore.InvalidInputError, match="made by another program"):
            col.add(np.eye(3))
        assert col.delete(filter={"n": 0}) == 1


def test_numbers_as_ids(client, name):
    made(client, name, np.eye(3), [{"page_content": "x", "metadata": {}}] * 3, ids=[7, 8, 9])
    with bqstore.open(client, name) as col:
        assert col.ids() == ["7", "8", "9"] and [each.id for each in col.get(["9", "07", "7"])] == ["9", "7"]


def test_which_of_several_vectors_is_asked_for(client, name):
    space = models.VectorParams(size=3, distance=models.Distance.COSINE)
    client.create_collection(name, vectors_config={"a": space, "b": space})
    with pytest.raises(bqstore.InvalidInputError, match="dense vectors 'a', 'b'; say which by"):
        bqstore.open(client, name)


def test_langchain_qdrant_finds_what_bqstore_has_stored(client, name):
    with bqstore.open(client, name) as col:
        col.add(np.eye(3), texts=["a", "b", "c"], metadatas=[{"n": i} for i in range(3)])
    found = client.query_points(name, query=[1.0, 0.0, 0.0], using="vector", limit=1).points[0]
    assert found.payload["page_content"] == "a" and found.payload["metadata"] == {"n": 0}
