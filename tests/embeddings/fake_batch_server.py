"""OpenAI's files and batches on loopback: does as it is told, dies when it is told to, and remembers what it took.

A step is "upload", "list-files", "create", "list", "retrieve" or "content". What goes wrong with one is put in
``Server.script``: "drop" closes the connection before the step is carried out, "lose" after it and without an answer,
"cut" in the middle of the answer; a `Refusal` is the answer. What goes wrong with a batch is put in ``Server.fates``,
one a batch, used up in order.
"""

import base64
import email.parser
import email.policy
import json
import os
import random
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

from .fake_server import DIM, Refusal, on_loopback, vector_of

Lines = list[dict[str, Any]]
Fate = Callable[["Server", dict[str, Any], Lines], Lines]


@dataclass
class Server:
    """What was taken, and what is to go wrong."""

    url: str
    files: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)  # the steps, in order
    script: dict[str, list[str | Refusal]] = field(default_factory=dict)
    fates: list[Fate] = field(default_factory=list)
    looks: int = 0  # a batch is in progress for so many looks at it
    page: int = 2
    dim: int = DIM
    as_lists: bool = False
    kill_at: int = -1  # of the moments before and after each step: the client's process is killed
    moments: int = 0
    lock: threading.RLock = field(default_factory=threading.RLock)

    def reset(self) -> None:
        """Forget everything."""
        for memory in (self.files, self.batches, self.asked, self.script, self.fates):
            memory.clear()
        self.kill_at, self.moments, self.looks = -1, 0, 0

    def inputs(self, batch: dict[str, Any]) -> Lines:
        """The lines that were submitted."""
        return [json.loads(line) for line in self.files[batch["input_file_id"]][1].splitlines()]

    @property
    def texts(self) -> list[str]:
        """All texts that were submitted, as often as they were."""
        return [
            text for batch in self.batches.values() for line in self.inputs(batch) for text in line["body"]["input"]
        ]

    def count(self, step: str) -> int:
        return self.asked.count(step)

    def add_file(self, name: str, content: bytes) -> dict[str, Any]:
        file_id = f"file-{len(self.files)}"
        self.files[file_id] = name, content
        return self.file(file_id)

    def file(self, file_id: str) -> dict[str, Any]:
        name, content = self.files[file_id]
        about = {"object": "file", "created_at": 1, "purpose": "batch", "status": "processed"}
        return {"id": file_id, "filename": name, "bytes": len(content), **about}

    def create(self, asked: dict[str, Any]) -> dict[str, Any]:
        batch_id = f"batch_{len(self.batches)}"
        batch = {
            "id": batch_id,
            "object": "batch",
            "created_at": 1,
            "status": "validating",
            "looks": self.looks,
            **asked,
        }
        self.batches[batch_id] = batch
        return batch

    def retrieve(self, batch: dict[str, Any]) -> dict[str, Any]:
        if batch["looks"] > 0:
            batch["looks"] -= 1
            return batch | {"status": "in_progress"}
        if batch["status"] == "validating":
            batch["status"] = "completed"
            results = [self.embed(line) for line in self.inputs(batch)]
            random.Random(0).shuffle(results)
            if self.fates:
                results = self.fates.pop(0)(self, batch, results)
            good = [line for line in results if line["error"] is None and line["response"]["status_code"] == 200]
            bad = [line for line in results if line not in good]
            for key, lines in (("output_file_id", good), ("error_file_id", bad)):
                if lines:
                    content = b"\n".join(json.dumps(line).encode() for line in lines)
                    batch[key] = self.add_file(key, content)["id"]
            batch["request_counts"] = {"total": len(results), "completed": len(good), "failed": len(bad)}
        return batch

    def embed(self, line: dict[str, Any]) -> dict[str, Any]:
        data = []
        for place, text in enumerate(line["body"]["input"]):
            vector = vector_of(text, line["body"].get("dimensions", self.dim))
            packed = vector.tolist() if self.as_lists else base64.b64encode(vector.tobytes()).decode()
            data.append({"object": "embedding", "index": place, "embedding": packed})
        data.reverse()
        body = {"object": "list", "data": data, "model": "m", "usage": {"prompt_tokens": len(data), "total_tokens": 1}}
        response = {"status_code": 200, "request_id": "r", "body": body}
        return {"id": "batch_req", "custom_id": line["custom_id"], "response": response, "error": None}

    def answer(self, step: str, handler: BaseHTTPRequestHandler, content: bytes) -> tuple[int, bytes]:
        parts = urlsplit(handler.path)
        name = parts.path.removeprefix("/v1").split("/")[2:]
        if step == "upload":
            form = f"content-type: {handler.headers['content-type']}\r\n\r\n".encode() + content
            message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(form)
            fields = {part.get_param("name", header="content-disposition"): part for part in message.iter_parts()}
            assert fields["purpose"].get_content().strip() == "batch"
            file = fields["file"]
            return 200, json.dumps(self.add_file(file.get_filename(), file.get_payload(decode=True))).encode()
        if step == "create":
            asked = json.loads(content)
            assert asked["endpoint"] == "/v1/embeddings" and asked["completion_window"] == "24h"
            return 200, json.dumps(self.create(asked)).encode()
        if step in ("list", "list-files"):
            everything = self.batches if step == "list" else {key: self.file(key) for key in self.files}
            after = parse_qs(parts.query).get("after", [""])[0]
            order = list(everything)
            start = order.index(after) + 1 if after else 0
            page = [everything[key] for key in order[start : start + self.page]]
            return 200, json.dumps({"data": page, "has_more": start + self.page < len(order)}).encode()
        if step == "retrieve" and name[0] in self.batches:
            return 200, json.dumps(self.retrieve(self.batches[name[0]])).encode()
        if step == "content" and name[0] in self.files:
            return 200, self.files[name[0]][1]
        return 404, json.dumps(Refusal(404, {"message": "nothing here", "code": "not_found"}).body()).encode()

    def moment(self, handler: BaseHTTPRequestHandler) -> None:
        """Before and after a step: perhaps the last of the client."""
        self.moments += 1
        if self.moments - 1 == self.kill_at:
            os.kill(int(handler.headers["x-pid"]), signal.SIGKILL)


