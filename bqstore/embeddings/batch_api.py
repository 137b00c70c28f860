"""OpenAI's Batch API: half the price, an answer within a day. The story: cut, send, look again, read, ask for the rest.

A job is a list of texts for one model of one server; its name is a hash of these, and a file of state in the user's
folder says how far it is. The file is written before and after each step at the server, so a process may die anywhere:
whoever starts again with the same texts goes on. The API has no key that makes a request idempotent, so nothing that
creates is retried blindly: where an answer was lost, the server's lists are asked whether it was carried out.

The file holds hashes, ranges and what the server calls things: no text, no key. Retries of questions are the SDK's.
"""

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from ..errors import BqstoreError, CorruptionError, EmbeddingError, InvalidInputError, LockedError, StorageError
from ..storage.files import make_file, write_all
from ..storage.lock import WriterLock
from ..storage.platform import make_folder
from .asking import NATIVE_DIM
from .cache import EmbeddingCache, cache_key
from .client import decode
from .keys import check_encrypted
from .requests import check_texts, plan_requests

if TYPE_CHECKING:
    from openai import OpenAI
    from openai.types import Batch

Vectors = npt.NDArray[np.float32]
Line = tuple[int, int]  # the texts of one request: from, to, among those of the job that differ
T = TypeVar("T")

# The API's limits for one batch. The last is for embeddings only, and the one that is met first.
MAX_BATCH_LINES = 50_000
MAX_BATCH_BYTES = 200_000_000
MAX_BATCH_TEXTS = 50_000

_URL: Literal["/v1/embeddings"] = "/v1/embeddings"
_ENDED = ("completed", "failed", "expired", "cancelled")
_CODE = re.compile(r"[a-z_]{1,40}")  # what the API's codes look like; a key or a sentence does not
_TEXT_REFUSED = re.compile(r"HTTP 4(00|13|22)")
_QUESTION_RETRIES = 5
_CACHED_AT_ONCE = 2_048
_NAMED = 5  # failures spelled out in a message


@dataclass(frozen=True)
class BatchStatus:
    """One batch, as the server has it; requests each hold many texts."""

    id: str
    status: str
    requests: int
    completed: int
    failed: int


