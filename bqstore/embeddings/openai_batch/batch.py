"""`EmbeddingBatch`: a job of OpenAI's Batch API, which embeds for half the price within a day.

A job is a list of texts for one model of one server. Its name is a hash of these, and its state is a file in the user's
folder, written before and after each step at the server. So the process may be killed at any moment: the next one that
submits the same texts continues, and a job that shares texts with it adopts the batches that hold them. The API has no
idempotency keys, so a request that creates something is never repeated blindly: if its answer was lost, the server's
lists show whether it was executed. The file holds no text and no API key.
"""

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...arguments import check_seconds
from ...errors import EmbeddingError, InvalidInputError
from ...progress import Progress
from ..disk_cache import EmbeddingCache
from ..openai.api_key import check_encrypted
from ..openai.embedding_task import Side
from ..openai.packing import OPENAI, Limits
from ..openai.prices import cost
from ..openai.responses import count_tokens_of, native_dim
from ..openai.settings import check_dimensions
from ..openai.tokens import counter_for
from ..protocol import Vectors
from ..text_rows import TextRows
from ..texts import as_list
from .job import Job, Line, Part, id_of
from .plan import add_parts, wanted_rows
from .results import code_word, parse, take
from .server import URL, BatchServer, RefusedError

if TYPE_CHECKING:
    from openai import OpenAI
    from openai.types import Batch

_ENDED = ("completed", "failed", "expired", "cancelled")
_PATIENCE = 900.0  # seconds for which the server may be unreachable while `collect` waits
_NAMED = 5  # failures listed in a message


@dataclass(frozen=True)
class BatchStatus:
    """One batch at the server; ``requests`` is the number of its requests, each of many texts."""

    id: str
    status: str
    requests: int
    completed: int
    failed: int


