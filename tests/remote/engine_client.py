"""Qdrant's own engine in the process (qdrant-edge-py), under the calls of `QdrantClient` that remote collections make.

One shard a collection, in a folder of its own: the real filters, payload indexes, quantization, rescoring and HNSW.
"""

import shutil
import tempfile
import uuid
from types import SimpleNamespace

import qdrant_edge as engine
from qdrant_client import QdrantClient, models

KINDS = {
    "keyword": engine.PayloadSchemaType.Keyword,
    "integer": engine.PayloadSchemaType.Integer,
    "float": engine.PayloadSchemaType.Float,
    "bool": engine.PayloadSchemaType.Bool,
    "datetime": engine.PayloadSchemaType.Datetime,
}


class EngineClient(QdrantClient):
    """A client whose collections are shards of the engine."""

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="bqstore-engine-")
        self.shards, self.described = {}, {}

    def close(self, **kwargs):
        for shard in self.shards.values():
            shard.close()
        self.shards = {}
        shutil.rmtree(self.folder, ignore_errors=True)

    def __del__(self):
        self.close()

    def info(self):
        return SimpleNamespace(version="1.20.0")

    def collection_exists(self, collection_name, **kwargs):
        return collection_name in self.shards

    def create_collection(self, collection_name, vectors_config, metadata=None, **given):
        spaces = vectors_config if isinstance(vectors_config, dict) else {"": vectors_config}
        hnsw, codes = given.get("hnsw_config"), given.get("quantization_config")
        config = engine.EdgeConfig(
            vectors={
                vector: engine.EdgeVectorParams(space.size, getattr(engine.Distance, space.distance.value))
                for vector, space in spaces.items()
            },
            sparse_vectors={
                vector: engine.EdgeSparseVectorParams(modifier=engine.Modifier.Idf)
                for vector in given.get("sparse_vectors_config") or {}
            },
            hnsw_config=None if hnsw is None else engine.HnswIndexConfig(**hnsw.model_dump(exclude_none=True)),
            quantization_config=None if codes is None else quantization(codes),
        )
        path = tempfile.mkdtemp(dir=self.folder)
        self.shards[collection_name] = engine.EdgeShard.create(path, config)
        self.described[collection_name] = (vectors_config, dict(metadata or {}), {})
        return True

    def _shard(self, name):
        if name not in self.shards:
            raise ValueError(f"Collection {name} not found")
        return self.shards[name]

    def get_collection(self, collection_name, **kwargs):
        self._shard(collection_name)
        vectors, metadata, indexes = self.described[collection_name]
        config = SimpleNamespace(
            params=SimpleNamespace(vectors=vectors),
            metadata=metadata,
            hnsw_config=models.HnswConfig(m=16, ef_construct=100, full_scan_threshold=10_000),
            quantization_config=None,
        )
        return SimpleNamespace(config=config, payload_schema=indexes, indexed_vectors_count=0)

    def update_collection(self, collection_name, metadata=None, **kwargs):
        self.described[collection_name][1].update(metadata)

    def delete_collection(self, collection_name, **kwargs):
        if collection_name in self.shards:
            self.shards.pop(collection_name).close()

    def create_payload_index(self, collection_name, field_name, field_schema, **kwargs):
        kind = field_schema if isinstance(field_schema, str) else getattr(field_schema, "type", field_schema)
        operation = engine.UpdateOperation.create_field_index(field_name, KINDS[getattr(kind, "value", kind)])
        self._shard(collection_name).update(operation)
        self.described[collection_name][2][field_name] = kind

    def upsert(self, collection_name, points, **kwargs):
        made = [engine.Point(uuid_of(each.id), vectors(each.vector), each.payload) for each in points]
        self._shard(collection_name).update(engine.UpdateOperation.upsert_points(made))

    def delete(self, collection_name, points_selector, **kwargs):
        operation = engine.UpdateOperation.delete_points_by_filter(converted(points_selector.filter))
        self._shard(collection_name).update(operation)

    def batch_update_points(self, collection_name, update_operations, **kwargs):
        shard = self._shard(collection_name)
        for each in update_operations:
            if isinstance(each, models.UpdateVectorsOperation):
                some = [engine.PointVectors(uuid_of(p.id), vectors(p.vector)) for p in each.update_vectors.points]
                shard.update(engine.UpdateOperation.update_vectors(some))
                continue
            given = getattr(each, "overwrite_payload", None) or each.delete_vectors
            ids = [uuid_of(id_) for id_ in given.points]
            if isinstance(each, models.DeleteVectorsOperation):
                shard.update(engine.UpdateOperation.delete_vectors(ids, given.vector))
            else:
                shard.update(engine.UpdateOperation.overwrite_payload(ids, given.payload))

    def count(self, collection_name, count_filter=None, exact=True, **kwargs):
        found = self._shard(collection_name).count(engine.CountRequest(exact, converted(count_filter)))
        return SimpleNamespace(count=found)

    def retrieve(self, collection_name, ids, with_payload=True, with_vectors=False, **kwargs):
        found = self._shard(collection_name).retrieve(
            [uuid_of(id_) for id_ in ids], payload(with_payload), with_vectors
        )
        return [answered(each) for each in found]

    def scroll(
        self, collection_name, scroll_filter=None, limit=10, order_by=None, offset=None, with_payload=True,
        with_vectors=False, **kwargs,
    ):  # fmt: skip
        order = None if order_by is None else engine.OrderBy(order_by.key, start_from=order_by.start_from)
        request = engine.ScrollRequest(
            offset, limit, converted(scroll_filter), payload(with_payload), with_vectors, order
        )
        found, following = self._shard(collection_name).scroll(request)
        return [answered(each) for each in found], following

    def query_points(self, collection_name, query, **given):
        return SimpleNamespace(points=self._query(collection_name, query, **given))

    def query_batch_points(self, collection_name, requests, **kwargs):
        out = []
        for each in requests:
            found = self._query(
                collection_name, each.query, each.using, each.filter, each.params, each.limit, each.with_payload,
                each.with_vector,
            )  # fmt: skip
            out.append(SimpleNamespace(points=found))
        return out

    def _query(
        self, name, query, using=None, query_filter=None, search_params=None, limit=10, with_payload=True,
        with_vectors=False, score_threshold=None, prefetch=None, **kwargs,
    ):  # fmt: skip
        if isinstance(query, models.NearestQuery) and query.mmr is not None:
            mmr = query.mmr
            asked = engine.Mmr(query.nearest, 1 - mmr.diversity, mmr.candidates_limit, using)
        elif isinstance(query, models.SampleQuery):
            asked = engine.Sample.Random
        elif isinstance(query, models.FusionQuery):
            asked = engine.Fusion.Dbsf()
        else:
            asked = nearest(query, using)
        request = engine.QueryRequest(
            limit=limit,
            query=asked,
            prefetches=[
                engine.Prefetch(
                    each.limit, nearest(each.query, each.using), None, params(each.params), converted(each.filter)
                )
                for each in prefetch or []
            ],
            filter=converted(query_filter),
            score_threshold=score_threshold,
            params=params(search_params),
            with_vector=with_vectors,
            with_payload=payload(with_payload),
        )
        return [answered(each) for each in self._shard(name).query(request)]


