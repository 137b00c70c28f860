"""What goes over the wire, how calls are repeated, and what errors say: the real client, a server in the process."""

import datetime as dt
import json
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from qdrant_client import QdrantClient
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc

import bqstore
from bqstore.metadata.filter_grammar import parse
from bqstore.remote import server as calls
from bqstore.remote.address import address_of
from bqstore.remote.filters import translated
from bqstore.remote.place import Place
from bqstore.remote.points import Layout
from bqstore.remote.writing import LIMIT, portions
from llama_index.vector_stores.bqstore import BQVectorStore

from .shim import running

pytestmark = pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")


@pytest.fixture
def server():
    with running() as (shim, address):
        yield shim, address


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("QDRANT_API_KEY", raising=False)


def test_settings_become_those_of_qdrant_and_indexes_come_before_points(server):
    shim, address = server
    given = {"m": 24, "ef_construct": 200, "encoding": "two_bits", "query_encoding": "scalar8bits"}
    cluster = {"shard_number": 3, "replication_factor": 2, "write_consistency_factor": 2}
    with bqstore.open(
        f"{address}/notes",
        full_scan_threshold=0,
        originals="float16",
        index_metadata=["lang", "year", "ok"],
        **given,
        **cluster,
    ) as col:
        col.add(np.eye(3), metadatas=[{"lang": "en"}, {"year": 2020}, {"ok": [True]}])
        col.search([1, 0, 0], filter={"lang": "en"}, hnsw_ef=77, oversampling=5)
    made = next(body for method, path, body in shim.asked if (method, path) == ("PUT", ""))
    assert made["vectors"] == {"vector": {"size": 3, "distance": "Cosine", "on_disk": True, "datatype": "float16"}}
    assert made["hnsw_config"] == {"m": 24, "ef_construct": 200, "full_scan_threshold": 10}
    codes = {"always_ram": True, "encoding": "two_bits", "query_encoding": "scalar8bits"}
    assert made["quantization_config"] == {"binary": codes}
    assert {name: made[name] for name in cluster} == cluster
    kinds = {name: each["data_type"] for name, each in shim.indexes["notes"].items()}
    assert kinds["metadata.lang"] == "keyword" and kinds["metadata.year"] == "float" and kinds["metadata.ok"] == "bool"
    assert kinds["_bq_id"] == "keyword" and kinds["_bq_order"] == "integer"
    order = [path for method, path, _ in shim.asked if path in ("/index", "/points") and method == "PUT"]
    assert order == sorted(order)
    params = next(body["params"] for _, path, body in shim.asked if path == "/points/query")
    assert params["hnsw_ef"] == 77 and params["quantization"]["oversampling"] == 5 and params["acorn"]["enable"]
    assert not params["quantization"]["ignore"]
    with bqstore.open(f"{address}/notes") as col:
        info = col.info()
        assert (info.hnsw.m, info.quantization.encoding, info.originals) == (24, "two_bits", "float16")
    with pytest.raises(bqstore.SettingsConflictError, match=r"m=16 contradicts .* m=24"):
        bqstore.open(f"{address}/notes", m=16)


def test_an_index_for_datetimes_was_never_made(server):
    """They were taken for strings: a range read every document, and strict mode refused it."""
    shim, address = server
    with bqstore.open(f"{address}/notes", index_metadata=["when", "of.day", "text"]) as col:
        moment = dt.datetime(2024, 5, 6, tzinfo=dt.timezone.utc)
        text = {"text": "2024-05-06T00:00:00+00:00", "later": moment}
        col.add(np.eye(2), metadatas=[{"when": [moment], "of": {"day": moment}, **text}, {}])
    kinds = {name: each["data_type"] for name, each in shim.indexes["notes"].items()}
    instants = {name for name, kind in kinds.items() if kind == "datetime"}
    assert instants == {"_bq_instants.when", "_bq_instants.of.day"}
    assert {kinds[f"metadata.{name}"] for name in ("when", "of.day", "text")} == {"keyword"}
    with bqstore.open(f"{address}/notes", index_metadata=["later"]):
        assert shim.indexes["notes"]["_bq_instants.later"]["data_type"] == "datetime"