class EmbeddingBatch:
    """Embeds texts with OpenAI's Batch API. Made by `OpenAIEmbedder.batch`.

    Only one thread of one process at a time can work on a job.

    Parameters
    ----------
    client : openai.OpenAI       makes the requests and holds the key
    model : str                  the model's name
    dimensions : int, optional   request shorter vectors
    folder : path                keeps the state of jobs; pass the same folder after a restart
    cache : EmbeddingCache       texts in it are not submitted, and collected vectors are stored in it; None: no cache
    endpoint : str               the base URL, part of the cache keys
    poll_seconds : float         interval of status requests while `collect` waits
    price : float, optional      US$ per million tokens without the batch discount, if known
    limits : Limits              limits of one request, if they differ from OpenAI's
    prefix : str                 prepended to each text
    extra : dict, optional       fields added to each request

    Raises InvalidInputError if a setting is out of range, or a public server would be reached over http.

    >>> import openai
    >>> with openai.OpenAI() as client:  # the key is in OPENAI_API_KEY
    ...     job = EmbeddingBatch(
    ...         client, "text-embedding-3-small", folder="batch-jobs", cache=None, endpoint=str(client.base_url)
    ...     )
    ...     ids = job.submit(["Cats purr.", "Dogs bark."])
    ...     job.collect(wait=True).shape
    (2, 1536)
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
        limits: Limits = OPENAI,
        prefix: str = "",
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        check_seconds("poll_seconds", poll_seconds)
        check_encrypted(str(client.base_url))
        self.model, self.dimensions = model, check_dimensions(dimensions)
        self.folder = Path(folder).expanduser()
        self._server = BatchServer(client, endpoint)
        self._cache, self._poll, self._per_million, self._limits = cache, poll_seconds, price, limits
        self._side = Side(endpoint, prefix, model, self.dimensions, extra or {})
        self._native = native_dim(endpoint, model)
        self._model_id = [endpoint, model, self.dimensions, *([dict(extra)] if extra else [])]
        self._job: Job | None = None

    def __repr__(self) -> str:
        return f"EmbeddingBatch(model={self.model!r}, dimensions={self.dimensions}, folder={str(self.folder)!r})"

    @property
    def tokens(self) -> int:
        """The tokens that the server counted, in all results read so far.

        >>> with OpenAIEmbedder("text-embedding-3-small") as embedder:
        ...     embedder.batch("batch-jobs").tokens
        0
        """
        return 0 if self._job is None else sum(part.tokens for part in self._job.parts)

    @property
    def price(self) -> float | None:
        """The price of `tokens` in US$; None if the model's price is not known.

        >>> with OpenAIEmbedder("text-embedding-3-small") as embedder:
        ...     embedder.batch("batch-jobs").price
        0.0
        """
        return cost(self.tokens, self._per_million, batch=True)

    def submit(self, texts: Sequence[str]) -> list[str]:
        """Submit the texts that are neither cached nor submitted already.

        After an error or a restart, call it again with the same texts: it continues. Requests that failed in an ended
        batch are submitted in a new one; after a refusal of several texts together, each in its own request. Returns
        the server's ids of all batches of the job.

        Raises
        ------
        InvalidInputError   a text is empty or not a string; nothing was sent
        EmbeddingError      a text is too long by an exact count, and nothing was submitted; the server refused or
                            cannot be reached, and the job's state keeps what was done so far
        LockedError         another process or thread is working on this job
        StorageError        the folder cannot be written

        >>> with OpenAIEmbedder("text-embedding-3-small") as embedder:
        ...     job = embedder.batch("batch-jobs")
        ...     ids = job.submit(["Cats purr.", "Dogs bark."])
        ...     job.submit(["Cats purr.", "Dogs bark."]) == ids  # nothing is sent twice
        True
        """
        vectors, sizes = self._side.rows_of(as_list(texts), dim=self.dimensions or self._native)
        job, texts = Job(self.folder, self._model_id, vectors), vectors.texts
        self._job = job
        with job.locked():
            vectors.take_cached(self._cache)
            job.parts = [part for part in job.parts if part.step != "planned"]  # the cache may hold more by now
            if job.take_over(wanted_rows(job)[0], read=self._cache is None):
                self._find_created(job)
                job.parts = [part for part in job.parts if part.batch is not None or not part.rows]
                job.save()
            self._read_ended(job, again=False)
            counter, most = counter_for(self.model), self._limits.max_input_tokens
            for i in vectors.lacking():  # otherwise the server might refuse a text that is too long a day later
                if counter is not None and sizes[i] > most and counter(texts[i]) > most:
                    raise EmbeddingError(
                        f"text {vectors.first[i]} is longer than {self.model} takes ({most:,} tokens); split it: a "
                        "batch shortens none"
                    )
            if add_parts(job, sizes, lambda line: len(self._request(line, texts)), self._limits):
                job.save()
            self._find_created(job)
            for part in job.parts:
                if part.batch is None:
                    self._send(job, part, texts)
            return [part.batch for part in job.parts if part.batch is not None]

    def status(self) -> list[BatchStatus]:
        """The current status of each batch at the server. Call `submit` first. Raises as `submit`.

        >>> with OpenAIEmbedder("text-embedding-3-small") as embedder:
        ...     job = embedder.batch("batch-jobs")
        ...     ids = job.submit(["Cats purr.", "Dogs bark."])
        ...     [batch.status for batch in job.status()]
        ['completed']
        """
        job = self._submitted()
        with job.locked():
            batches = [self._server.retrieve(part.batch) for part in job.parts if part.batch is not None]
        counts = ("total", "completed", "failed")
        return [
            BatchStatus(batch.id, code_word(batch.status), *(getattr(batch.request_counts, n, 0) for n in counts))
            for batch in batches
        ]

    def collect(self, wait: bool = False) -> Vectors:
        """The vectors of the texts, float32 (n, dim), in their order; the cache then holds them, too.

        Call `submit` first. With ``wait``, the call blocks until all batches have ended, up to a day.

        Raises EmbeddingError if batches have not ended and ``wait`` is False; if texts have no vector (the message has
        their indices); if the server refused or cannot be reached.

        >>> with OpenAIEmbedder("text-embedding-3-small") as embedder:
        ...     job = embedder.batch("batch-jobs")
        ...     ids = job.submit(["Cats purr.", "Dogs bark."])
        ...     job.collect(wait=True).shape
        (2, 1536)
        """
        job, answered = self._submitted(), time.monotonic()
        with Progress("batches", len(job.parts)) as report:
            while True:
                with job.locked():
                    if any(part.batch is None for part in job.parts):
                        raise EmbeddingError("not all texts are submitted yet; call submit() again with the same texts")
                    job.vectors.take_cached(self._cache)
                    try:
                        running, answered = self._read_ended(job, again=True), time.monotonic()
                    except RefusedError as refusal:  # tolerate short outages while waiting
                        if not (wait and refusal.may_pass and time.monotonic() - answered < _PATIENCE):
                            raise
                        running = 1
                if not running or not wait:
                    break
                report(len(job.parts) - running, len(job.parts))
                time.sleep(self._poll)
        if running:
            raise EmbeddingError(
                f"{running} of {len(job.parts)} batches are not finished; call collect() later, or collect(wait=True)"
            )
        if not job.vectors.has_vector.all():
            raise EmbeddingError(_what_is_missing(job))
        return job.vectors.hand_over()

    def _submitted(self) -> Job:
        if self._job is None:
            raise InvalidInputError("there is no job yet: call submit(texts); what was submitted is not sent again")
        return self._job

    # Submitting.

    def _request(self, line: Line, texts: Sequence[str]) -> bytes:
        body = {"encoding_format": "base64", **self._side.body, "input": texts[slice(*line)]}
        request = {"custom_id": id_of(line), "method": "POST", "url": URL, "body": body}
        return json.dumps(request).encode() + b"\n"  # ASCII: without Unicode line separators

    def _find_created(self, job: Job) -> None:
        """Find batches in the server's list whose creation was not answered, or whose state was lost."""
        unknown = {part.name: part for part in job.parts if part.batch is None}
        found = self._server.find_batches(set(unknown)) if unknown else {}
        for name, batch in found.items():
            unknown[name].batch, unknown[name].file = batch.id, batch.input_file_id
            job.advance(unknown[name], "created")

    def _send(self, job: Job, part: Part, texts: Sequence[str]) -> None:
        if part.file is None:
            name, data = f"{part.name}.jsonl", b"".join(self._request(line, texts) for line in part.lines)
            if part.step == "uploading":
                part.file = self._server.find_file(name, len(data))
            if part.file is None:
                job.advance(part, "uploading")
                part.file = self._server.upload(name, data)
            job.advance(part, "uploaded")
        job.advance(part, "creating")
        try:
            part.batch = self._server.create(part.file, part.name)
        except RefusedError as refusal:
            if refusal.status in (400, 404):  # it refuses this file, or has deleted it
                part.file = None
                job.advance(part, "planned")
            raise
        job.advance(part, "created")

    # Reading results.

    def _read_ended(self, job: Job, again: bool) -> int:
        """Read the results of ended batches; returns the number of batches that have not ended.

        ``again`` : read results again if their vectors are neither in memory nor in the cache
        """
        running = 0
        for part in job.parts:
            if part.batch is None or (part.read and (not again or job.vectors.has_vector[part.expected()].all())):
                continue
            try:
                batch = self._server.retrieve(part.batch)
            except RefusedError as refusal:
                if refusal.status != 404 or not part.rows:
                    raise
                # adopted from another job, with another key or deleted: submit its texts here instead
                part.read, part.lost = True, {id_of(line): "no result, batch unknown" for line in part.lines}
                job.save()
                continue
            if batch.status in _ENDED:
                self._read(part, batch, job.vectors)
                job.save()
            else:
                running += 1
        return running

    def _read(self, part: Part, batch: "Batch", vectors: TextRows) -> None:
        """Store the results of a batch, also in the cache, and record why other lines have none."""
        missing = {id_of(line): line for line in part.lines}
        why: dict[str, str] = {}
        tokens, shortened = 0, self.dimensions not in (None, self._native)
        for file_id in filter(None, (batch.output_file_id, batch.error_file_id)):
            lacked = ~vectors.has_vector
            try:
                for result_line in self._server.result_lines(file_id):
                    name, answer, reason = parse(result_line)
                    if name not in missing:  # read already, or unknown
                        continue
                    if reason := reason or take(vectors, part.all_rows(missing[name]), answer, shortened):
                        why[name] = reason
                    else:
                        missing.pop(name)
                        tokens += count_tokens_of(answer.get("usage")) or 0
            except RefusedError as refusal:
                if refusal.status != 404:  # results are kept for a month
                    raise
            finally:
                vectors.to_cache(self._cache, np.flatnonzero(lacked & vectors.has_vector).tolist())
        errors = (batch.errors.data if batch.errors else None) or []
        codes = list(dict.fromkeys(code_word(error.code) for error in errors))[:_NAMED]
        otherwise = " ".join(["no result, batch", code_word(batch.status), *codes])
        part.lost = {name: why.get(name, otherwise) for name in missing}
        part.read, part.tokens = True, max(tokens, part.tokens)


def _what_is_missing(job: Job) -> str:
    vectors = job.vectors
    explained, failures = vectors.has_vector.copy(), []
    for part in reversed(job.parts):  # the latest reason is reported
        for line in part.lines:
            rows = part.rows_of(line)
            if id_of(line) in part.lost and not explained[rows].all():
                first, last = vectors.first[rows.min()], vectors.first[rows.max()]
                texts = f"text {first}" if first == last else f"texts {first} to {last}"
                failures.append((first, f"{texts} ({part.lost[id_of(line)]})"))
                explained[rows] = True
    some = ", ".join(text for _, text in sorted(failures)[:_NAMED])
    more = f" and {len(failures) - _NAMED} more requests" if len(failures) > _NAMED else ""
    missing = f"{np.count_nonzero(~vectors.has_vector)} of {len(vectors.has_vector)} texts have no vector"
    return (
        f"{missing}: {some or 'they are no longer in the cache'}{more}; "
        "call submit() again with the same texts: only these are submitted"
    )