def expire(server: Server, batch: dict[str, Any], lines: Lines) -> Lines:
    """The day is over when half is done."""
    batch["status"] = "expired"
    error = {"code": "batch_expired", "message": "This request could not be executed"}
    half = len(lines) // 2
    return lines[:half] + [line | {"response": None, "error": error} for line in lines[half:]]


def fail(server: Server, batch: dict[str, Any], lines: Lines) -> Lines:
    """Refused as a whole, a while after it was taken."""
    batch["status"] = "failed"
    batch["errors"] = {"object": "list", "data": [{"code": "token_limit_exceeded", "message": "secret words"}]}
    return []


def cancel(server: Server, batch: dict[str, Any], lines: Lines) -> Lines:
    batch["status"] = "cancelled"
    return lines[:1]


def leave_out(server: Server, batch: dict[str, Any], lines: Lines) -> Lines:
    return lines[1:]


def refuse(what: str) -> Fate:
    """The lines with a text that holds ``what`` are refused, and their texts quoted."""

    def fate(server: Server, batch: dict[str, Any], lines: Lines) -> Lines:
        said = {line["custom_id"]: line["body"]["input"] for line in server.inputs(batch)}
        error = {"error": {"message": f"too long: {said}", "code": "context_length_exceeded"}}
        refused = {"status_code": 400, "request_id": "r", "body": error}
        guilty = [any(what in text for text in said[line["custom_id"]]) for line in lines]
        return [line | {"response": refused} if bad else line for line, bad in zip(lines, guilty, strict=True)]

    return fate


def change(edit: Callable[[list[dict[str, Any]]], Any]) -> Fate:
    """The first line's vectors, changed."""

    def fate(server: Server, batch: dict[str, Any], lines: Lines) -> Lines:
        edit(lines[0]["response"]["body"]["data"])
        return lines

    return fate


_STEPS = [
    ("POST", r"/v1/files", "upload"),
    ("GET", r"/v1/files", "list-files"),
    ("POST", r"/v1/batches", "create"),
    ("GET", r"/v1/batches", "list"),
    ("GET", r"/v1/batches/[^/]+", "retrieve"),
    ("GET", r"/v1/files/[^/]+/content", "content"),
]


@contextmanager
def serve() -> Iterator[Server]:
    """A server on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # or each answer waits 40 ms for its headers to be acknowledged

        def do_GET(self) -> None:
            content = self.rfile.read(int(self.headers.get("content-length") or 0))
            path = urlsplit(self.path).path
            step = next((s for verb, way, s in _STEPS if verb == self.command and re.fullmatch(way, path)), "unknown")
            with state.lock:
                state.asked.append(step)
                state.moment(self)
                planned = state.script.get(step) and state.script[step].pop(0)
                if planned == "drop":
                    self.close_connection = True
                    return
                if isinstance(planned, Refusal):
                    status, body = planned.status, json.dumps(planned.body()).encode()
                else:
                    status, body = state.answer(step, self, content)
                state.moment(self)
            if planned == "lose":
                self.close_connection = True
                return
            with suppress(ConnectionError):
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.send_header("retry-after-ms", "1")
                self.end_headers()
                self.wfile.write(body[: len(body) // 2] if planned == "cut" else body)
                self.close_connection = planned == "cut"

        do_POST = do_GET

        def log_message(self, *args: object) -> None:
            pass

    with on_loopback(Handler) as url:
        state = Server(url)
        yield state