def test_an_index_that_was_asked_for_could_not_be_made_in_strict_mode(server, monkeypatch):
    """It refuses the filter by which a document with the field is looked for, so the collection was not opened."""
    shim, address = server
    with bqstore.open(f"{address}/notes") as col:
        col.add(np.eye(2), metadatas=[{}, {"k": "a"}])
    call = Place.call

    def strict(self, method, **given):
        if given.get("scroll_filter") is not None:
            raise bqstore.InvalidInputError('Index required but not found for "metadata.k"')
        return call(self, method, **given)

    monkeypatch.setattr(Place, "call", strict)
    with bqstore.open(f"{address}/notes", index_metadata=["k"]):
        assert shim.indexes["notes"]["metadata.k"]["data_type"] == "keyword"


def test_requests_are_as_small_as_strict_mode_wants_them(server):
    shim, address = server
    with bqstore.open(f"{address}/notes", dim=2) as col:
        col._place.strict = SimpleNamespace(upsert_max_batchsize=3, condition_max_size=2, max_query_limit=4)
        col.add(np.ones((7, 2)), list("abcdefg"))
        assert [len(body["points"]) for method, path, body in shim.asked if (method, path) == ("PUT", "/points")] == [
            *(2, 2, 2, 1)
        ]
        assert col.ids() == list("abcdefg")
        assert {body["limit"] for _, path, body in shim.asked if path == "/points/scroll"} == {4}


def test_rabitq_is_turboquant(server):
    shim, address = server
    with bqstore.open(f"{address}/notes", dim=4, encoding="four_bits", originals="none"):
        made = next(body for method, path, body in shim.asked if (method, path) == ("PUT", ""))
        assert made["quantization_config"] == {"turbo": {"always_ram": True, "bits": "bits4"}}
        assert made["vectors"]["vector"]["datatype"] == "turbo4"


def test_codes_alone_were_asked_of_servers_that_cannot_keep_them(server):
    """1.18 takes turbo4 and fails in making it, which was repeated until the deadline."""
    shim, address = server
    shim.version = "1.18.3"
    with pytest.raises(bqstore.InvalidInputError, match=r"originals='none' needs Qdrant 1\.19 .* this server is 1\.18"):
        bqstore.open(f"{address}/notes", dim=4, originals="none")
    assert not shim.client.collection_exists("notes")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *[("truncate_dim", 8), ("target_recall", 0.9), ("threads", 2), ("exclusive", True)],
        *[("mode", 0o700), ("originals", "int8"), ("lock_timeout", 1.0)],
    ],
)
def test_a_setting_without_a_counterpart_is_refused_by_name(server, setting, value):
    with pytest.raises(bqstore.InvalidInputError, match=f"{setting}=.*has no counterpart on a Qdrant server"):
        bqstore.open(f"{server[1]}/notes", **{setting: value})


@pytest.mark.parametrize("name", ["compact", "verify", "reembed", "save", "backup", "tune", "requantize"])
def test_a_call_without_a_counterpart_says_what_there_is_instead(server, name):
    with bqstore.open(f"{server[1]}/notes") as col:
        assert not hasattr(col, name)
        with pytest.raises(AttributeError, match=rf"has no {name}\(\): "):
            getattr(col, name)


@pytest.mark.parametrize(
    ("filter", "what"),
    [
        (lambda record: True, "a function"),
        ({"k": {"$ilike": "a%"}}, r"\$ilike"),
        ({"k": {"$like": "a_"}}, r"_ in \$like"),
        ({"k": {"$like": "a%b"}}, r"pattern of \$like"),
        ({"k": {"$gt": "a"}}, "an order of strings"),
        ({"k": {"$eq": [1, 2]}}, "a whole list"),
        ({"k": {"$eq": {"a": 1}}}, "a whole dict"),
        ({"k": 2**60}, "the number"),
        ({'k"x': 1}, "a double quote"),
    ],
)
def test_a_filter_without_a_counterpart_is_refused_by_name(server, filter, what):
    with bqstore.open(f"{server[1]}/notes") as col, pytest.raises(bqstore.InvalidInputError, match=what):
        col.count(filter)


