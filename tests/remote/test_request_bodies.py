"""What the real client sends for our calls is what Qdrant's OpenAPI schema has: by the models made from it.

The shim checks each body of every test that talks to it: it is of a known endpoint, has no unknown field, and loses
nothing on the way through the model. Here all calls are made once, with all their settings, and it is told which
endpoints and fields that were.
"""

import datetime as dt

import numpy as np
import pytest
from qdrant_client import models

import bqstore

from .shim import BODIES, checked, running

WANTED = {
    ("PUT", ""): {
        *(
            "vectors.*.size",
            "vectors.*.distance",
            "vectors.*.on_disk",
            "vectors.*.datatype",
            "sparse_vectors.*.modifier",
        ),
        *("hnsw_config.m", "hnsw_config.ef_construct", "hnsw_config.full_scan_threshold", "metadata.*"),
        *("quantization_config.turbo.bits", "quantization_config.binary.encoding", "shard_number"),
        *("quantization_config.binary.query_encoding", "quantization_config.binary.always_ram"),
        *("quantization_config.turbo.always_ram", "replication_factor", "write_consistency_factor"),
    },
    ("PATCH", ""): {"metadata.*"},
    ("PUT", "/index"): {"field_name", "field_schema", "field_schema.type", "field_schema.is_tenant"},
    ("PUT", "/points"): {"points.id", "points.payload.*", "points.vector.*"},
    ("POST", "/points"): {"ids", "with_payload", "with_payload.include", "with_vector"},
    ("POST", "/points/scroll"): {"limit", "order_by.key", "order_by.start_from", "offset", "filter.must_not.range.lte"},
    ("POST", "/points/count"): {"exact", "filter.must.has_id", "filter.must.match.any", "filter.must.range.gte"},
    ("POST", "/points/query"): {
        *(
            "query",
            "query.nearest",
            "query.mmr.diversity",
            "query.mmr.candidates_limit",
            "query.sample",
            "query.fusion",
        ),
        *(
            "prefetch.query",
            "prefetch.query.indices",
            "prefetch.using",
            "prefetch.limit",
            "prefetch.filter.must",
        ),
        *("params.hnsw_ef", "params.exact", "params.quantization.ignore", "params.quantization.oversampling"),
        *(
            "params.quantization.rescore",
            "params.acorn.enable",
            "using",
            "limit",
            "with_payload.include",
            "with_vector",
        ),
        *("score_threshold", "filter.must.key", "prefetch.params.quantization.ignore"),
    },
    ("POST", "/points/query/batch"): {
        "searches.query",
        "searches.query.nearest.indices",
        "searches.query.nearest.values",
    },
    ("POST", "/points/delete"): {"filter", "filter.must.range.lte"},
    ("POST", "/points/batch"): {
        *("operations.overwrite_payload.payload.*", "operations.overwrite_payload.points"),
        *("operations.update_vectors.points.vector.*", "operations.delete_vectors.vector"),
    },
    ("POST", "/aliases"): {"actions.create_alias.alias_name", "actions.delete_alias.alias_name"},
}


def everything(shim, address):
    """Every call that a server is asked for, with every setting."""
    cluster = {"shard_number": 3, "replication_factor": 2, "write_consistency_factor": 1}
    bqstore.open(f"{address}/turbo", dim=4, estimator="rabitq", originals="float16", **cluster).close()
    col = bqstore.open(
        f"{address}/notes", text_index=True, index_metadata=["n", "when"], tenant_field="who", read_consistency="all"
    )
    when = dt.datetime(2024, 1, 1, tzinfo=dt.timezone.utc)
    some = [{"n": i, "when": when, "who": "a", "l": []} for i in range(6)]
    col.add(np.eye(6), list("abcdef"), ["one", "two", None, "four", "five", ""], some, expires_at=3600)
    filters = {"n": {"$gte": 1}, "who": ["a", "b"], "when": {"$lte": when}, "l": {"$exists": True}}
    settings = {"oversampling": 2.0, "rescore": True, "hnsw_ef": 64}
    vector = np.ones(6)
    col.search(vector, 3, filter=filters, **settings)
    col.search(vector, 3, exact=True, ignore_quantization=True, with_vectors=True, score_threshold=0.1)
    col.search(vector, 3, text="one two", filter=filters)
    col.search(vector, 3, text="one two", filter=filters, fusion="dbsf")
    col.search_batch(np.eye(6), 2, texts=["one"] * 6)
    col.search_ids(np.eye(6), 2, filter=filters)
    col.max_marginal_relevance(vector, 2, 4, score_threshold=0.1)
    col.more_like(["a"], 2)
    col.recall(k=2, sample=3)
    strangers = [models.PointStruct(id=i, vector={"vector": [1.0] * 6}, payload={}) for i in range(3)]
    shim.client.upsert("notes", strangers)
    list(col.scroll(batch=2))
    col.facets("n"), col.count(filters), col.count({"_bq_id": ["a"]}), "a" in col, col.info()
    col.update(["a", "b"], texts=["other", ""])
    col.update_metadata(["c"], {"n": 9})
    col.delete(["d"], filter=filters)
    col.update_metadata(["e"], expires_at=dt.datetime(2020, 1, 1, tzinfo=dt.timezone.utc))
    assert col.expire() == 1
    col.set_alias("live")
    col.set_alias("live")
    col.check_model("m", remember=True)
    col.clear()
    col.drop()


def test_every_endpoint_and_field_is_checked():
    with running() as (shim, address):
        everything(shim, address)
        assert set(shim.fields) - set(BODIES) == {("GET", ""), ("DELETE", "")}  # which have no body
        assert set(WANTED) == set(BODIES)
        for endpoint, fields in WANTED.items():
            assert fields <= shim.fields[endpoint], (endpoint, fields - shim.fields[endpoint])


def test_a_body_that_the_schema_has_not_is_found():
    with pytest.raises(ValueError, match="exat"):
        checked("POST", "/points/count", {"exat": True})
    with pytest.raises(AssertionError, match="has a body, and no model"):
        checked("POST", "/points/nowhere", {})
