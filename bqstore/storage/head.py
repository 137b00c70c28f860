"""The head row and the rows as values: how each is stored, and verified when read. Knows no connection."""

import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Final, NamedTuple

from ..clock import EXPIRES_AT_KEY
from ..errors import RESTORE, CorruptionError
from .format import (
    CODE_FORMS,
    F32,
    FORMAT_VERSION,
    ONE_BIT,
    WITH_EXPIRY,
    WITH_PARAMETERS,
    WITH_SCALES,
    WITH_TRUNCATED,
    WITH_WORDS,
    half_scales,
    key_crc,
    newer_format,
    row_crc,
)
from .text_index import TextIndex

_MOST_DIM: Final = 1 << 14
_EXPIRING: Final = f'"{EXPIRES_AT_KEY}":'
_UNTRAINED: Final = {"encoding": "one_bit", "estimator": "sign", "rotate": False}


@dataclass(frozen=True)
class Coding:
    """How the codes of a new generation are made, for its first commit.

    Parameters
    ----------
    settings : dict                 all of ``Head.settings`` after that commit, "coding" included
    parameters : float32 (count,)   the encoder's, for the codes file; empty for one bit by sign
    """

    settings: dict[str, Any]
    parameters: F32


def coding_of(settings: dict[str, Any]) -> dict[str, Any]:
    """How the codes of a head's generation are made: encoding, estimator, rotate; truncate_dim if vectors are cut."""
    return dict(settings.get("coding", _UNTRAINED))


def code_form(settings: dict[str, Any]) -> int:
    """The form of the codes, one of `CODE_FORMS`. Raises CorruptionError for a coding this format does not have."""
    try:
        coding = coding_of(settings)
        return CODE_FORMS[coding["encoding"], coding["estimator"]]
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptionError(f"coding={settings.get('coding')!r} is not known to this format") from error


def coded_dim(settings: dict[str, Any], dim: int) -> int:
    """How many of a vector's ``dim`` values are encoded. Raises CorruptionError for an impossible number."""
    coded = coding_of(settings).get("truncate_dim", dim)
    if type(coded) is not int or not 1 <= coded <= dim:
        raise CorruptionError(f"truncate_dim={coded!r} is impossible for vectors of {dim:,} dimensions")
    return coded


def untrained(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a generation without vectors, without anything that was chosen or measured for its vectors."""
    without = ("coding", "choice", "calibration", "scaled_halves", "missed_by_walks")
    return {name: value for name, value in settings.items() if name not in without}


def with_scales(settings: dict[str, Any], vectors: F32) -> dict[str, Any]:
    """The settings after vectors are added: marked if one of them gets a scale, which older versions do not know."""
    if settings["originals"] != "float16" or settings.get("scaled_halves") or (half_scales(vectors) == 1).all():
        return settings
    return as_stored({**settings, "scaled_halves": True})


def with_expiry(settings: dict[str, Any], metadata: Iterable[str]) -> dict[str, Any]:
    """The settings after documents are written: marked if one of them expires, which older versions do not know."""
    if settings.get("expires") or not any(_EXPIRING in text for text in metadata):
        return settings
    return as_stored({**settings, "expires": True})


def with_records(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a collection that has the table of records (`record_table.py`), which older versions refuse."""
    return settings if settings.get("records") else as_stored({**settings, "records": True})


class Settings(dict[str, Any]):
    """The immutable settings of a head, which keep their JSON text, as most commits do not change them."""

    @cached_property
    def text(self) -> str:
        """As in the head row."""
        return json.dumps(self, separators=(",", ":"))


def as_stored(settings: dict[str, Any]) -> Settings:
    """The settings as they will be read back, lists for tuples: a commit compares the stored head with its own."""
    return Settings(json.loads(json.dumps(settings, allow_nan=False)))


class _Kept:
    """A cache beside the fields of a head, which does not count when heads are compared.

    Each commit compares the row of the last head with what is stored, writes the next, and reads that again.
    """

    __slots__ = ("_row",)
    _row: tuple[int, str, int]


@dataclass(frozen=True)
class Head(_Kept):
    """The state of the whole collection at one commit.

    Parameters
    ----------
    store_id : int      random, 62 bits; also in the header of every file
    seq : int           number of the commit
    meta_seq : int      the last commit that changed rows in place
    generation : int    of the flat files
    n_slots : int       committed records of each flat file
    n_live : int        rows
    next_rid : int      rids are never used again
    dim : int or None   None until the first vectors
    settings : dict     distance, originals, quantization, hnsw, search, embedding_model; coding: see `coding_of`;
                        scaled_halves: see `with_scales`; text_index: see `TextIndex`; expires: see `with_expiry`;
                        records: see `with_records`
    """

    store_id: int
    seq: int = 0
    meta_seq: int = 0
    generation: int = 0
    n_slots: int = 0
    n_live: int = 0
    next_rid: int = 0
    dim: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def stored(self) -> tuple[int, str, int]:
        """The columns of the head row: format, body, CRC-32."""
        made = getattr(self, "_row", None)
        if made is None:
            settings = self.settings if isinstance(self.settings, Settings) else as_stored(self.settings)
            numbers = ",".join(f'"{name}":{_json(getattr(self, name))}' for name in _NUMBERS)
            body = f'{{{numbers},"settings":{settings.text}}}'
            made = self.format_version, body, zlib.crc32(body.encode())
            object.__setattr__(self, "_row", made)
        return made

    @property
    def is_cleared(self) -> bool:
        """Whether it had vectors and has none: others, of another model, may follow."""
        return self.n_slots == 0 < self.generation

    @property
    def format_version(self) -> int:
        """The format version of the collection: the lowest that has such codes, for older releases to read it."""
        form = code_form(self.settings)
        if self.settings.get("records"):
            return FORMAT_VERSION
        if self.settings.get("expires"):
            return WITH_EXPIRY
        if TextIndex.of(self.settings) is not None:
            return WITH_WORDS
        if self.settings.get("scaled_halves"):
            return WITH_SCALES
        if "truncate_dim" in coding_of(self.settings):
            return WITH_TRUNCATED
        return 1 if form == ONE_BIT else WITH_PARAMETERS

    @classmethod
    def from_stored(cls, version: int, body: str, crc: int, name: str) -> "Head":
        """The head of a stored row, verified. Raises FormatVersionError, CorruptionError."""
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise newer_format(name, version)
        damage = CorruptionError(f"the head row of {name} is damaged; restore the collection from a copy")
        if not isinstance(body, str) or zlib.crc32(body.encode()) != crc:
            raise damage
        try:
            values = json.loads(body)
            head = cls(**{**{f.name: values[f.name] for f in fields(cls)}, "settings": Settings(values["settings"])})
            good = head.format_version == version  # which the CRC does not cover
            if "truncate_dim" in coding_of(head.settings):
                coded_dim(head.settings, head.dim or 0)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, CorruptionError) as error:
            raise damage from error
        if not good or not _are_possible(head):
            raise damage
        return head


