"""Cuts files of documents into passages: text, Markdown, HTML, PDF, JSON lines, CSV, Parquet, vectors.

A passage's id is its file's path from the given folder on, and its number in the file, as in ``notes/a.md#3``: the same
file gives the same ids each time. Rows of JSON lines, CSV and Parquet may have their own ids.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import bqstore

from .files import read_vectors

TEXT_FIELDS = ("text", "page_content", "content", "document", "body")
_PLAIN = (".txt", ".md", ".markdown", ".rst", ".text")
_HTML = (".html", ".htm", ".xhtml")
_ROWS = (".jsonl", ".ndjson", ".csv", ".parquet")
SUFFIXES = (*_PLAIN, *_HTML, ".pdf", *_ROWS, ".npy")


@dataclass(frozen=True)
class Passage:
    """A future document: a text, or a vector without a text if the file holds vectors."""

    id: str
    text: str | None
    metadata: dict[str, Any]
    vector: Any = None

    @property
    def source(self) -> str:
        """The name of the passage's file."""
        return str(self.metadata["source"])


@dataclass(frozen=True)
class Source:
    """A file, and its name in the ids of passages."""

    name: str
    file: Path

    @property
    def place(self) -> Path:
        """The folder that was given on the command line, or the file itself."""
        depth = self.name.count("/")
        return self.file.parents[depth - 1] if depth else self.file


@dataclass(frozen=True)
class Cut:
    """How texts are cut: pieces of at most ``size`` characters, each repeating up to ``overlap`` of the one before."""

    size: int = 1000
    overlap: int = 100

    def __post_init__(self) -> None:
        if not 0 <= self.overlap <= self.size // 2:
            raise bqstore.InvalidInputError(
                f"--overlap is {self.overlap}; expected 0 to half of --size, {self.size // 2}"
            )


def sources(paths: Iterable[str]) -> list[Source]:
    """The given files, and those in the given folders; hidden files and unknown kinds in folders are skipped.

    Raises NotFoundError; InvalidInputError if a given file is of an unknown kind, or two files have one name.
    """
    found: dict[str, Source] = {}
    for given in paths:
        root = Path(given).expanduser()
        if not root.exists():
            raise bqstore.NotFoundError(f"there is nothing at {given}")
        if root.is_file() and root.suffix.lower() not in SUFFIXES:
            raise bqstore.InvalidInputError(f"{given} is of no kind that is read; expected {', '.join(SUFFIXES)}")
        base = root.resolve().parent
        for file in [root.resolve()] if root.is_file() else sorted(root.resolve().rglob("*")):
            inside = file.relative_to(base)
            if file.suffix.lower() not in SUFFIXES or not file.is_file():
                continue
            if any(part.startswith(".") for part in inside.parts[1:]):
                continue
            source = Source(inside.as_posix(), file)
            if found.setdefault(source.name, source).file != file:
                raise bqstore.InvalidInputError(
                    f"{found[source.name].file} and {file} would both be {source.name}: ingest the folder above them"
                )
    return list(found.values())


def root_of(name: str) -> str:
    """The first part of a file's name: the folder that was given, or the file itself."""
    return name.partition("/")[0]


def passages(source: Source, cut: Cut, text_field: str | None = None) -> Iterator[Passage]:
    """The passages of a file. Raises OSError; InvalidInputError if the contents do not match its suffix."""
    suffix = source.file.suffix.lower()
    if suffix in _ROWS:
        for name, text, metadata in _rows(source, text_field):
            pieces = split(text, cut)
            for n, piece in enumerate(pieces):
                yield Passage(name if len(pieces) == 1 else f"{name}#{n}", piece, {**metadata, "source": source.name})
        return
    if suffix == ".npy":
        for n, vector in enumerate(read_vectors(source.file)):
            yield Passage(f"{source.name}#{n}", None, {"source": source.name, "row": n}, vector)
        return
    for n, (piece, metadata) in enumerate(_pieces(source, suffix, cut)):
        yield Passage(f"{source.name}#{n}", piece, {**metadata, "source": source.name, "passage": n})


def check_storable(source: Source, found: Sequence[Passage]) -> None:
    """Raise InvalidInputError for passages that a collection cannot store, before they are embedded."""
    try:
        source.name.encode()
    except UnicodeEncodeError:  # the file name is in another encoding
        raise bqstore.InvalidInputError("its name is no text in UTF-8: rename it") from None
    bqstore.check_documents(
        len(found), [each.id for each in found], [each.text for each in found], [each.metadata for each in found]
    )


def _pieces(source: Source, suffix: str, cut: Cut) -> Iterator[tuple[str, dict[str, Any]]]:
    if suffix == ".pdf":
        for number, text in enumerate(_pdf(source.file), 1):
            yield from ((piece, {"page": number}) for piece in split(text, cut))
        return
    text, metadata = _decoded(source.file), {}
    if suffix in _HTML:
        reader = _Readable()
        reader.feed(text)
        reader.close()
        text, metadata = reader.text(), {"title": reader.title.strip()} if reader.title.strip() else {}
    yield from ((piece, metadata) for piece in split(text, cut))


def split(text: str, cut: Cut) -> list[str]:
    """Pieces of a text: cut between paragraphs if possible, otherwise between lines, sentences, or words."""
    pieces: list[str] = []
    rest = text.replace("\r\n", "\n").strip()
    while len(rest) > cut.size:
        end = _end(rest, cut.size)
        pieces.append(rest[:end].strip())
        begin = end if not cut.overlap else _begin(rest, end - cut.overlap, end)
        rest = rest[begin:].strip()
    return [*pieces, rest] if rest else pieces