def vectors(given):
    """Vectors by name, or one without, as the engine has them."""
    if not isinstance(given, dict):
        return given
    return {name: sparse(each) if hasattr(each, "indices") else each for name, each in given.items()}


def sparse(given):
    return engine.SparseVector(given.indices, given.values)


def nearest(query, using):
    query = getattr(query, "nearest", query)
    return engine.Query.Nearest(sparse(query) if hasattr(query, "indices") else query, using)


def uuid_of(id_):
    return id_ if isinstance(id_, int) else uuid.UUID(id_)


def answered(point):
    """A point of the engine as the client has it."""
    id_ = point.id if isinstance(point.id, int) else str(point.id)
    score = getattr(point, "score", None)
    return SimpleNamespace(
        id=id_, payload=point.payload, vector=point.vector, score=score, order_value=point.order_value
    )


def payload(given):
    return engine.PayloadSelector.Include(given.include) if hasattr(given, "include") else given


def params(given):
    if given is None:
        return None
    own = given.quantization
    quantization = engine.QuantizationSearchParams(own.ignore, own.rescore, own.oversampling)
    return engine.SearchParams(given.hnsw_ef, bool(given.exact), quantization)


def quantization(given):
    if isinstance(given, models.TurboQuantization):
        bits = {"bits1": "Bits1", "bits2": "Bits2", "bits4": "Bits4"}[given.turbo.bits.value]
        return engine.TurboQuantQuantizationConfig(True, getattr(engine.TurboQuantBitSize, bits))
    encoding = {"one_bit": "OneBit", "two_bits": "TwoBits", "one_and_half_bits": "OneAndHalfBits"}
    query = {"binary": "Binary", "scalar4bits": "Scalar4Bits", "scalar8bits": "Scalar8Bits"}
    return engine.BinaryQuantizationConfig(
        True,
        getattr(engine.BinaryQuantizationEncoding, encoding[given.binary.encoding.value]),
        getattr(engine.BinaryQuantizationQueryEncoding, query[given.binary.query_encoding.value]),
    )


def converted(given):
    """A condition of the client as one of the engine."""
    if given is None:
        return None
    if isinstance(given, models.Filter):
        parts = {name: getattr(given, name) for name in ("must", "should", "must_not")}
        listed = {name: value if isinstance(value, list) else [value] for name, value in parts.items() if value}
        return engine.Filter(**{name: [converted(each) for each in value] for name, value in listed.items()})
    if isinstance(given, models.HasIdCondition):
        return engine.HasIdCondition({uuid_of(id_) for id_ in given.has_id})
    if isinstance(given, models.IsEmptyCondition):
        return engine.IsEmptyCondition(given.is_empty.key)
    if isinstance(given, models.IsNullCondition):
        return engine.IsNullCondition(given.is_null.key)
    made = {"key": given.key}
    match, within, count = given.match, given.range, given.values_count
    if match is not None:
        ((name, value),) = match.model_dump(by_alias=True).items()
        kind = {"value": "Value", "any": "Any", "except": "Except", "prefix": "Prefix", "substring": "Substring"}[name]
        made["match"] = getattr(engine, f"Match{kind}")(value)
    if isinstance(within, models.Range):
        made["range"] = engine.RangeFloat(**within.model_dump(exclude_none=True))
    elif within is not None:
        ends = within.model_dump(exclude_none=True)
        made["range"] = engine.RangeDateTime(**{name: end.isoformat() for name, end in ends.items()})
    if count is not None:
        made["values_count"] = engine.ValuesCount(**count.model_dump(exclude_none=True))
    return engine.FieldCondition(**made)
