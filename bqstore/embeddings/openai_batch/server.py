"""The requests of the Batch API: files and batches at the server.

A request that creates something is sent once; the SDK retries the others. Servers quote keys and texts in their
messages, so an error contains only a short code of the server's answer.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from ...errors import EmbeddingError
from ..openai.responses import CODE

if TYPE_CHECKING:
    from openai import OpenAI
    from openai.types import Batch

T = TypeVar("T")

URL = "/v1/embeddings"
_RETRIES = 5
_ADVICE = dict.fromkeys((401, 403), "check the API key") | {404: "it may belong to another key, or be too old"}


class RefusedError(EmbeddingError):
    """The server did not carry out a request; ``status`` is the HTTP status, None if it did not answer."""

    def __init__(self, message: str, status: int | None) -> None:
        super().__init__(message)
        self.status = status
        self.may_pass = status is None or status in (408, 409, 429) or status >= 500  # a later attempt may succeed


class BatchServer:
    """Files and batches at the server. All methods raise RefusedError."""

    def __init__(self, client: "OpenAI", endpoint: str) -> None:
        self._once, self._retrying = client.with_options(max_retries=0), client.with_options(max_retries=_RETRIES)
        self._name = urlsplit(endpoint).hostname or "the server"

    def find_file(self, name: str, size: int) -> str | None:
        """The id of the uploaded file with this name and size, or None."""
        listed, wanted = self._retrying.files.list, (name, size)
        return self._ask(
            "list its files",
            lambda: next((f.id for f in listed(purpose="batch") if (f.filename, f.bytes) == wanted), None),
        )

    def upload(self, name: str, data: bytes) -> str:
        """Upload a file; returns its id."""
        return self._ask("store a file", lambda: self._once.files.create(file=(name, data), purpose="batch")).id

    def find_batches(self, names: set[str]) -> "dict[str, Batch]":
        """The batches created under these names; of several, the first in the server's list."""
        batches = self._ask("list its batches", lambda: list(self._retrying.batches.list(limit=100)))
        found = {(batch.metadata or {}).get("bqstore", ""): batch for batch in reversed(batches)}
        return {name: batch for name, batch in found.items() if name in names}

    def create(self, file: str, name: str) -> str:
        """Create a batch from an uploaded file, under a name; returns its id."""
        asked: dict[str, Any] = {"endpoint": URL, "completion_window": "24h", "metadata": {"bqstore": name}}
        return self._ask("create a batch", lambda: self._once.batches.create(input_file_id=file, **asked)).id

    def retrieve(self, batch_id: str) -> "Batch":
        """The current state of a batch."""
        return self._ask(f"report on batch {batch_id}", lambda: self._retrying.batches.retrieve(batch_id))

    def result_lines(self, file_id: str) -> Iterator[bytes]:
        """The lines of a file, read in chunks: the results of a batch can take a gigabyte."""
        doing, content, rest = "return the results", self._retrying.files.with_streaming_response.content, b""
        with ExitStack() as stack:
            answer = self._ask(doing, lambda: stack.enter_context(content(file_id)))
            chunks = answer.iter_bytes(1 << 20)
            while chunk := self._ask(doing, lambda: next(chunks, b"")):
                *lines, rest = (rest + chunk).split(b"\n")
                yield from lines
        yield rest

    def _ask(self, doing: str, request: Callable[[], T]) -> T:
        try:
            return request()
        except Exception as error:  # whatever the SDK, its HTTP library or a broken answer can raise
            status, code = getattr(error, "status_code", None), getattr(error, "code", None)
            what = f"HTTP {status}" if isinstance(status, int) else type(error).__name__
            what += f", {code}" if isinstance(code, str) and CODE.fullmatch(code) else ""
        # Raised here, outside the handler, so that the server's words are not chained to it.
        advice = _ADVICE.get(status or 0, "try again later; nothing is submitted twice")
        raise RefusedError(f"{self._name} did not {doing} ({what}); {advice}", status)