def _end(text: str, size: int) -> int:
    """The end of a piece: after the last break of the best kind in its second half."""
    for sign in ("\n\n", "\n", r"[.!?…。]\s", r"\s"):
        ends = [found.end() for found in re.finditer(sign, text[: size + 1])]
        if ends and ends[-1] > size // 2:
            return min(ends[-1], size)
    return size


def _begin(text: str, earliest: int, end: int) -> int:
    """The start of the next piece: the first word of the overlap."""
    found = re.search(r"\s", text[earliest:end])
    return earliest + found.end() if found and earliest + found.end() < end else end


def _decoded(file: Path) -> str:
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise bqstore.InvalidInputError(f"it is no text in UTF-8 (byte {error.start:,}): save it as UTF-8") from None
    if "\0" in text:
        raise bqstore.InvalidInputError("it is no text: it holds zero bytes")
    return text


def _pdf(file: Path) -> Iterator[str]:
    try:
        from pypdf import PdfReader
    except ImportError:
        raise bqstore.InvalidInputError("PDF is read by pypdf: pip install pypdf") from None
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # errors that matter are raised
    try:
        for page in PdfReader(file).pages:
            yield page.extract_text()
    except Exception as error:  # for damaged files pypdf raises many types
        raise bqstore.InvalidInputError(f"pypdf cannot read it: {type(error).__name__}: {error}") from None


class _Readable(HTMLParser):
    """Extracts the visible text of an HTML page, with paragraphs separated."""

    _HIDDEN = ("script", "style", "template", "noscript", "svg", "head")
    _INLINE = frozenset(
        ("a", "abbr", "b", "bdi", "bdo", "cite", "code", "em", "i", "img", "kbd", "mark", "q", "s", "small", "span")
    ) | frozenset(("strong", "sub", "sup", "u", "var", "wbr"))

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.title, self._parts, self._hidden, self._in_title = "", [""], 0, False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        """A tag opens."""
        self._in_title = tag == "title"
        self._hidden += tag in self._HIDDEN
        if tag == "body":  # in case the head was not closed
            self._hidden = 0
        if tag not in self._INLINE:
            self._parts.append("\n" if tag in ("br", "li", "tr") else "\n\n")

    def handle_endtag(self, tag: str) -> None:
        """A tag closes."""
        self._in_title = False
        self._hidden = max(0, self._hidden - (tag in self._HIDDEN))
        if tag not in self._INLINE:
            self._parts.append("\n\n")

    def handle_data(self, data: str) -> None:
        """Text between tags."""
        if self._in_title:
            self.title += data
        elif not self._hidden:
            self._parts.append(re.sub(r"\s+", " ", data))

    def text(self) -> str:
        """The text read so far."""
        lines = [line.strip() for line in "".join(self._parts).split("\n")]
        return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def _rows(source: Source, text_field: str | None) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(id, text, metadata) of each row that has a text."""
    suffix = source.file.suffix.lower()
    rows: Iterable[Any]
    if suffix == ".parquet":
        rows = _parquet(source.file)
    elif suffix == ".csv":
        csv.field_size_limit(2**31 - 1)
        try:
            rows = list(csv.DictReader(io.StringIO(_decoded(source.file), newline=""), strict=True))
        except csv.Error as error:
            raise bqstore.InvalidInputError(f"it is no CSV: {error}") from None
    else:
        rows = _lines(_decoded(source.file))
    for n, row in enumerate(rows, 1):
        fields = (text_field,) if text_field else TEXT_FIELDS
        field = next((name for name in fields if isinstance(row, dict) and isinstance(row.get(name), str)), None)
        if field is None and isinstance(row, dict) and any(name in row and row[name] is None for name in fields):
            continue  # treated like an empty text
        if field is None:
            raise bqstore.InvalidInputError(
                f"row {n:,} has no text in a field named {' or '.join(fields)}: name it by --text-field"
            )
        others = {str(key): value for key, value in row.items() if key not in (field, "id", None) and _is_told(value)}
        if "source" in others:  # the key is used for the file's name
            others["row_source"] = others.pop("source")
        given = row.get("id")
        name = str(given) if isinstance(given, (str, int)) and str(given) else f"{source.name}#{n - 1}"
        if row[field].strip():
            yield name, row[field], others


def _is_told(value: Any) -> bool:
    """Whether a field has a value: tables use None and NaN for missing ones."""
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))


def _parquet(file: Path) -> Iterator[dict[str, Any]]:
    """Rows, without columns of vectors and bytes; what JSON has no form for, such as a date, as text."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise bqstore.InvalidInputError("Parquet is read by pyarrow: pip install pyarrow") from None
    types = pyarrow.types
    try:
        with parquet.ParquetFile(file) as opened:
            columns = [
                field.name
                for field in opened.schema_arrow
                if not types.is_nested(field.type)
                and not types.is_binary(field.type)
                and not types.is_large_binary(field.type)
            ]
            for batch in opened.iter_batches(columns=columns):
                for row in batch.to_pylist():
                    yield {
                        name: value if value is None or isinstance(value, (str, int, float)) else str(value)
                        for name, value in row.items()
                    }
    except (pyarrow.ArrowException, OSError) as error:
        raise bqstore.InvalidInputError(f"pyarrow cannot read it: {error}") from None


def _lines(text: str) -> Iterator[Any]:
    for n, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield json.loads(line)
            except ValueError as error:
                raise bqstore.InvalidInputError(f"line {n:,} is no JSON: {error}") from None