@dataclass
class _Part:
    """One batch, as the file of state has it."""

    name: str
    lines: list[Line]
    step: str = "planned"  # then "uploading", "uploaded", "creating", "created"
    file: str | None = None
    batch: str | None = None
    read: bool = False  # it ended, and its results were looked through
    lost: dict[str, str] = field(default_factory=dict)  # lines without a result, and why
    tokens: int = 0


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
    ) -> None:
        if dimensions is not None and dimensions < 1:
            raise InvalidInputError(f"dimensions is {dimensions}; at least 1 was expected")
        self.model, self.dimensions, self.folder = model, dimensions, Path(folder).expanduser()
        self._client, self._once = (
            client.with_options(max_retries=_QUESTION_RETRIES),
            client.with_options(max_retries=0),
        )
        self._cache, self._endpoint, self._poll = cache, endpoint, poll_seconds
        check_encrypted(str(client.base_url))
        self._server = urlsplit(endpoint).hostname or "the server"
        self._job = ""
        self._parts: list[_Part] = []
        self._rows: Vectors | None = None  # of the texts that differ; those that are here are marked in _have
        self._have: npt.NDArray[np.bool_] = np.zeros(0, bool)

    def __repr__(self) -> str:
        return f"EmbeddingBatch(model={self.model!r}, dimensions={self.dimensions}, folder={str(self.folder)!r})"

    @property
    def tokens(self) -> int:
        """The tokens that the server counted, in all results read so far."""
        return sum(part.tokens for part in self._parts)

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
        texts = texts if isinstance(texts, str) else list(texts)
        sizes = check_texts(texts)
        self._begin(texts)
        texts, sizes = [texts[i] for i in self._first], [sizes[i] for i in self._first]
        with self._state():
            self._take_cached()
            self._settle(again=False)
            self._parts = [part for part in self._parts if part.step != "planned"]  # the cache may know more by now
            self._plan(texts, sizes)
            self._find_created()
            for part in self._parts:
                if part.batch is None:
                    self._send(part, texts)
        return [part.batch for part in self._parts if part.batch is not None]

    def status(self) -> list[BatchStatus]:
        """How each batch is, asked of the server now. After `submit`, and raises as it does."""
        with self._state():
            return [_describe(self._retrieve(part.batch)) for part in self._parts if part.batch is not None]

    def collect(self, wait: bool = False) -> Vectors:
        """The vectors of the texts, float32 (n, dim), in their order; by then the cache has them too. After `submit`.

        Raises
        ------
        EmbeddingError   batches are not finished, and were not waited for; texts have no vector, and are named by
                         index; the server refused or cannot be reached
        """
        while True:
            with self._state():
                if any(part.batch is None for part in self._parts):
                    raise EmbeddingError("not all is submitted yet; call submit() again with the same texts")
                self._take_cached()
                running = self._settle(again=True)
            if not running or not wait:
                break
            time.sleep(self._poll)
        if running:
            raise EmbeddingError(
                f"{running} of {len(self._parts)} batches are not finished; call collect() later, or collect(wait=True)"
            )
        if not self._have.all():
            raise EmbeddingError(self._what_is_lacking())
        rows = np.empty((0, self._dim or 0), np.float32) if self._rows is None else self._rows
        self._rows, self._have = None, np.zeros(len(self._keys), bool)  # the caller's from here on
        return rows if len(self._order) == len(rows) else rows[self._order]

    # The job, and its file of state.

    def _begin(self, texts: Sequence[str]) -> None:
        place: dict[bytes, int] = {}
        keys = [cache_key(self._endpoint, self.model, self.dimensions, text) for text in texts]
        self._order = [place.setdefault(key, len(place)) for key in keys]
        self._keys = list(place)
        self._first = np.unique(self._order, return_index=True)[1].tolist()  # the index of each that differs
        name = hashlib.sha256(json.dumps([self._endpoint, self.model, self.dimensions]).encode())
        for index in self._first:
            name.update(hashlib.sha256(texts[index].encode()).digest())
        self._job = name.hexdigest()
        self._dim = self.dimensions or NATIVE_DIM.get(self.model)
        self._rows, self._have = None, np.zeros(len(place), bool)

    @contextmanager
    def _state(self) -> Iterator[None]:
        """The job for ourselves, as its file has it now."""
        if not self._job:
            raise InvalidInputError("there is no job yet: call submit(texts); what was submitted is not sent again")
        path, lock = self._path, None
        try:
            make_folder(self.folder)
            with suppress(LockedError):  # its words are a collection's
                lock = WriterLock(path.with_suffix(".lock"))
            if lock is None:
                raise LockedError(f"another process or thread is at this job in {self.folder}; wait for it")
            self._parts = self._load(path)
            yield
        except OSError as error:
            why = error.strerror or "no file can be made in it"
            raise StorageError(error.errno, f"cannot use {self.folder} for the state of batches: {why}") from error
        finally:
            if lock is not None:
                lock.release()

    @property
    def _path(self) -> Path:
        return self.folder / f"openai-batch-{self._job[:32]}.json"

    def _load(self, path: Path) -> list[_Part]:
        try:
            state = json.loads(path.read_bytes())
            if state["format"] == 1 and state["job"] == self._job:
                return [_Part(**{**part, "lines": [tuple(line) for line in part["lines"]]}) for part in state["parts"]]
        except FileNotFoundError:
            return []
        except (ValueError, KeyError, TypeError):
            pass
        raise CorruptionError(f"{path} is damaged, or of a newer version; restore it, or remove it to submit anew")

    def _save(self) -> None:
        state = {"format": 1, "job": self._job, "parts": [asdict(part) for part in self._parts]}
        data = json.dumps(state, separators=(",", ":")).encode()
        os.close(make_file(self._path, lambda fd: write_all(fd, data, 0)))

    # Sending.

    def _plan(self, texts: Sequence[str], sizes: Sequence[int]) -> None:
        """New parts for all texts that are neither here nor in a line that may still have, or has, a result."""
        wanted, alone = ~self._have, np.zeros(len(texts), bool)
        for part in self._parts:
            for line in part.lines:
                why = part.lost.get(_id_of(line))
                if why is None:
                    wanted[slice(*line)] = False
                elif _TEXT_REFUSED.match(why):  # one text may be to blame, and must not spoil the others again
                    alone[slice(*line)] = True
        lines = [(i, i + 1) for i in np.flatnonzero(wanted & alone).tolist()]
        for start, stop in _runs(wanted & ~alone):
            lines += [(start + cut.start, start + cut.stop) for cut in plan_requests(sizes[start:stop])]
        new: list[_Part] = []
        free_bytes = free_texts = 0
        for line in sorted(lines):
            size = len(self._request(line, texts))
            free_bytes, free_texts = free_bytes - size, free_texts - (line[1] - line[0])
            if not new or free_bytes < 0 or free_texts < 0 or len(new[-1].lines) == MAX_BATCH_LINES:
                new.append(_Part("", []))
                free_bytes, free_texts = MAX_BATCH_BYTES - size, MAX_BATCH_TEXTS - (line[1] - line[0])
            new[-1].lines.append(line)
        for part in new:  # the same plan has the same names, also where the file of state is gone
            said = json.dumps([self._job, len(self._parts), part.lines])
            part.name = "bqstore-" + hashlib.sha256(said.encode()).hexdigest()[:40]
            self._parts.append(part)
        if new:
            self._save()

    def _request(self, line: Line, texts: Sequence[str]) -> bytes:
        body: dict[str, Any] = {"model": self.model, "input": texts[slice(*line)], "encoding_format": "base64"}
        if self.dimensions is not None:
            body["dimensions"] = self.dimensions
        request = {"custom_id": _id_of(line), "method": "POST", "url": _URL, "body": body}
        return json.dumps(request).encode() + b"\n"  # ASCII: no character in it that someone takes for a line's end

    def _find_created(self) -> None:
        """Batches whose making was never answered, or whose state is gone, from the server's list."""
        unknown = {part.name: part for part in self._parts if part.batch is None}
        if unknown:
            self._ask("list its batches", lambda: self._adopt(unknown))

    def _adopt(self, unknown: dict[str, _Part]) -> None:
        for batch in self._client.batches.list(limit=100):
            part = unknown.get((batch.metadata or {}).get("bqstore", ""))
            if part is not None and part.batch is None:
                part.batch, part.file = batch.id, batch.input_file_id
                self._step(part, "created")

    def _find_uploaded(self, name: str, size: int) -> str | None:
        files = self._client.files.list(purpose="batch")
        return next((file.id for file in files if file.filename == name and file.bytes == size), None)

    def _send(self, part: _Part, texts: Sequence[str]) -> None:
        if part.file is None:
            name, data = f"{part.name}.jsonl", b"".join(self._request(line, texts) for line in part.lines)
            if part.step == "uploading":
                part.file = self._ask("list its files", lambda: self._find_uploaded(name, len(data)))
            if part.file is None:
                self._step(part, "uploading")
                upload = self._once.files.create
                part.file = self._ask("take a file", lambda: upload(file=(name, data), purpose="batch")).id
            self._step(part, "uploaded")
        self._step(part, "creating")
        create, file, named = self._once.batches.create, part.file, {"bqstore": part.name}
        try:
            part.batch = self._ask(
                "make a batch",
                lambda: create(endpoint=_URL, completion_window="24h", input_file_id=file, metadata=named),
            ).id
        except _RefusedError as refusal:
            if refusal.status in (400, 404):  # it will not have this file, or has it no more
                part.file = None
                self._step(part, "planned")
            raise
        self._step(part, "created")

    def _step(self, part: _Part, step: str) -> None:
        part.step = step
        self._save()

    # Looking, and reading.

    def _retrieve(self, batch_id: str) -> "Batch":
        return self._ask(f"say how batch {batch_id} is", lambda: self._client.batches.retrieve(batch_id))

    def _settle(self, again: bool) -> int:
        """Read what has ended, with ``again`` also what was read but is not here; the number that has not ended."""
        running = 0
        for part in self._parts:
            kept = (line for line in part.lines if _id_of(line) not in part.lost)
            if part.batch is None or (part.read and not (again and any(self._lacks(line) for line in kept))):
                continue
            batch = self._retrieve(part.batch)
            if batch.status in _ENDED:
                self._read(part, batch)
            else:
                running += 1
        return running

    def _read(self, part: _Part, batch: "Batch") -> None:
        """Take the results of a batch, into the cache too, and write down which lines have none."""
        missing = {_id_of(line): line for line in part.lines}
        why: dict[str, str] = {}
        found: list[int] = []
        tokens = 0
        for file_id in filter(None, (batch.output_file_id, batch.error_file_id)):
            try:
                for said in self._results(file_id):
                    name, answer, reason = _parse(said)
                    if name not in missing:  # had already, or never asked for
                        continue
                    reason = reason or self._take(missing[name], answer)
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
                self._to_cache(found)
                found = []
        otherwise = " ".join(["no result, batch", _word(batch.status), *_codes(batch)])
        part.lost = {name: why.get(name, otherwise) for name in missing}
        part.read, part.tokens = True, max(tokens, part.tokens)
        self._save()

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

    def _take(self, line: Line, answer: Any) -> str:
        """Keep the vectors of a line; or why they cannot be."""
        n = line[1] - line[0]
        vectors = decode(answer.get("data"), n)
        if vectors is None:
            return f"the answer is not {n} finite vectors of one dimension"
        self._dim = self._dim or vectors.shape[1]
        if vectors.shape[1] != self._dim:
            return f"the answer has {vectors.shape[1]} dimensions instead of {self._dim}"
        if self.dimensions not in (None, NATIVE_DIM.get(self.model)):
            lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
            if ((np.abs(lengths - 1) > 1e-4) & (lengths > 0)).any():  # shortened by a cut, as `Asker` mends it
                vectors /= np.where(lengths > 0, lengths, 1)
        self._put(slice(*line), vectors)
        return ""

    def _put(self, where: slice | list[int], vectors: Vectors) -> None:
        rows = np.empty((len(self._keys), vectors.shape[1]), np.float32) if self._rows is None else self._rows
        rows[where], self._have[where] = vectors, True
        self._rows = rows

    def _lacks(self, line: Line) -> bool:
        return not self._have[slice(*line)].all()

    def _take_cached(self) -> None:
        for part in _portions(np.flatnonzero(~self._have).tolist()):
            found = {} if self._cache is None else self._cache.get([self._keys[i] for i in part])
            for i in part:
                vector = found.get(self._keys[i])
                if vector is not None and vector.size == (self._dim or vector.size):
                    self._dim = vector.size
                    self._put([i], vector[None])

    def _to_cache(self, places: list[int]) -> None:
        if self._cache is not None and self._rows is not None:
            for part in _portions(places):
                self._cache.put([self._keys[i] for i in part], self._rows[part])

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

    def _what_is_lacking(self) -> str:
        named, told = self._have.copy(), []
        for part in reversed(self._parts):  # what was said last
            for line in part.lines:
                if _id_of(line) in part.lost and not named[slice(*line)].all():
                    first, last = self._first[line[0]], self._first[line[1] - 1]
                    texts = f"text {first}" if first == last else f"texts {first} to {last}"
                    told.append((first, f"{texts} ({part.lost[_id_of(line)]})"))
                    named[slice(*line)] = True
        some = ", ".join(text for _, text in sorted(told)[:_NAMED])
        more = f" and {len(told) - _NAMED} more requests" if len(told) > _NAMED else ""
        lacking = np.count_nonzero(~self._have)
        return (
            f"{lacking} of {len(self._keys)} texts have no vector: {some or 'the cache has them no more'}{more}; "
            "call submit() again with the same texts: only these are asked for"
        )


