"""OpenAI's Batch API: half the price, an answer within a day. The story: cut, send, look again, read, ask for the rest.

A job is a list of texts for one model of one server; its name is a hash of these, and a file of state in the user's
folder says how far it is. The file is written before and after each step at the server, so a process may die anywhere:
whoever starts again with the same texts goes on. The API has no key that makes a request idempotent, so nothing that
creates is retried blindly: where an answer was lost, the server's lists are asked whether it was carried out.

The file holds hashes, ranges and what the server calls things: no text, no key. Retries of questions are the SDK's.
"""

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from ...arguments import check_real
from ...errors import BqstoreError, EmbeddingError, InvalidInputError
from ...progress import Progress
from ..cache import EmbeddingCache
from ..checks import checked_dimensions
from ..openai.api_key import check_encrypted
from ..openai.packing import check_texts
from ..openai.prices import BATCH_DISCOUNT, cost
from ..openai.stream import listed
from .job import Job, Line, Part, id_of
from .plan import new_parts
from .results import Rows, parse, word

if TYPE_CHECKING:
    from openai import OpenAI
    from openai.types import Batch

Vectors = npt.NDArray[np.float32]
T = TypeVar("T")

_URL: Literal["/v1/embeddings"] = "/v1/embeddings"
_ENDED = ("completed", "failed", "expired", "cancelled")
_CODE = re.compile(r"[a-z_]{1,40}")  # what the API's codes look like; a key or a sentence does not
_QUESTION_RETRIES = 5
_POLL = "a number of seconds, 0 or more"
_NAMED = 5  # failures spelled out in a message


@dataclass(frozen=True)
class BatchStatus:
    """One batch, as the server has it; requests each hold many texts."""

    id: str
    status: str
    requests: int
    completed: int
    failed: int


class _RefusedError(EmbeddingError):
    """The server did not do what was asked; ``status`` is that of HTTP, None if it did not answer."""

    def __init__(self, message: str, status: int | None) -> None:
        super().__init__(message)
        self.status = status


