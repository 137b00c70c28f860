"""OpenAI's API on loopback that does as it is told and remembers what it was asked."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

DIM = 8


def vector_of(text: str, dim: int = DIM) -> np.ndarray:
    """What the server answers for a text, float32 (dim,)."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")
    return np.random.default_rng(seed).standard_normal(dim).astype(np.float32)


@dataclass
class Refusal:
    """An answer that is no embedding."""

    status: int
    error: dict[str, Any]

    def body(self) -> dict[str, Any]:
        return {"error": {"message": "", "type": "x", "param": None, "code": None, **self.error}}


@dataclass
class Server:
    """What was asked, and what is to be answered."""

    url: str
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    plan: list[Refusal | bytes] = field(default_factory=list)  # used up first, one a request
    max_chars: int = 10**9  # longer texts are refused, as the API refuses 8,193 tokens
    name_the_input: bool = False
    dim: int = DIM
    as_lists: bool = False
    shuffled: bool = True
    hold: threading.Event | None = None  # requests after the first wait for it
    under_way: int = 0
    most_under_way: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def texts(self) -> list[str]:
        return [text for request in self.requests for text in request.get("input", [])]

    def answer(self, request: dict[str, Any]) -> tuple[int, bytes]:
        if self.plan:
            planned = self.plan.pop(0)
            if isinstance(planned, bytes):
                return 200, planned
            return planned.status, json.dumps(planned.body()).encode()
        if "messages" in request:  # a chat model
            message = {"role": "assistant", "content": "an answer of the model"}
            return 200, json.dumps({"choices": [{"index": 0, "message": message}]}).encode()
        for place, text in enumerate(request["input"]):
            if len(text) > self.max_chars:
                named = f"'input[{place}]'" if self.name_the_input else "'input'"
                said = {"message": f"Invalid {named}: maximum context length is 8192 tokens. {text}"}
                return 400, json.dumps(Refusal(400, said).body()).encode()
        data = []
        for place, text in enumerate(request["input"]):
            vector = vector_of(text, request.get("dimensions", self.dim))
            packed = vector.tolist() if self.as_lists else base64.b64encode(vector.tobytes()).decode()
            data.append({"object": "embedding", "index": place, "embedding": packed})
        if self.shuffled:
            data.reverse()
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        return 200, json.dumps({"object": "list", "data": data, "model": "m", "usage": usage}).encode()


@contextmanager
def serve() -> Iterator[Server]:
    """A server on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with state.lock:
                state.requests.append(request)
                state.headers.append({name.lower(): value for name, value in self.headers.items()})
                state.under_way += 1
                state.most_under_way = max(state.most_under_way, state.under_way)
                number = len(state.requests)
                status, body = state.answer(request)
            if state.hold is not None and number > 1:
                state.hold.wait(10)
            with state.lock:
                state.under_way -= 1
            with suppress(ConnectionError):  # a client that was stopped, or would not wait, is gone
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.send_header("retry-after-ms", "1")  # so that no test waits for the SDK's half second
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state = Server(f"http://127.0.0.1:{server.server_address[1]}/v1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
