"""Metadata as JSON: which values may be metadata, and the text that is stored."""

import json
from collections.abc import Mapping
from datetime import date
from typing import Any, Final

import numpy as np

from ..arguments import text_bytes, type_of
from ..errors import InvalidInputError

MAX_METADATA_BYTES: Final = 64 << 10
MAX_PRIVATE_BYTES: Final = 1 << 20
MAX_DEPTH: Final = 100  # of nested values, over which readers recurse

# Keys of the framework adapters: stored and returned beside the user's, and hidden from filters.
PRIVATE_PREFIX: Final = "_bq_"
REF_DOC_ID_KEY: Final = "_bq_ref_doc_id"  # the source document of a chunk; filters know it
ID_KEY: Final = "_bq_id"  # in a filter: the document's own id


def split_metadata(given: object, what: str) -> tuple[str, str | None, str | None]:
    """The user's metadata as JSON, the adapters' as JSON or None, and the source document's id or None."""
    if given is None:
        return "{}", None, None
    if not isinstance(given, Mapping):
        raise InvalidInputError(f"{what} is {type_of(given)}; expected a dict")
    public, private, ref = dict(given), {}, None
    if any(type(key) is not str for key in public):  # an enumeration of strings hashes as its name, not as its text
        public = {str.__str__(key) if isinstance(key, str) else key: value for key, value in public.items()}
    for key in [k for k in public if isinstance(k, str) and k.startswith(PRIVATE_PREFIX)]:
        private[key] = public.pop(key)
    if private:
        if ID_KEY in private:
            raise InvalidInputError(f"{what} has the key {ID_KEY!r}, which filters use for the id itself: rename it")
        ref = private.pop(REF_DOC_ID_KEY, None)
        if ref is not None:
            if not isinstance(ref, str):
                raise InvalidInputError(f"{what}: {REF_DOC_ID_KEY!r} is {type_of(ref)}; expected a string")
            text_bytes(ref, f"{what}: {REF_DOC_ID_KEY!r}")
    hidden = to_json(private, what, MAX_PRIVATE_BYTES) if private else None
    return to_json(public, what, MAX_METADATA_BYTES), hidden, ref


def to_json(given: Mapping[Any, Any], what: str, limit: int) -> str:
    """JSON text of a dictionary, at most ``limit`` bytes; dates become ISO 8601 strings, numpy scalars Python's."""
    try:
        check_keys(given, what)
        text = json.dumps(given, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=plain)
    except (TypeError, ValueError, RecursionError) as error:
        if isinstance(error, InvalidInputError):
            raise
        raise InvalidInputError(f"{what} cannot be written as JSON: {error}") from error
    size = text_bytes(text, what)
    if size > limit:
        which = "" if limit == MAX_METADATA_BYTES else f", in its keys that begin with {PRIVATE_PREFIX!r},"
        raise InvalidInputError(
            f"{what}{which} takes {size:,} bytes as JSON; at most {limit:,} are kept: put long values elsewhere"
        )
    return text


def plain(value: object) -> object:
    """A date or a numpy scalar as a value of JSON. Raises TypeError for anything else."""
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, np.datetime64) and not np.isnat(value):
        day = np.datetime_data(value.dtype)[0] in "YMWD"
        moment: date = value.astype("datetime64[D]" if day else "datetime64[us]").item()
        return moment.isoformat()
    if isinstance(value, np.generic) and not isinstance(value, (np.datetime64, np.timedelta64)):
        return value.item()
    raise TypeError(f"{type_of(value)} is not JSON; use strings, numbers, booleans, None, lists and dicts")


def check_keys(given: Mapping[Any, Any] | list[Any] | tuple[Any, ...], what: str, depth: int = 1) -> None:
    """Refuse keys that are not strings, as json would turn 1 and "1" into one key, and values nested too deep."""
    if depth > MAX_DEPTH:
        raise InvalidInputError(f"{what} nests more than {MAX_DEPTH} deep; flatten it, or keep it as a string")
    if isinstance(given, Mapping):
        for key in given:
            if not isinstance(key, str):
                raise InvalidInputError(f"{what} has a key of type {type(key).__name__}; expected strings")
    for value in given.values() if isinstance(given, Mapping) else given:
        if isinstance(value, (Mapping, list, tuple)):
            check_keys(value, what, depth + 1)