class EmbeddingBatch:
    """Texts embedded by OpenAI's Batch API; one process and thread at a time may be at a job.

    Parameters
    ----------
    client : openai.OpenAI       makes the requests; it holds the key, this does not
    dimensions : int, optional   ask for shorter vectors
    folder : path                keeps the state of jobs; give the same one after a restart
    cache : EmbeddingCache       what is in it is not submitted, what is collected goes into it; None: neither
    endpoint : str               the base URL, as it is in the cache's keys
    poll_seconds : float         between two looks, while `collect` waits
    price : float, optional      US$ a million tokens without batches, if it is known
    """

    def __init__(
        self,
        client: "OpenAI",
        model: str,
        *,
        dimensions: int | None = None,
        folder: str | os.PathLike[str],
        cache: EmbeddingCache | None,
        endpoint: str,
        poll_seconds: float = 30.0,
        price: float | None = None,
    ) -> None:
        if not check_real("poll_seconds", poll_seconds, _POLL) >= 0:
            raise InvalidInputError(f"poll_seconds is {poll_seconds}; expected {_POLL}")
        self.model, self.dimensions = model, checked_dimensions(dimensions)
        self.folder = Path(folder).expanduser()
        self._client, self._once = (
            client.with_options(max_retries=_QUESTION_RETRIES),
            client.with_options(max_retries=0),
        )
        self._cache, self._endpoint, self._poll, self._per_million = cache, endpoint, poll_seconds, price
        check_encrypted(str(client.base_url))
        self._server = urlsplit(endpoint).hostname or "the server"
        self._job: Job | None = None
        self._rows: Rows | None = None

    def __repr__(self) -> str:
        return f"EmbeddingBatch(model={self.model!r}, dimensions={self.dimensions}, folder={str(self.folder)!r})"

    @property
    def tokens(self) -> int:
        """The tokens that the server counted, in all results read so far."""
        return 0 if self._job is None else sum(part.tokens for part in self._job.parts)

    @property
    def price(self) -> float | None:
        """What these tokens cost, in US$; None if the model's price is not known."""
        return None if self._per_million is None else cost(self.tokens, self._per_million * BATCH_DISCOUNT)

    def submit(self, texts: Sequence[str]) -> list[str]:
        """Submit what is neither cached nor submitted already; the ids of all the job's batches.

        After an error or a restart, call it again with the same texts: it goes on from there. What a batch that has
        ended left out or failed in is asked for by a new one; texts that were refused together, one by one.

        Raises
        ------
        InvalidInputError   a text is empty or no string; nothing was sent
        EmbeddingError      the server refused or cannot be reached; what it did so far is known
        LockedError         another process or thread is at this job
        StorageError        the folder cannot be written
        """
        texts = listed(texts)
        sizes = check_texts(texts)
        rows = self._rows = Rows(texts, self._endpoint, self.model, self.dimensions, self._cache)
        texts, sizes = [texts[i] for i in rows.first], [sizes[i] for i in rows.first]
        job = self._job = Job(self.folder, [self._endpoint, self.model, self.dimensions], texts)
        with job.held():
            rows.take_cached()
            self._settle(job, rows, again=False)
            job.parts = [part for part in job.parts if part.step != "planned"]  # the cache may know more by now
            if new_parts(job, rows.have, sizes, lambda line: len(self._request(line, texts))):
                job.save()
            self._find_created(job)
            for part in job.parts:
                if part.batch is None:
                    self._send(job, part, texts)
            return [part.batch for part in job.parts if part.batch is not None]

    def status(self) -> list[BatchStatus]:
        """How each batch is, asked of the server now. After `submit`, and raises as it does."""
        job, _ = self._begun()
        with job.held():
            return [_describe(self._retrieve(part.batch)) for part in job.parts if part.batch is not None]

    def collect(self, wait: bool = False) -> Vectors:
        """The vectors of the texts, float32 (n, dim), in their order; by then the cache has them too. After `submit`.

        Raises
        ------
        EmbeddingError   batches are not finished, and were not waited for; texts have no vector, and are named by
                         index; the server refused or cannot be reached
        """
        job, rows = self._begun()
        with Progress("batches", len(job.parts)) as report:
            while True:
                with job.held():
                    if any(part.batch is None for part in job.parts):
                        raise EmbeddingError("not all is submitted yet; call submit() again with the same texts")
                    rows.take_cached()
                    running = self._settle(job, rows, again=True)
                if not running or not wait:
                    break
                report(len(job.parts) - running, len(job.parts))
                time.sleep(self._poll)
        if running:
            raise EmbeddingError(
                f"{running} of {len(job.parts)} batches are not finished; call collect() later, or collect(wait=True)"
            )
        if not rows.have.all():
            raise EmbeddingError(_what_is_lacking(job, rows))
        return rows.hand_over()

    def _begun(self) -> tuple[Job, Rows]:
        if self._job is None or self._rows is None:
            raise InvalidInputError("there is no job yet: call submit(texts); what was submitted is not sent again")
        return self._job, self._rows

    # Sending.

    def _request(self, line: Line, texts: Sequence[str]) -> bytes:
        body: dict[str, Any] = {"model": self.model, "input": texts[slice(*line)], "encoding_format": "base64"}
        if self.dimensions is not None:
            body["dimensions"] = self.dimensions
        request = {"custom_id": id_of(line), "method": "POST", "url": _URL, "body": body}
        return json.dumps(request).encode() + b"\n"  # ASCII: no character in it that someone takes for a line's end

    def _find_created(self, job: Job) -> None:
        """Batches whose making was never answered, or whose state is gone, from the server's list."""
        unknown = {part.name: part for part in job.parts if part.batch is None}
        if unknown:
            self._ask("list its batches", lambda: self._adopt(job, unknown))

    def _adopt(self, job: Job, unknown: dict[str, Part]) -> None:
        for batch in self._client.batches.list(limit=100):
            part = unknown.get((batch.metadata or {}).get("bqstore", ""))
            if part is not None and part.batch is None:
                part.batch, part.file = batch.id, batch.input_file_id
                job.step(part, "created")

    def _find_uploaded(self, name: str, size: int) -> str | None:
        files = self._client.files.list(purpose="batch")
        return next((file.id for file in files if file.filename == name and file.bytes == size), None)

    def _send(self, job: Job, part: Part, texts: Sequence[str]) -> None:
        if part.file is None:
            name, data = f"{part.name}.jsonl", b"".join(self._request(line, texts) for line in part.lines)
            if part.step == "uploading":
                part.file = self._ask("list its files", lambda: self._find_uploaded(name, len(data)))
            if part.file is None:
                job.step(part, "uploading")
                upload = self._once.files.create
                part.file = self._ask("take a file", lambda: upload(file=(name, data), purpose="batch")).id
            job.step(part, "uploaded")
        job.step(part, "creating")
        create, file, named = self._once.batches.create, part.file, {"bqstore": part.name}
        try:
            part.batch = self._ask(
                "make a batch",
                lambda: create(endpoint=_URL, completion_window="24h", input_file_id=file, metadata=named),
            ).id
        except _RefusedError as refusal:
            if refusal.status in (400, 404):  # it will not have this file, or has it no more
                part.file = None
                job.step(part, "planned")
            raise
        job.step(part, "created")

    # Looking, and reading.

    def _retrieve(self, batch_id: str) -> "Batch":
        return self._ask(f"say how batch {batch_id} is", lambda: self._client.batches.retrieve(batch_id))

    def _settle(self, job: Job, rows: Rows, again: bool) -> int:
        """Read what has ended, with ``again`` also what was read but is not here; the number that has not ended."""
        running = 0
        for part in job.parts:
            kept = (line for line in part.lines if id_of(line) not in part.lost)
            if part.batch is None or (part.read and not (again and any(rows.lacks(line) for line in kept))):
                continue
            batch = self._retrieve(part.batch)
            if batch.status in _ENDED:
                self._read(part, batch, rows)
                job.save()
            else:
                running += 1
        return running

    def _read(self, part: Part, batch: "Batch", rows: Rows) -> None:
        """Take the results of a batch, into the cache too, and write down which lines have none."""
        missing = {id_of(line): line for line in part.lines}
        why: dict[str, str] = {}
        found: list[int] = []
        tokens = 0
        for file_id in filter(None, (batch.output_file_id, batch.error_file_id)):
            try:
                for said in self._results(file_id):
                    name, answer, reason = parse(said)
                    if name not in missing:  # had already, or never asked for
                        continue
                    reason = reason or rows.take(missing[name], answer)
                    if reason:
                        why[name] = reason
                        continue
                    found += range(*missing.pop(name))
                    usage = answer.get("usage")
                    count = usage.get("prompt_tokens") if isinstance(usage, dict) else 0
                    tokens += count if isinstance(count, int) else 0
            except _RefusedError as refusal:
                if refusal.status != 404:  # results are kept for a month
                    raise
            finally:
                rows.to_cache(found)
                found = []
        otherwise = " ".join(["no result, batch", word(batch.status), *_codes(batch)])
        part.lost = {name: why.get(name, otherwise) for name in missing}
        part.read, part.tokens = True, max(tokens, part.tokens)

    def _results(self, file_id: str) -> Iterator[bytes]:
        """The lines of a file, as they come: a batch's results can take a gigabyte."""
        doing, content, rest = "hand out its results", self._client.files.with_streaming_response.content, b""
        with ExitStack() as stack:
            answer = self._ask(doing, lambda: stack.enter_context(content(file_id)))
            chunks = answer.iter_bytes(1 << 20)
            while chunk := self._ask(doing, lambda: next(chunks, b"")):
                *lines, rest = (rest + chunk).split(b"\n")
                yield from lines
        yield rest

    # Words.

    def _ask(self, doing: str, remote: Callable[[], T]) -> T:
        """What the server answers; anything else in our words, chained to nothing: servers quote keys and texts."""
        try:
            return remote()
        except BqstoreError:
            raise
        except Exception as error:  # whatever the SDK, its HTTP library or a broken answer can raise
            status, code = getattr(error, "status_code", None), getattr(error, "code", None)
            what = f"HTTP {status}" if isinstance(status, int) else type(error).__name__
            what += f", {code}" if isinstance(code, str) and _CODE.fullmatch(code) else ""
        advice = {401: "check the API key", 403: "check the API key", 404: "was it another key's, or is it too old?"}
        said = advice.get(status or 0, "try again later: nothing that was done is done twice")
        raise _RefusedError(f"{self._server} did not {doing} ({what}); {said}", status)