def _are_possible(head: Head) -> bool:
    """Whether the numbers are such as a collection may have: they become sizes of arrays."""
    numbers = [getattr(head, name) for name in _NUMBERS if name != "dim"]
    if not all(type(number) is int and 0 <= number < 1 << 62 for number in numbers):
        return False
    if head.dim is not None and not (type(head.dim) is int and 1 <= head.dim <= _MOST_DIM):
        return False
    return head.n_live <= head.n_slots <= head.next_rid and (head.dim is not None or head.n_slots == 0)


_NUMBERS: Final = [each.name for each in fields(Head) if each.name != "settings"]


def _json(number: int | None) -> str:
    return "null" if number is None else str(number)


class Row(NamedTuple):
    """A document. ``metadata`` and ``private`` are JSON texts; private is an adapter's own metadata.

    A tuple, as SQLite returns it, because one is made for every hit.
    """

    rid: int
    seq: int
    id: str
    text: str | None
    metadata: str
    private: str | None
    ref_doc_id: str | None

    def stored(self) -> tuple[object, ...]:
        """The columns of the row, its CRCs last."""
        return (*self, row_crc(*self), key_crc(self.rid, self.seq, self.id, self.ref_doc_id, self.metadata))

    @classmethod
    def from_stored(cls, values: tuple[Any, ...], name: str) -> "Row":
        """The row of its columns; CorruptionError if its CRC does not match."""
        _verify(row_crc, values, name)
        return cls(*values[:-1])


@dataclass(frozen=True)
class Rows:
    """Documents to be added, which have no rids yet: lists of equal length, of texts and JSON texts."""

    ids: Sequence[str]
    texts: Sequence[str | None]
    metadata: Sequence[str]
    private: Sequence[str | None]
    ref_doc_ids: Sequence[str | None]

    def subset(self, keep: Sequence[int]) -> "Rows":
        """The rows at these positions."""
        return Rows(*([column[i] for i in keep] for column in self.columns()))

    def columns(self) -> tuple[Sequence[Any], ...]:
        """The five lists."""
        return self.ids, self.texts, self.metadata, self.private, self.ref_doc_ids

    def numbered(self, first_rid: int, seq: int) -> Iterator[Row]:
        """The rows, with consecutive rids."""
        for rid, values in enumerate(zip(*self.columns(), strict=True), first_rid):
            yield Row(rid, seq, *values)


def check_keys(values: tuple[Any, ...], name: str) -> tuple[Any, ...]:
    """(rid, seq, id, ref_doc_id, metadata, key_crc) of a row, unchanged; CorruptionError if the CRC does not match."""
    _verify(key_crc, values, name)
    return values


def _verify(crc: Callable[..., int], values: tuple[Any, ...], name: str) -> None:
    try:
        good = crc(*values[:-1]) == values[-1]
    except (TypeError, ValueError):  # a column of another type
        good = False
    if not good:
        raise damaged_row(values, name)


def damaged_row(values: tuple[Any, ...], name: str) -> CorruptionError:
    """The error for a row that does not match its CRC."""
    return CorruptionError(f"row {values[0]} of {name} is damaged; {RESTORE}")
