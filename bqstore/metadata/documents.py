"""Stored rows as records, and rows with changed metadata."""

import json
from collections.abc import Mapping
from typing import Any

from ..clock import EXPIRES_AT_KEY
from ..results.hits import Record
from ..storage import Row
from . import dates, expiry
from .to_json import PRIVATE_PREFIX, REF_DOC_ID_KEY, split_metadata

_decode = json.JSONDecoder().raw_decode  # twice as fast as json.loads, which also looks for white space


def metadata_of(row: Row) -> dict[str, Any]:
    """The metadata as it was given: the user's, and that of an adapter."""
    metadata: dict[str, Any] = _decode(row.metadata)[0]
    if dates.IN_JSON in row.metadata:
        metadata = dates.restored(metadata)
    if EXPIRES_AT_KEY in metadata:
        metadata[EXPIRES_AT_KEY] = expiry.shown_as(metadata[EXPIRES_AT_KEY])
    if row.private is not None:
        metadata.update(_decode(row.private)[0])
    if row.ref_doc_id is not None:
        metadata[REF_DOC_ID_KEY] = row.ref_doc_id
    return metadata


def record_of(row: Row, vector: Any = None) -> Record:
    """The document as `Collection.get` returns it."""
    return Record(row.id, row.text, metadata_of(row), vector)


def with_metadata(row: Row, given: Mapping[str, Any], replace: bool, what: str) -> Row:
    """The row with metadata merged over its own, or in its place; an adapter's keys stay unless they are given.

    Raises InvalidInputError if the result is too large; ``what`` names the document.
    """
    present = metadata_of(row)
    if replace:
        present = {key: value for key, value in present.items() if key.startswith(PRIVATE_PREFIX)}
    public, private, ref = split_metadata({**present, **given}, what)
    return row._replace(metadata=public, private=private, ref_doc_id=ref)