def _what_is_lacking(job: Job, rows: Rows) -> str:
    named, told = rows.have.copy(), []
    for part in reversed(job.parts):  # what was said last
        for line in part.lines:
            if id_of(line) in part.lost and not named[slice(*line)].all():
                first, last = rows.first[line[0]], rows.first[line[1] - 1]
                texts = f"text {first}" if first == last else f"texts {first} to {last}"
                told.append((first, f"{texts} ({part.lost[id_of(line)]})"))
                named[slice(*line)] = True
    some = ", ".join(text for _, text in sorted(told)[:_NAMED])
    more = f" and {len(told) - _NAMED} more requests" if len(told) > _NAMED else ""
    lacking = np.count_nonzero(~rows.have)
    return (
        f"{lacking} of {len(rows.have)} texts have no vector: {some or 'the cache has them no more'}{more}; "
        "call submit() again with the same texts: only these are asked for"
    )


def _codes(batch: "Batch") -> list[str]:
    errors = (batch.errors.data if batch.errors else None) or []
    return list(dict.fromkeys(word(error.code) for error in errors))[:_NAMED]


def _describe(batch: "Batch") -> BatchStatus:
    counts = batch.request_counts
    total, completed, failed = (counts.total, counts.completed, counts.failed) if counts else (0, 0, 0)
    return BatchStatus(batch.id, word(batch.status), total, completed, failed)