@pytest.fixture
def paused(monkeypatch):
    """The seconds of all pauses, which alone go by: what a request takes depends on the machine."""
    seconds = []
    clock = SimpleNamespace(monotonic=lambda: sum(seconds), sleep=seconds.append)
    monkeypatch.setattr(calls, "time", clock)
    return seconds


def test_calls_are_repeated_until_the_deadline(server, paused):
    shim, address = server
    with bqstore.open(f"{address}/notes", timeout=20) as col:
        shim.failures = [(503, "busy"), None, (429, "slow down"), (500, "replica unavailable")]
        assert col.add(np.eye(2), ids=["a", "b"]) == ["a", "b"] and len(col) == 2
        shim.failures = [(503, "busy")] * 100
        paused.clear()
        with pytest.raises(bqstore.ServerError, match=r"count, tried \d+ times in .*busy \(503\)"):
            col.count()
        assert 15 < sum(paused) <= 20 and len(shim.failures) == 99 - len(paused)
        shim.failures = [(500, "No space left on device")]
        with pytest.raises(bqstore.ServerError, match="No space left") as full:
            col.delete(["a"])
        assert full.value.errno == 28 and not shim.failures
        shim.failures = [(429, "request larger than rate limiter capacity, please try to split your request")]
        with pytest.raises(bqstore.InvalidInputError, match="split your request"):  # no pause makes it smaller
            col.delete(["a"])
        assert not shim.failures


def test_a_server_that_is_not_there_is_told_of_soon():
    with pytest.raises(bqstore.ServerError, match="is the address right, and does the server run"):
        bqstore.open("qdrant://127.0.0.1:1/notes", timeout=0.2)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        *[(401, bqstore.InvalidInputError), (403, bqstore.ReadOnlyError), (400, bqstore.InvalidInputError)],
        *[(404, bqstore.NotFoundError), (500, bqstore.ServerError)],
    ],
)
def test_errors_are_ours_with_the_words_of_the_server_and_without_the_key(server, paused, status, error):
    shim, address = server
    with bqstore.open(f"{address}/notes", api_key="sesame-key", timeout=20, dim=2) as col:
        assert "sesame" not in repr(col) and "sesame" not in str(col.info())
        shim.failures = [(status, "the words, and sesame-key")] * 99
        with pytest.raises(error, match=r"the words, and \*\*\*") as caught:
            col.clear()
        assert caught.value.__cause__ is None and caught.value.__suppress_context__
        shim.failures = []
    assert set(shim.keys) == {"sesame-key"}


def test_the_key_is_in_no_serialized_store(server, monkeypatch):
    _, address = server
    with BQVectorStore(f"{address}/notes", api_key="sesame-key", dim=2) as store:
        assert "sesame" not in repr(store) + json.dumps(store.to_dict())
        assert store.path == address and store.collection_name == "notes"
    monkeypatch.setenv("QDRANT_API_KEY", "sesame-key")
    with BQVectorStore.from_dict(store.to_dict()) as again:
        assert again.collection.info().dim == 2


def test_the_key_of_the_environment_is_taken(server, monkeypatch):
    shim, address = server
    monkeypatch.setenv("QDRANT_API_KEY", "from-outside")
    with bqstore.open(f"{address}/notes"):
        assert set(shim.keys) == {"from-outside"}


@pytest.mark.parametrize(
    ("address", "what"),
    [
        ("qdrant://", "expected qdrant://host:6333/name"),
        ("qdrant://?api_key=sesame", "expected qdrant://host:6333/name"),
        ("qdrant://host:port/name", "cannot be read"),
        ("qdrant://:sesame@host/name", "key before the host"),
        ("qdrant://host/name?api_key=sesame", "the address has a key in it"),
        ("qdrant://host/name?tsl=1", "did you mean 'tls'"),
        ("qdrant://host/a/b", r"\?prefix="),
        ("qdrant://host/name?tls=maybe", "expected 1 or 0"),
    ],
)
def test_a_wrong_address_is_told_of_without_the_key(address, what):
    with pytest.raises(bqstore.InvalidInputError, match=what) as caught:
        bqstore.open(address)
    assert "sesame" not in str(caught.value)


