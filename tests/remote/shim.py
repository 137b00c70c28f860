"""A Qdrant server in the process: its REST interface, of which every body is checked, on qdrant-client's local mode.

The real client talks to it over a socket, so its requests are the ones that a server would get: bodies are parsed by
the models that are made from Qdrant's OpenAPI schema, which take no unknown field.
"""

import json
import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

from pydantic import TypeAdapter
from qdrant_client import QdrantClient, models

BODIES = {
    ("PUT", ""): models.CreateCollection,
    ("PATCH", ""): models.UpdateCollection,
    ("PUT", "/index"): models.CreateFieldIndex,
    ("PUT", "/points"): models.PointsList,
    ("POST", "/points"): models.PointRequest,
    ("POST", "/points/scroll"): models.ScrollRequest,
    ("POST", "/points/count"): models.CountRequest,
    ("POST", "/points/query"): models.QueryRequest,
    ("POST", "/points/query/batch"): models.QueryRequestBatch,
    ("POST", "/points/delete"): models.FilterSelector,
    ("POST", "/points/batch"): models.UpdateOperations,
    ("POST", "/aliases"): models.ChangeAliasesOperation,
}


def checked(method, path, body):
    """A body as the model of its endpoint, which takes no unknown field, and has all of it; and the body's fields."""
    model = BODIES.get((method, path))
    if model is None:
        assert body is None, f"{method} {path} has a body, and no model"
        return None, set()
    given = model.model_validate(body)
    back = given.model_dump(mode="json", by_alias=True, exclude_unset=True)
    assert back == body, f"{method} {path}: {body} is read as {back}"
    return given, set(fields_of(body))


def fields_of(body, before=""):
    """The paths of fields, those under names that users choose left out."""
    if isinstance(body, list):
        for each in body:
            yield from fields_of(each, before)
    elif isinstance(body, dict):
        spaces = before in ("vectors", "sparse_vectors")
        free = spaces or before.endswith((".payload", ".vector", "metadata"))
        for key, each in body.items():
            path = f"{before}.{'*' if free else key}".lstrip(".")
            yield path
            if spaces or not free:
                yield from fields_of(each, path)


class Shim:
    """What was asked of the server, and how it is to fail."""

    def __init__(self):
        self.client = QdrantClient(":memory:")
        self.asked = []  # (method, path behind the collection's name, body)
        self.indexes = {}
        self.failures = []  # (status, error, headers if any) of the next requests; None for a connection that is cut
        self.delays = []  # seconds before the next answers, unless it is woken
        self.awake = threading.Event()
        self.lost = []  # paths whose next requests are answered to nobody
        self.lock = threading.Lock()
        self.keys = []
        self.version = "1.20.0"
        self.fields = {}  # of the bodies, by endpoint

    def answer(self, method, path, body):
        """What the server answers, which is put under "result"."""
        if path == "/":
            return {"title": "qdrant", "version": self.version}
        if path in ("/aliases", "/collections/aliases"):
            return self.aliases(*checked(method, "/aliases", body))
        name, _, rest = path.removeprefix("/collections/").partition("/")
        name, rest = unquote(name), f"/{rest}" if rest else ""
        given, found = checked(method, rest, body)
        self.fields.setdefault((method, rest), set()).update(found)
        self.asked.append((method, rest, body))
        if (method, rest) == ("GET", "") and self.client.collection_exists(name):
            found = self.client.get_collection(name)
            known = self.indexes.get(name, {})
            return {**found.model_dump(mode="json"), "payload_schema": known}
        return self.changed(method + rest, name, given)

    def aliases(self, given, found):
        if given is None:
            return self.client.get_aliases()
        self.fields[("POST", "/aliases")] = found
        return self.client.update_collection_aliases(given.actions)

    def changed(self, asked, name, given):
        client = self.client
        if asked == "GET":
            client.get_collection(name)
        if asked == "PUT":
            metadata = given.metadata
            client.create_collection(
                name, vectors_config=given.vectors, sparse_vectors_config=given.sparse_vectors, metadata=metadata
            )
            self.indexes[name] = {}
            return True
        if asked == "PATCH":
            return client.update_collection(name, metadata=given.metadata)
        if asked == "DELETE":
            return client.delete_collection(name)
        if asked == "PUT/index":
            kind = getattr(given.field_schema, "type", given.field_schema)
            self.indexes[name][given.field_name] = {"data_type": getattr(kind, "value", kind), "points": 0}
            return {"operation_id": 1, "status": "completed"}
        if asked == "PUT/points":
            return client.upsert(name, given.points)
        if asked == "POST/points":
            return client.retrieve(name, given.ids, given.with_payload, given.with_vector)
        if asked == "POST/points/scroll":
            points, following = client.scroll(
                name, given.filter, given.limit, given.order_by, given.offset, given.with_payload, given.with_vector
            )
            return {"points": points, "next_page_offset": following}
        if asked == "POST/points/count":
            return client.count(name, given.filter)
        if asked == "POST/points/delete":
            return client.delete(name, given)
        if asked == "POST/points/batch":
            return client.batch_update_points(name, given.operations)
        requests = given.searches if asked.endswith("batch") else [given]
        found = [
            client.query_points(
                name,
                query=each.query,
                prefetch=each.prefetch,
                using=each.using,
                query_filter=each.filter,
                limit=each.limit,
                score_threshold=each.score_threshold,
                with_payload=each.with_payload,
                with_vectors=each.with_vector,
            )
            for each in requests
        ]
        return found if asked.endswith("batch") else found[0]


@contextmanager
def running(port=0, shim=None):
    """A shim, and the address of it."""
    shim = shim or Shim()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one(self):
            length = int(self.headers.get("Content-Length") or 0)
            raw = self.rfile.read(length)
            shim.keys.append(self.headers.get("api-key"))
            if shim.delays:
                shim.awake.wait(shim.delays.pop(0))
            with shim.lock:
                if shim.failures:
                    failure = shim.failures.pop(0)
                    if failure is None:
                        self.close_connection = True
                        return
                    self.send(failure[0], {"status": {"error": failure[1]}, "time": 0.0}, *failure[2:])
                    return
                try:
                    path = urlsplit(self.path).path
                    found = shim.answer(self.command, path, json.loads(raw) if raw else None)
                except ValueError as error:
                    missing = "not found" in str(error)
                    self.send(404 if missing else 400, {"status": {"error": str(error)}, "time": 0.0})
                    return
                if shim.lost and path.endswith(shim.lost[0]):
                    shim.lost.pop(0)
                    self.close_connection = True
                    return
            plain = TypeAdapter(type(found)).dump_python(found, mode="json") if found is not None else None
            self.send(200, plain if self.path == "/" else {"result": plain, "status": "ok", "time": 0.0})

        do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = handle_one

        def send(self, status, body, headers=None):
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            with suppress(ConnectionError):  # who asked has given up
                self.wfile.write(data)

        def log_message(self, *given):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield shim, f"qdrant://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