def _id_of(line: Line) -> str:
    """What the server knows a line by."""
    return f"{line[0]}-{line[1]}"


def _word(said: object) -> str:
    """A code of the server, if it is one."""
    return said if isinstance(said, str) and _CODE.fullmatch(said) else "unknown"


def _codes(batch: "Batch") -> list[str]:
    errors = (batch.errors.data if batch.errors else None) or []
    return list(dict.fromkeys(_word(error.code) for error in errors))[:_NAMED]


def _describe(batch: "Batch") -> BatchStatus:
    counts = batch.request_counts
    total, completed, failed = (counts.total, counts.completed, counts.failed) if counts else (0, 0, 0)
    return BatchStatus(batch.id, _word(batch.status), total, completed, failed)


def _runs(mask: npt.NDArray[np.bool_]) -> Iterator[Line]:
    """From and to of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8))).tolist()
    yield from zip(edges[::2], edges[1::2], strict=True)


def _portions(places: list[int]) -> Iterator[list[int]]:
    for start in range(0, len(places), _CACHED_AT_ONCE):
        yield places[start : start + _CACHED_AT_ONCE]


def _parse(said: bytes) -> tuple[str, dict[str, Any], str]:
    """A line of results: the id we gave it, the answer, and why there is none."""
    try:
        result = json.loads(said)
        name, response = str(result["custom_id"]), result.get("response") or {}
        status, body = int(response.get("status_code") or 0), response.get("body") or {}
        error = result.get("error") or body.get("error") or {}
        if status == 200 and not error:
            return name, body if isinstance(body, dict) else {}, ""
        return name, {}, (f"HTTP {status}, " if status else "") + _word(error.get("code"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "", {}, "unreadable"