def test_addresses():
    found = address_of("qdrant://h/%E6%97%A5?tls=1&grpc_port=7&prefix=q&vector=v")
    assert (found.host, found.port, found.name, found.tls) == ("h", 6333, "日", True)
    assert (found.grpc_port, found.prefix, found.vector) == (7, "q", "v")
    assert address_of(str(found)) == found
    assert str(address_of("qdrant://[::1]:7/x").of_server) == "qdrant://[::1]:7"
    with pytest.raises(bqstore.InvalidInputError, match="give one of them"):
        bqstore.open("qdrant://h/a", "b")


@pytest.mark.parametrize("name", ["api_key", "shard_number", "timeout", "read_consistency"])
def test_a_keyword_of_servers_beside_a_folder(tmp_path, name):
    with pytest.raises(bqstore.UnknownKeywordError, match=f"no keyword '{name}': there is no server"):
        bqstore.open(tmp_path / "new", **{name: "1"})
    assert not (tmp_path / "new").exists()


def test_requests_stay_below_the_limit():
    sizes = [LIMIT // 3] * 7 + [2 * LIMIT] + [1] * 2500
    parts = list(portions(sizes))
    assert [i for part in parts for i in range(len(sizes))[part]] == list(range(len(sizes)))
    assert all(len(sizes[part]) == 1 or sum(sizes[part]) <= LIMIT for part in parts)
    assert max(len(sizes[part]) for part in parts) == 1000


def test_what_was_stored_before_an_error_is_told(server, monkeypatch):
    _, address = server
    monkeypatch.setattr("bqstore.remote.writing._MOST", 2)
    with bqstore.open(f"{address}/notes", dim=2) as col:
        made = col._place.call

        def failing(method, **given):
            if method == "upsert" and len(col) == 2:
                raise bqstore.ServerError(5, "gone")
            return made(method, **given)

        monkeypatch.setattr(col._place, "call", failing)
        with pytest.raises(bqstore.ServerError) as caught:
            col.add(np.ones((5, 2)), ids=list("abcde"))
        assert caught.value.added == ["a", "b"] and sorted(col.ids()) == ["a", "b"]


def test_read_only(server):
    _, address = server
    with pytest.raises(bqstore.NotFoundError, match="there is no collection 'notes'"):
        bqstore.open(f"{address}/notes", read_only=True)
    bqstore.open(f"{address}/notes", dim=2).close()
    with bqstore.open(f"{address}/notes", read_only=True) as col, pytest.raises(bqstore.ReadOnlyError):
        col.add([[1.0, 0.0]])
    with pytest.raises(bqstore.ClosedError):
        col.count()


def test_of_many_queries_several_go_in_a_request(server):
    shim, address = server
    with bqstore.open(f"{address}/notes") as col:
        col.add(np.eye(4), ids=list("abcd"))
        assert [line[0].id for line in col.search_batch(np.tile(np.eye(4), (20, 1)), 1)] == list("abcd") * 20
    assert [path for _, path, _ in shim.asked].count("/points/query/batch") == 3


def test_other_vectors_may_follow_when_all_is_cleared(server):
    _, address = server
    with bqstore.open(f"{address}/notes", embedding_model="m") as col:
        col.add([[1.0, 0.0]], ids=["a"])
        with pytest.raises(bqstore.SettingsConflictError):
            col.check_model("other")
        col.clear()
        assert col.info().dim is None
        col.check_model("other", 3, remember=True)
        col.add(np.eye(3), ids=list("abc"))
    with bqstore.open(f"{address}/notes") as col:
        assert (col.info().dim, col.info().embedding_model, len(col)) == (3, "other", 3)


def test_a_collection_is_dropped_with_the_store(server):
    shim, address = server
    store = BQVectorStore(f"{address}/notes", dim=2)
    store._drop()
    assert not shim.client.collection_exists("notes")


def test_a_remote_collection_is_not_pickled_with_its_connection(server):
    with bqstore.open(f"{server[1]}/notes") as col, pytest.raises(TypeError, match="open it again"):
        pickle.dumps(col)


def test_small_collections_were_searched_by_codes_that_miss_neighbors(server):
    """Of four vectors of four dimensions, say; locally such are scanned exactly, up to `full_scan_threshold`."""
    shim, address = server
    with bqstore.open(f"{address}/notes", full_scan_threshold=1) as col:  # 256 values
        for n, small in ((60, True), (5, False)):
            col.add(np.ones((n, 4)))
            shim.asked.clear()
            col.search([1, 1, 1, 1])
            assert shim.asked[-1][2]["params"]["quantization"]["ignore"] is small
        assert [path for _, path, _ in shim.asked] == ["/points/query"]  # counted as it grows


def test_pieces_of_text_on_older_servers(server, caplog):
    """Until 1.19 a match of words on a field without an index of words was one of a piece; prefixes came with 1.19."""
    shim, address = server
    for version, piece, prefix in (
        ("1.18.3", {"text": "a"}, None),
        ("1.19.0", {"text": "a"}, {"prefix": "a"}),
        ("1.20.0", {"substring": "a"}, {"prefix": "a"}),
    ):
        shim.version = version
        with bqstore.open(f"{address}/notes", dim=2) as col:
            col.count({"k": {"$like": "%a%"}})
            assert shim.asked[-1][2]["filter"]["must"][0]["match"] == piece
            if prefix is None:
                with pytest.raises(bqstore.InvalidInputError, match=r"a prefix by \$like.* from 1.19 on"):
                    col.count({"k": {"$like": "a%"}})
            else:
                col.count({"k": {"$like": "a%"}})
                assert shim.asked[-1][2]["filter"]["must"][0]["match"] == prefix
    shim.version = "1.15.2"
    with caplog.at_level("WARNING", "bqstore"):
        bqstore.open(f"{address}/notes").close()
    assert "is Qdrant 1.15; upgrade it: bqstore needs 1.16 or newer" in caplog.text


def test_tenants_are_kept_together(server):
    shim, address = server
    with bqstore.open(f"{address}/notes", tenant_field="who") as col:
        col.add(np.eye(2), metadatas=[{"who": "a"}, {"who": "b"}])
        assert col.count({"who": "a"}) == 1
    asked = next(body for _, _, body in shim.asked if body and body.get("field_name") == "metadata.who")
    assert asked["field_schema"] == {"type": "keyword", "is_tenant": True}
    assert [path for _, path, _ in shim.asked].index("/index") < [path for _, path, _ in shim.asked].index("/points")


def test_an_alias_is_swapped():
    client = QdrantClient(":memory:")
    for name in ("first", "second"):
        with bqstore.open(client, name, dim=2) as col:
            col.add([[1.0, 0.0]], [name])
            col.set_alias("live")
        with bqstore.open(client, "live") as live:
            assert live.ids() == [name]
    with bqstore.open(client, "third") as col, pytest.raises(bqstore.InvalidInputError, match="not made yet"):
        col.set_alias("live")


def test_indexes_were_missing_where_the_answer_to_the_making_was_lost(server, monkeypatch):
    """A call whose answer is lost is made again, and then there is a collection already."""
    shim, address = server
    with bqstore.open(f"{address}/notes") as col:
        real = shim.answer

        def lost(method, path, body):
            found = real(method, path, body)
            if (method, path) == ("PUT", "/collections/notes"):
                raise ValueError("Collection notes already exists")  # what the second try is told
            return found

        monkeypatch.setattr(shim, "answer", lost)
        assert col.add([[1.0, 0.0]], ["a"]) == ["a"]
        assert shim.indexes["notes"]["_bq_order"]["data_type"] == "integer" and col.ids() == ["a"]


def test_a_model_is_stored_once(server):
    shim, address = server
    for _ in range(3):
        with bqstore.open(f"{address}/notes", dim=2):
            pass
    for _ in range(3):
        with bqstore.open(f"{address}/notes", embedding_model="m") as col:
            assert col.info().embedding_model == "m"
    assert [method for method, path, _ in shim.asked].count("PATCH") == 1


FILTERS = [
    *({"k": value} for value in (1, 2.5, "a", True, None, [1, "a", None])),
    {"k": dt.datetime(2024, 5, 6, tzinfo=dt.timezone.utc)},
    *({"k": {"$like": pattern}} for pattern in ("a%", "%a%", "a", "%")),
    *({"k": {"$contains": "a"}}, {"k": {"$exists": False}}, {"a.b": {"$ne": 1}}, {"k": {"$eq": []}}),
    *({"k": {"$gte": 1, "$lt": 2.5}}, {"_bq_id": ["a", "b"]}, {"k": {"$eq": ["a"]}}, {"k": {"$in": []}}),
    {"$or": [{"k": 1}, {"$not": {"l": 2}}]},
]  # fmt: skip


@pytest.mark.parametrize("given", FILTERS, ids=str)
def test_filters_mean_the_same_over_grpc(given):
    def without_empty(value):
        if isinstance(value, list):
            return [without_empty(each) for each in value]
        some = {key: without_empty(each) for key, each in value.items()} if isinstance(value, dict) else value
        return {k: v for k, v in some.items() if v != [] or k == "has_id"} if isinstance(some, dict) else some

    made = translated(parse(given), Layout())
    back = GrpcToRest.convert_filter(RestToGrpc.convert_filter(made))
    assert without_empty(back.model_dump(exclude_none=True)) == without_empty(made.model_dump(exclude_none=True))


def test_a_server_that_takes_requests_and_does_not_answer(server):
    shim, address = server
    with bqstore.open(f"{address}/notes", timeout=60) as col:
        col.add(np.eye(2), ids=["a", "b"])
        shim.delays = [30.0] * 9
        with (
            pytest.raises(bqstore.ServerError, match=r"[Tt]imeout"),
            bqstore.open(f"{address}/notes", timeout=1) as hasty,
        ):
            hasty.count()
        shim.delays = []
        shim.awake.set()
        assert len(col) == 2


def test_the_pause_that_a_server_asks_for_is_made(server, paused):
    """Its 429 has Retry-After, which no try may come before; one that is beyond the deadline ends the call at once."""
    shim, address = server
    with bqstore.open(f"{address}/notes", timeout=30, dim=2) as col:
        shim.failures = [(429, "slow down", {"Retry-After": "1"})]
        paused.clear()
        assert len(col) == 0 and paused == [1]
        shim.failures = [(429, "slow down", {"Retry-After": "3600"})]
        with pytest.raises(bqstore.ServerError, match="count: "):
            col.count()


def test_writes_whose_answers_are_lost_are_made_once(server):
    """The server applies them, and the connection is cut: documents are written by their ids, so again is the same."""
    shim, address = server
    with bqstore.open(f"{address}/notes", text_index=True, timeout=30) as col:
        col.add(np.eye(4), list("abcd"), ["one", "two", "three", "four"])
        for call, method in (
            (lambda: col.add(np.eye(4)[:2], ["e", "f"], ["five", "six"]), "/points"),
            (lambda: col.update(["a"], texts=["eleven"], metadatas=[{"n": 1}]), "/points/batch"),
            (lambda: col.delete(["b"]), "/points/delete"),
        ):
            shim.asked.clear()
            shim.lost = [method]
            call()
            assert [path for _, path, _ in shim.asked].count(method) == 2
        assert col.ids() == list("acdef") and col.get(["a"])[0].metadata == {"n": 1}
        assert {hit.id for hit in col.search(text="eleven five one")} == {"a", "e"}


def test_a_server_that_was_started_again_is_found(server):
    """Its connections are gone: the next call makes others."""
    with running() as (shim, address):
        port = int(address.rpartition(":")[2])
        col = bqstore.open(f"{address}/notes", timeout=30)
        col.add(np.eye(2), ids=["a", "b"])
    with running(port, shim):
        assert len(col) == 2 and [hit.id for hit in col.search([1, 0], 1)] == ["a"]
    col.close()
