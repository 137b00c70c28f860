"""One collection on a server: its name, its settings as they are known, and the calls that concern it."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from ..arguments import shown
from ..errors import InvalidInputError, NotFoundError, ReadOnlyError
from ..metadata.columns import field_of
from ..storage import Row
from . import settings as mapping
from .library import models
from .points import EXPIRES, ID, INSTANTS, LISTS, METADATA, ORDER, REF, Layout, instants_of, row_of
from .server import Server
from .settings import MARK, Settings

_COUNTED_EVERY: Final = 10.0  # seconds, of a collection that is small, or nearly
_INDEXED: Final = {ID: "keyword", REF: "keyword", LISTS: "keyword", ORDER: "integer", EXPIRES: "integer"}


@dataclass
class Place:
    """A collection on a server, which may not exist yet.

    Parameters
    ----------
    given : dict            the settings of this opening, as `settings.merged` takes them
    cluster : dict          shard_number and the like, for making the collection
    indexed : list of str   metadata fields that get payload indexes
    consistency             of reads: a number of replicas, "majority", "quorum", "all" or None
    vector : str or None    which of several named vectors
    tenant : str or None    the field that tells tenants apart
    model_there             the embedding model that the server knew of when it was last asked
    strict                  the limits of the collection's strict mode, where it has one
    """

    server: Server
    name: str
    given: Mapping[str, Any]
    known: Settings
    read_only: bool = False
    cluster: Mapping[str, Any] = field(default_factory=dict)
    indexed: Sequence[str] = ()
    consistency: Any = None
    vector: str | None = None
    tenant: str | None = None
    model_there: str | None = None
    strict: Any = None
    _made: set[str] = field(default_factory=set)
    _lock: Any = field(default_factory=threading.RLock)
    _last_order: int = 0
    _shards: int | None = None
    _size: int = 0  # documents, about
    _sized: float = -math.inf  # when they were counted

    def call(self, method: str, /, **given: Any) -> Any:
        """A call of the client on this collection."""
        if self.consistency is not None and method in ("query_points", "query_batch_points", "retrieve", "scroll"):
            given["consistency"] = self.consistency
        return self.server.call(method, collection_name=self.name, **given)

    def settings(self) -> Settings:
        """The settings as they are known; whether the collection exists is asked until it does."""
        if not self.known.exists:
            self.look()
        return self.known

    def look(self) -> bool:
        """Read the collection's settings; whether there is one."""
        try:
            found = self.call("get_collection")
        except NotFoundError:
            self.known = replace(self.known, exists=False)
            return False
        self._made |= set(found.payload_schema or {})
        strict = getattr(found.config, "strict_mode_config", None)
        self._shards = getattr(found.config.params, "shard_number", None) or 1
        self.strict = strict if strict is not None and strict.enabled else None
        layout, space = self._layout(found.config)
        stored = mapping.of_server(found.config, layout, space)
        self.known, self.model_there = mapping.merged(stored, self.given), stored.embedding_model
        return True

    def _layout(self, config: Any) -> tuple[Layout, Any]:
        spaces = config.params.vectors
        if not isinstance(spaces, Mapping):
            spaces = {} if spaces is None else {"": spaces}
        spaces = {key: space for key, space in spaces.items() if not space.multivector_config}
        wanted = self.vector
        if wanted is None:
            wanted = mapping.VECTOR if mapping.VECTOR in spaces or len(spaces) != 1 else next(iter(spaces))
        if wanted not in spaces:
            known = ", ".join(map(repr, spaces)) or "none"
            raise InvalidInputError(
                f"the collection {self.name!r} has the dense vectors {known}; say which by ?vector= in the address"
            )
        if isinstance(config.metadata, Mapping) and MARK in config.metadata:
            return Layout(vector=wanted), spaces[wanted]
        some, _ = self.call("scroll", limit=1, with_payload=True)
        payload = (some[0].payload or {}) if some else {}
        nested = not payload or isinstance(payload.get(METADATA), Mapping) or "page_content" in payload
        return Layout(ours=ID in payload, flat=not nested, vector=wanted), spaces[wanted]

    def check_writable(self) -> None:
        """Raise ReadOnlyError where nothing may be written, InvalidInputError where it would not be understood."""
        if self.read_only:
            raise ReadOnlyError(f"{self.server.where}: {self.name} was opened with read_only=True")

    def check_layout(self) -> None:
        """Raise InvalidInputError where documents cannot be written as those that are there."""
        if self.known.layout.flat:
            raise InvalidInputError(
                f"the collection {self.name!r} was made by another program, LlamaIndex's store say, whose payloads are "
                "read and not written here: copy it, bqstore copy SRC DST, and write to the copy"
            )

    def make(self, dim: int) -> None:
        """Make the collection, if nobody has meanwhile, with the indexes of our own keys."""
        wanted = replace(self.known, dim=dim, cleared=False, layout=Layout())
        try:
            self.call("create_collection", **mapping.creation(wanted, self.cluster, self.server.version()))
        except InvalidInputError:  # somebody else has; or the server had, and its answer was lost
            if not self.look():
                raise
        else:
            self.known = replace(wanted, exists=True)
            self._made, self._shards = set(), None
        self._index_own()

    def keep(self, settings: Settings) -> None:
        """Store settings in the collection's metadata."""
        if settings.exists and settings.layout.ours:
            self.call("update_collection", metadata={MARK: settings.stored()})
        self.known = settings

    def remake(self, dim: int) -> None:
        """Make a cleared collection for vectors of another dimension."""
        self.call("delete_collection")
        self.known = replace(self.known, exists=False)
        self.make(dim)

    def is_small(self) -> bool:
        """Whether vectors are scanned exactly, as locally up to ``full_scan_threshold``; a server would scan codes.

        By a count that is some seconds old: a collection that is well above the threshold is not counted again.
        """
        known = self.known
        largest = 256 * known.hnsw.full_scan_threshold // max(1, known.dim or 1)
        if self._size <= 2 * largest and time.monotonic() - self._sized > _COUNTED_EVERY:
            self._size = self.call("count", exact=False).count
            self._sized = time.monotonic()
        return self._size <= largest

    def shards(self) -> int:
        """Over how many shards documents are spread; when the collection is made, the server may choose."""
        if self._shards is None:
            self.look()
        return self._shards or 1

    def most(self, n: int, *limits: str) -> int:
        """How many may be in a request: n, or fewer where strict mode has such a limit."""
        return min([n, *(int(most) for name in limits if (most := getattr(self.strict, name, None)))])

    def grown(self, n: int) -> None:
        """Take note of documents that were added; of a negative number, that some were deleted."""
        self._size += max(0, n)
        self._sized = self._sized if n >= 0 else -math.inf

    def orders(self, n: int) -> range:
        """The next n numbers by which documents are listed: above all that this process has given.

        Microseconds: a server compares them as floats, which have no larger ones exactly.
        """
        with self._lock:
            first = max(time.time_ns() // 1000, self._last_order + 1)
            self._last_order = first + n
            return range(first, first + n)

    # ---- payload indexes

    def _index(self, path: str, kind: str, schema: Any = None) -> None:
        if path in self._made:
            return
        if not self.server.is_local:  # which has none
            schema = models().PayloadSchemaType(kind) if schema is None else schema
            self.call("create_payload_index", field_name=path, field_schema=schema, wait=True)
        self._made.add(path)

    def _index_own(self) -> None:
        """Index our own keys, and the field of tenants, whose documents a server then keeps together."""
        if self.known.layout.ours:
            for key, kind in _INDEXED.items():
                self._index(key, kind)
        if self.tenant is not None:
            schema = models().KeywordIndexParams(type="keyword", is_tenant=True)
            self._index(self.known.layout.path(*self.tenant.split(".")), "keyword", schema)

    def index_fields(self, metadatas: Iterable[Mapping[str, Any]]) -> None:
        """Index the fields that are to be, before points come that have them: by the type of the first value."""
        layout = self.known.layout
        missing = [key for key in self.indexed if layout.path(*key.split(".")) not in self._made]
        if not missing:
            return
        for metadata in metadatas:
            for key in [*missing]:
                kind = _kind_of(field_of(dict(metadata), key))
                if kind is None:
                    continue
                if kind == "datetime":
                    self._index(f"{INSTANTS}.{Layout(flat=True).path(*key.split('.'))}", kind)
                self._index(layout.path(*key.split(".")), "keyword" if kind == "datetime" else kind)
                missing.remove(key)
            if not missing:
                return

    def index_present(self) -> None:
        """Index the fields that are to be of a collection that has documents."""
        m, layout = models(), self.known.layout
        self._index_own()
        for key in self.indexed:
            path = layout.path(*key.split("."))
            if path not in self._made:
                has = m.Filter(must_not=[m.IsEmptyCondition(is_empty=m.PayloadField(key=path))])
                try:
                    some, _ = self.call("scroll", scroll_filter=has, limit=1, with_payload=True)
                except InvalidInputError:  # strict mode: no filter by what has no index; what comes later is indexed
                    some, _ = self.call("scroll", limit=self.most(100, "max_query_limit"), with_payload=True)
                self.index_fields(map(self._metadata, some))

    def _metadata(self, point: Any) -> dict[str, Any]:
        """The metadata of a point as JSON values, in which datetimes are told from strings where we wrote it."""
        payload = point.payload or {}
        if ID in payload:
            return dict(json.loads(row_of(point.id, payload).metadata))
        return payload if self.known.layout.flat else payload.get(METADATA) or {}


def _kind_of(value: Any) -> str | None:
    """The kind of index for a value of a row; numbers are all floats, so that 1 and 1.0 are found together."""
    if isinstance(value, list):
        value = value[0] if value else None
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, (int, float)):
        return "float"
    if isinstance(value, str):
        return "keyword" if instants_of(value) is None else "datetime"
    return None


def metadata_size(row: Row) -> int:
    """About how many bytes a document takes in a request, without its vector."""
    return 2 * len(row.metadata) + len(row.text or "") + len(row.private or "") + 2 * len(row.id) + 300


def checked_consistency(given: Any) -> Any:
    """``read_consistency``: a number of replicas, or a name. Raises InvalidInputError."""
    if given is None or (isinstance(given, int) and not isinstance(given, bool) and given > 0):
        return given
    if given in ("majority", "quorum", "all"):
        return models().ReadConsistencyType(given)
    raise InvalidInputError(
        f"read_consistency is {shown(given)}; expected a number of replicas, 'majority', 'quorum' or 'all'"
    )
