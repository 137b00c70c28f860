"""OpenAI's API on loopback that does as it is told, misbehaves on script, and remembers what it was asked."""

import base64
import hashlib
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

DIM = 8
PATIENCE = 600  # seconds: longer than the slowest machine needs, so that a test that hangs ends
LONGEST = 64  # dimensions of the model: what is shorter is a cut of it


def vector_of(text: str, dim: int = DIM) -> np.ndarray:
    """What the server answers for a text, float32 (dim,), of unit length."""
    vector = cut_of(text, dim)
    return vector / np.linalg.norm(vector)


def cut_of(text: str, dim: int = DIM) -> np.ndarray:
    """The first values of a longer vector of unit length: what a server gives that does not restore the length."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")
    vector = np.random.default_rng(seed).standard_normal(max(dim, LONGEST)).astype(np.float32)
    return (vector / np.linalg.norm(vector))[:dim]


@dataclass
class Refusal:
    """An answer that is no embedding; it asks for a millisecond's wait unless it has headers of its own."""

    status: int
    error: dict[str, Any]
    headers: dict[str, str] = field(default_factory=lambda: {"retry-after-ms": "1"})

    def body(self) -> dict[str, Any]:
        return {"error": {"message": "", "type": "x", "param": None, "code": None, **self.error}}


@dataclass
class Broken:
    """No answer: the connection is dropped after so many bytes of it, or says nothing more until ``until`` is set."""

    after: int = 0
    until: threading.Event | None = None


@dataclass
class Server:
    """What was asked, and what is to be answered."""

    url: str
    requests: list[dict[str, Any]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)  # of `time.monotonic`, when each request came
    headers: list[dict[str, str]] = field(default_factory=list)
    plan: list[Refusal | Broken | bytes | None] = field(default_factory=list)  # used up first, one a request
    max_chars: int = 10**9  # longer texts are refused, as the API refuses 8,193 tokens
    name_the_input: bool = False
    count_the_input: bool = False
    max_texts: int = 10**9
    max_request_chars: int = 10**9
    dim: int = DIM
    as_lists: bool = False
    cut: bool = False
    ignore_dimensions: bool = False
    shuffled: bool = True
    delay: float = 0.0
    answer_headers: dict[str, str] = field(default_factory=dict)
    imitate: Callable[[dict[str, Any]], "tuple[int, Any] | None"] | None = None  # None: the answer of OpenAI's API
    drip: float = 0.0  # seconds between two bytes of an answer
    hold: threading.Event | None = None  # requests wait for it, but for the first `served_before_hold`
    served_before_hold: int = 1
    under_way: int = 0
    most_under_way: int = 0
    finished: int = 0  # answers that were sent to their ends
    answered: Counter[str] = field(default_factory=Counter)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def wait_until_under_way(self, requests: int) -> None:
        """Wait until so many requests are under way at once."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.under_way >= requests, PATIENCE)

    @property
    def texts(self) -> list[str]:
        return [text for request in self.requests for text in request.get("input", [])]

    @property
    def twice(self) -> list[str]:
        """Texts that were answered, and so paid for, more than once."""
        return [text for text, n in self.answered.items() if n > 1]

    def answer(self, request: dict[str, Any]) -> "tuple[int, bytes, dict[str, str]] | Broken":
        planned = self.plan.pop(0) if self.plan else None
        if isinstance(planned, bytes):
            return 200, planned, {}
        if isinstance(planned, Broken) and not planned.after:
            return planned
        if isinstance(planned, Refusal):
            return planned.status, json.dumps(planned.body()).encode(), planned.headers
        if "messages" in request:  # a chat model
            message = {"role": "assistant", "content": "an answer of the model"}
            return 200, json.dumps({"choices": [{"index": 0, "message": message}]}).encode(), {}
        imitated = None if self.imitate is None else self.imitate(request)
        if imitated is not None:
            status, body = imitated
            if status == 200:
                self.answered.update(request["input"])
            return status, body if isinstance(body, bytes) else json.dumps(body).encode(), {}
        refused = self.refuse(request["input"])
        if refused is not None:
            return refused.status, json.dumps(refused.body()).encode(), {}
        data = []
        make = cut_of if self.cut else vector_of
        for place, text in enumerate(request["input"]):
            vector = make(text, self.dim if self.ignore_dimensions else request.get("dimensions", self.dim))
            packed = vector.tolist() if self.as_lists else base64.b64encode(vector.tobytes()).decode()
            data.append({"object": "embedding", "index": place, "embedding": packed})
        if self.shuffled:
            data.reverse()
        tokens = sum(len(text) for text in request["input"])
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        body = json.dumps({"object": "list", "data": data, "model": "m", "usage": usage}).encode()
        if isinstance(planned, Broken):
            planned.after = min(planned.after, len(body) - 1)
            return 200, body[: planned.after], {"content-length": str(len(body))}
        self.answered.update(request["input"])
        return 200, body, self.answer_headers

    def refuse(self, texts: list[str]) -> Refusal | None:
        """What is too big is refused, in the words of one server or another."""
        for place, text in enumerate(texts):
            if len(text) > self.max_chars:
                named = f"'input[{place}]'" if self.name_the_input else "'input'"
                counted = f", however you requested {len(text)} tokens" if self.count_the_input else ""
                limit = self.max_chars if self.count_the_input else 8192
                return Refusal(
                    400, {"message": f"Invalid {named}: maximum context length is {limit} tokens{counted}. {text}"}
                )
        if len(texts) > self.max_texts:
            return Refusal(413, {"message": f"batch size {len(texts)} > maximum allowed batch size {self.max_texts}"})
        if sum(map(len, texts)) > self.max_request_chars:
            return Refusal(400, {"message": "Requested too many tokens", "code": "max_tokens_per_request"})
        return None


@contextmanager
def serve() -> Iterator[Server]:
    """A server on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # or each answer waits 40 ms for its headers to be acknowledged

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with state.changed:
                state.requests.append(request)
                state.times.append(time.monotonic())
                state.headers.append({name.lower(): value for name, value in self.headers.items()})
                state.under_way += 1
                state.most_under_way = max(state.most_under_way, state.under_way)
                number = len(state.requests)
                answer = state.answer(request)
                state.changed.notify_all()
            if state.hold is not None and number > state.served_before_hold:
                state.hold.wait(PATIENCE)
            if state.delay:
                time.sleep(state.delay)
            if isinstance(answer, Broken) and answer.until is not None:
                answer.until.wait(PATIENCE)
            with state.changed:
                state.under_way -= 1
            if isinstance(answer, Broken):
                self.drop()
                return
            status, body, headers = answer
            with suppress(ConnectionError):  # a client that was stopped, or would not wait, is gone
                self.send_response(status)
                for name, value in {
                    "content-type": "application/json",
                    "content-length": str(len(body)),
                    **headers,
                }.items():
                    self.send_header(name, value)
                self.end_headers()
                for piece in [body[at : at + 1] for at in range(len(body))] if state.drip else [body]:
                    self.wfile.write(piece)
                    time.sleep(state.drip)
                state.finished += 1
            if "content-length" in headers:  # more was promised than comes
                self.drop()

        def drop(self) -> None:
            self.close_connection = True
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

        def log_message(self, *args: object) -> None:
            pass

    with on_loopback(Handler) as url:
        state = Server(url)
        yield state


@contextmanager
def on_loopback(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The address of a server on a free port of this machine, for as long as it answers."""

    class Quiet(ThreadingHTTPServer):
        request_queue_size = 64
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            pass  # connections that were dropped on purpose

    server = Quiet(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
