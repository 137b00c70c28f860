"""`open`: the settings that are given and those that are stored are merged, and the collection is opened with them."""

from __future__ import annotations

import copyreg
import inspect
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar, cast

from .arguments import (
    check_bool,
    check_choice,
    check_int,
    check_mode,
    check_seconds,
    checked_keywords,
    did_you_mean,
    refuse_unknown,
    shown,
    type_of,
)
from .collection import Collection
from .config import (
    AUTO,
    DISTANCES,
    GROUPS,
    MAX_DIM,
    ORIGINALS,
    HnswConfig,
    Quantization,
    SearchParams,
    as_settings,
    check_truncated,
    settings_from,
    text_index_in,
)
from .engine import copies
from .engine.choose_encoding import is_open
from .engine.core import Core, joined, shared
from .engine.core import opening as core_opening
from .engine.embedding_model import checked_model
from .engine.engine import Engine
from .engine.state import first
from .engine.stored_settings import check_stored
from .engine.target import DEFAULT_TARGET, NoKeeper, check_target
from .errors import InvalidInputError, NotFoundError, SettingsConflictError, UnknownKeywordError
from .index import check_environment
from .metadata.filter_grammar import check_key
from .metadata.to_json import ID_KEY
from .other_stores import refuse_foreign
from .paths import absolute, refuse_a_setting, tell_of_a_new_one, tell_of_another_mode
from .protocol import CollectionProtocol
from .quality.keeper import RecallKeeper
from .remote import NO_COUNTERPART, RemoteCollection, is_remote, open_remote
from .storage import Head, coding_of, open_store
from .storage.folders import check_store_folder, collection_folder, collections_in, existing
from .storage.text_index import TextIndex

if TYPE_CHECKING:  # what one has and the other lacks is found here
    _BOTH: tuple[CollectionProtocol, CollectionProtocol] = (cast(Collection, None), cast(RemoteCollection, None))

P = ParamSpec("P")
R = TypeVar("R")
# keywords of servers, and what stands for not given
_SERVED: Final[dict[str, Any]] = {
    **dict.fromkeys(("api_key", "shard_number", "replication_factor", "write_consistency_factor", "read_consistency")),
    "tenant_field": None,
    "grpc": False,
    "timeout": 30.0,
}


def _not_beside(path: object) -> Iterable[str]:
    return NO_COUNTERPART if is_remote(path) else _SERVED


def _checked(function: Callable[P, R]) -> Callable[P, R]:
    return checked_keywords(function, _not_beside)


@_checked
def open(
    path: str | PathLike[str] | None = None,
    collection: str = "default",
    *,
    dim: int | None = None,
    distance: str | None = None,
    quantization: Quantization | Mapping[str, Any] | None = None,
    hnsw: HnswConfig | Mapping[str, Any] | None = None,
    search: SearchParams | Mapping[str, Any] | None = None,
    originals: str | None = None,
    embedding_model: str | None = None,
    index_metadata: Sequence[str] | None = None,
    text_index: bool | Mapping[str, Any] | None = None,
    threads: int | None = None,
    read_only: bool = False,
    target_recall: float | None = None,
    lock_timeout: float = 30.0,
    exclusive: bool = False,
    mode: int | None = None,
    encoding: str | None = None,
    estimator: str | None = None,
    rotate: bool | None = None,
    truncate_dim: int | None = None,
    query_encoding: str | None = None,
    m: int | None = None,
    ef_construct: int | None = None,
    full_scan_threshold: int | None = None,
    oversampling: float | None = None,
    rescore: bool | None = None,
    hnsw_ef: int | None = None,
    api_key: str | None = None,
    grpc: bool = False,
    timeout: float = 30.0,
    shard_number: int | None = None,
    replication_factor: int | None = None,
    write_consistency_factor: int | None = None,
    read_consistency: int | str | None = None,
    tenant_field: str | None = None,
) -> Collection:
    r"""Open a collection, or make it if there is none.

    None means: as stored, or the default for a new collection. So ``open(path)`` alone opens any collection. It may be
    open many times, in this process and in others, and all may write.

    Parameters
    ----------
    path : str or path              folder of the store, made if missing; None keeps everything in memory.
                                    ``"qdrant://host:6333/name?tls=1"``, or a ``QdrantClient``: a `RemoteCollection` on
                                    a Qdrant server, of the same calls (see ``docs/scaling.md``)
    collection : str                its name in the store: any text without ``/`` and ``\\``
    dim : int                       1 to 16,384; that of the first vectors if not given
    distance : str                  "cosine" (default), "dot" or "euclid"
    mode : int                      permissions of folders that are made, 0o700 if not given; with 0o770 or 0o2770 a
                                    group shares them, and files have these without the right to execute. Where the
                                    collection's folder has others, one line in the log says so
    encoding, estimator, rotate, truncate_dim, query_encoding
                                    how vectors become codes, as in `Quantization`
    m, ef_construct, full_scan_threshold
                                    settings of the graph, as in `HnswConfig`
    oversampling, rescore, hnsw_ef  defaults of searches, as in `SearchParams`: stored with a new collection, else for
                                    this opening only
    quantization, hnsw, search      the same as objects, or dicts of some of their fields
    originals : str                 what is kept for rescoring: "float32" (default), "float16", "int8" or "none"
    embedding_model : str           the model that makes the vectors: stored, and vectors of another are refused
    index_metadata : list of str    metadata fields to load for filters now; else the first filter on a field loads it.
                                    What is loaded is saved with the collection's snapshot
    text_index : bool or dict       index the words of the texts, for searches with ``text=``; stored. True is
                                    ``{"tokenize": "unicode61"}``; "porter" finds other forms of English words,
                                    "trigram" parts of words, Chinese, Japanese, Thai and code. Of a collection that has
                                    none yet it is built in the background. See ``docs/hybrid.md``
    threads : int                   at most so many threads for searches in batches, encoding and linking; None: all
                                    cores
    read_only : bool                write nothing and take no lock; follow what others write
    target_recall : float           share of the true ten nearest that searches should find, 0.95 if not given. It is
                                    measured on the collection's own documents, in the background and again whenever
                                    they have doubled, and searches that give no settings take what reaches it; if it is
                                    given, the cheapest settings that do. Stored with a new collection, else for this
                                    opening only. 0: nothing is measured. See `Collection.health`
    lock_timeout : float            seconds to wait while another process writes: at opening, and before each write;
                                    0: not at all
    exclusive : bool                lock the folder until it is closed, and let no other process write: saves each write
                                    a fraction of a millisecond
    api_key, grpc, timeout          of a server: its key (None: that in QDRANT_API_KEY), whether to use gRPC, and the
                                    seconds that a call may take, with all that it is repeated
    shard_number, replication_factor, write_consistency_factor, read_consistency
                                    of a server, as Qdrant has them; the first three for a collection that is made
    tenant_field : str              of a server: the metadata field that tells tenants apart, whose documents lie
                                    together there

    Raises
    ------
    ServerError                     the server cannot be reached
    SettingsConflictError           an argument contradicts what is stored; both are named
    InvalidInputError               a value that cannot be used
    NotFoundError                   ``read_only=True``, and there is no such collection
    LockedError                     another process has written, or kept the lock, for ``lock_timeout`` seconds
    CorruptionError, FormatVersionError, StorageError
                                    it cannot be read; nothing was changed

    >>> import bqstore
    >>> with bqstore.open("my-store", distance="dot") as col:
    ...     ids = col.add([[1.0, 0.0], [0.0, 1.0]], ids=["a", "b"])
    >>> with bqstore.open("my-store") as col:
    ...     [hit.id for hit in col.search([1.0, 0.2])]
    ['a', 'b']
    """
    served: dict[str, Any] = {
        **{"api_key": api_key, "grpc": grpc, "timeout": timeout, "shard_number": shard_number},
        **{"replication_factor": replication_factor, "write_consistency_factor": write_consistency_factor},
        **{"read_consistency": read_consistency, "tenant_field": tenant_field},
    }
    if not is_remote(path):
        check_environment()
        _refuse_served(served)
    if path is None and read_only:
        raise InvalidInputError("read_only=True needs a path: a collection in memory begins empty")
    if threads is not None:
        threads = check_int("threads", threads, 1, 1024)
    keys = _keys_in(index_metadata)
    objects = {"quantization": quantization, "hnsw": hnsw, "search": search}
    flat = {
        **{"encoding": encoding, "estimator": estimator, "rotate": rotate, "truncate_dim": truncate_dim},
        **{"query_encoding": query_encoding, "m": m, "ef_construct": ef_construct},
        **{"full_scan_threshold": full_scan_threshold, "oversampling": oversampling},
        **{"rescore": rescore, "hnsw_ef": hnsw_ef},
    }
    objects = _grouped(flat, objects)
    given: dict[str, Any] = {
        "dim": None if dim is None else check_int("dim", dim, 1, MAX_DIM),
        "distance": None if distance is None else check_choice("distance", distance, DISTANCES),
        "originals": None if originals is None else check_choice("originals", originals, ORIGINALS),
        "embedding_model": None if embedding_model is None else checked_model(embedding_model),
        "quantization": settings_from(Quantization, objects["quantization"], "quantization"),
        "hnsw": settings_from(HnswConfig, objects["hnsw"], "hnsw"),
        "search": settings_from(SearchParams, objects["search"], "search"),
        "target_recall": None if target_recall is None else check_target(target_recall),
        "text_index": None if text_index is None else text_index_in(text_index) or {},
    }
    check_truncated(given["quantization"].get("truncate_dim"), given["dim"])
    read_only, exclusive = check_bool("read_only", read_only), check_bool("exclusive", exclusive)
    if read_only and exclusive:
        raise InvalidInputError("read_only=True and exclusive=True are both given; leave one of them out")
    if is_remote(path):
        beside: dict[str, Any] = {"threads": threads, "exclusive": exclusive, "mode": mode}
        beside["lock_timeout"] = None if lock_timeout == 30.0 else lock_timeout
        beside["truncate_dim"] = given["quantization"].get("truncate_dim")
        found = open_remote(path, collection, {**given, **beside}, indexed=keys, read_only=read_only, **served)
        return cast(Collection, found)  # what both have is `CollectionProtocol`; most programs open folders
    timeout = check_seconds("lock_timeout", lock_timeout)
    opening = {name: given[name] for name in ("quantization", "hnsw", "search")}
    permissions = check_mode(mode)
    target = given["target_recall"]
    opening |= {"threads": threads, "read_only": read_only, "lock_timeout": timeout, "exclusive": exclusive}
    opening |= {} if target is None else {"target_recall": target}
    where = None if path is None else absolute(path)
    folder = None if where is None else collection_folder(where, collection)
    refuse_a_setting(collection, folder)
    with core_opening(None if read_only else folder):
        core = None if folder is None or read_only or exclusive else joined(folder)
        if core is None:
            core = shared(_opened(folder, given, {**opening, "mode": permissions}, collection))
            if isinstance(core.keeper, NoKeeper):
                core.keeper = RecallKeeper(core)
    try:
        core.publisher.current()
        if mode is not None and folder is not None:
            tell_of_another_mode(folder, permissions)
        _settle(core, given, timeout)
        core.texts.start()
        copies.survives_forks(core)
        engine = Engine(core, opening, threads, collection, folder and folder.parent)
    except BaseException:
        core.close()
        raise
    out = Collection(engine)  # from here on its end closes
    engine.acceptor.load_columns(keys)
    return out


def _refuse_served(served: Mapping[str, Any]) -> None:
    """Raise UnknownKeywordError for a keyword of servers beside a folder."""
    for name, value in served.items():
        if value != _SERVED[name]:
            ours = "; did you mean 'lock_timeout'?" if name == "timeout" else ""
            raise UnknownKeywordError(
                f'the store has no keyword {name!r}: there is no server; it is for path="qdrant://host:6333/name"{ours}'
            )


def _opened(folder: Path | None, given: Mapping[str, Any], opening: Mapping[str, Any], name: str) -> Core:
    """A collection that this process has not open yet. Nothing is written before everything there has been checked."""
    read_only, timeout = opening["read_only"], opening["lock_timeout"]
    end = time.monotonic() + timeout
    is_new = folder is not None and not (folder / "meta.db").exists()
    if folder is not None and is_new:
        check_store_folder(folder.parent, folder)
    try:
        store = open_store(
            folder, _defaults(given), given["dim"], read_only, opening["exclusive"], timeout, opening["mode"]
        )
    except NotFoundError as error:
        others = [] if folder is None else collections_in(folder.parent)
        if not others:
            raise
        hint = did_you_mean(name, others, f"; there are: {', '.join(map(repr, others[:20]))}")
        raise NotFoundError(f"{error}{hint}") from None
    try:
        if folder is not None and is_new and not read_only:
            tell_of_a_new_one(folder.parent, name)
        check_stored(store.head.settings, store.catalogue.name)
        settings = _merged(store.head, given)
        check_truncated(settings["quantization"].get("truncate_dim"), store.head.dim or given["dim"])
        checked = first(store)
        if not read_only:
            with store.lock_file() as file:
                store.wait_for_lock(file, max(0.0, end - time.monotonic()))
                store.start_writing()
                store.give_lock_back(file)
        return Core(store, checked, HnswConfig(**settings["hnsw"]), opening["threads"])
    except BaseException:
        store.close()
        raise


def _settle(core: Core, given: Mapping[str, Any], timeout: float) -> None:
    """Store what this opening says of a collection that leaves it open: model, dimension, how codes are to be made.

    Raises SettingsConflictError where it contradicts what is stored.
    """
    store = core.store

    def wanted() -> tuple[dict[str, Any], int | None]:
        settings, stored = _merged(store.head, given), store.head.settings
        stored = {**stored, "embedding_model": settings["embedding_model"]}
        if store.head.n_slots == 0 or (stored["originals"] != "none" and is_open(stored)):
            # the codes are still to be made, as this opening asks for
            kept = stored["quantization"]
            stored["quantization"] = {**settings["quantization"], "query_encoding": kept["query_encoding"]}
        dim = store.head.dim if store.head.dim is not None else given["dim"]
        check_truncated(settings["quantization"].get("truncate_dim"), dim)
        return stored, dim

    def is_settled() -> bool:
        return wanted() == (store.head.settings, store.head.dim)

    if not is_settled() and not store.read_only:
        core.write(lambda: None if is_settled() else store.put_settings(*wanted()), timeout)
    asked = given["text_index"]

    def has_words() -> bool:
        return TextIndex.of(store.head.settings) is not None

    if asked and not has_words() and not store.read_only:
        core.write(lambda: None if has_words() else store.set_text_index(asked["tokenize"]), timeout)


@checked_keywords
def load(path: str | PathLike[str], collection: str = "default", *, threads: int | None = None) -> Collection:
    """Read a collection on disk into memory, every record verified; the two are independent from then on.

    Raises
    ------
    NotFoundError       there is no such collection
    CorruptionError, FormatVersionError, StorageError
                        it cannot be read

    >>> import bqstore
    >>> with bqstore.open("my-store") as col:
    ...     ids = col.add([[1.0, 0.0]])
    >>> col = bqstore.load("my-store")
    >>> col.delete(ids), len(col), len(bqstore.open("my-store"))
    (1, 0, 1)
    """
    check_environment()
    if threads is not None:
        threads = check_int("threads", threads, 1, 1024)
    core = copies.loaded(existing(absolute(path, expected="expected the folder of a store"), collection), threads)
    return _in_memory(core, collection, threads)


def _in_memory(
    core: Core, collection: str, threads: int | None, opening: Mapping[str, Any] | None = None
) -> Collection:
    """A collection of a core in memory."""
    copies.survives_forks(core)
    core.keeper = RecallKeeper(core)
    plain = {"quantization": {}, "hnsw": {}, "search": {}, "lock_timeout": 30.0, "read_only": False, "exclusive": False}
    return Collection(Engine(core, {**plain, "threads": threads, **(opening or {})}, threads, collection, None))


def _unpickled(files: dict[str, bytes], name: str, opening: Mapping[str, Any]) -> Collection:
    """A collection in memory from a pickle."""
    return _in_memory(copies.unpickled(files, opening["threads"]), name, opening["threads"], opening)


def _pickled(collection: Collection) -> tuple[Any, ...]:
    """How a collection is pickled: its folder and the arguments it was opened with, to open it again; one in memory as
    its files.
    """
    engine = collection._engine
    if engine.path is None:
        engine.check()
        return _unpickled, (copies.pickled(engine), engine.name, engine.opening)
    return partial(open, **engine.opening), (str(engine.path), engine.name)


copyreg.pickle(Collection, _pickled)


def open_flat(
    path: str | PathLike[str] | None = None, collection: str = "default", also: Iterable[str] = (), /, **settings: Any
) -> Collection:
    """`open` for the framework adapters: keywords that are None are left out, and an error may name the adapter's own.

    Parameters
    ----------
    path, collection        as in `open`
    also : names            keywords of the caller, which a misspelt one may have been meant for
    **settings              of `open`; one that is None is left out. ``collection=`` is an open `Collection`, which is
                            returned in place of another; nothing else may be set then

    Raises
    ------
    UnknownKeywordError     a keyword that is none of these; the one that was probably meant is named
    InvalidInputError       what `open` raises

    >>> import bqstore
    >>> col = bqstore.open_flat(None, oversampling=4.0, m=32)
    >>> col.info().search.oversampling, col.info().hnsw.m
    (4.0, 32)
    """
    given = {name: value for name, value in settings.items() if value is not None}
    if (lent := given.pop("collection", None)) is not None:
        named = {} if collection == "default" else {"collection_name": collection}
        return _lent(lent, {**({} if path is None else {"path": path}), **named, **given})
    own = {name for name in inspect.signature(open).parameters if name not in ("path", "collection")}
    unknown = [name for name in settings if name not in own and name != "collection"]
    refuse_foreign("the store", unknown)
    refuse_unknown(unknown, {*own, *also}.difference(unknown, _not_beside(path)), "the store")
    return open(path, collection, **given)


def _lent(given: object, beside: Iterable[str]) -> Collection:
    """An open collection that an adapter is given, if it is one, and nothing is set beside it."""
    if not isinstance(given, (Collection, RemoteCollection)):
        raise UnknownKeywordError(
            "for a name the store has no keyword 'collection'; did you mean 'collection_name'? collection= is "
            f"{type_of(given)}; expected an open bqstore.Collection"
        )
    for name in beside:
        raise InvalidInputError(f"{name} is given beside collection=; it is set where that is opened")
    return cast(Collection, given)


def _grouped(flat: Mapping[str, Any], objects: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that were given as keywords of their own, in the objects that hold them."""
    out = dict(objects)
    for group, cls in GROUPS.items():
        given = {field.name: flat[field.name] for field in fields(cls) if flat[field.name] is not None}
        if given and isinstance(out[group], cls):
            name = next(iter(given))
            raise InvalidInputError(f"{name} and {group}={out[group]!r} are both given; set {name} in one of them")
        if isinstance(out[group], Mapping):
            for name in given.keys() & out[group].keys():
                raise InvalidInputError(
                    f"{name}={given[name]!r} and {group}={{{name!r}: {shown(out[group][name])}}} are both given; set "
                    f"{name} in one of them"
                )
        if given and (out[group] is None or isinstance(out[group], Mapping)):
            out[group] = {**(out[group] or {}), **given}
    return out


def _keys_in(given: object) -> list[str]:
    """The fields of ``index_metadata``."""
    if given is None:
        return []
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise InvalidInputError(f"index_metadata is {shown(given)}; expected a list of metadata keys, such as ['lang']")
    keys = [check_key(key) for key in given if key != ID_KEY]
    for key in keys:
        if key.startswith("$"):
            raise InvalidInputError(f"index_metadata has {shown(key)}; expected metadata keys, which filters can name")
    return keys


def _defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a new collection."""
    return {
        **({"text_index": given["text_index"]} if given["text_index"] else {}),
        "distance": given["distance"] or "cosine",
        "originals": given["originals"] or "float32",
        "embedding_model": given["embedding_model"],
        "quantization": as_settings(Quantization(**given["quantization"])),
        "hnsw": asdict(HnswConfig(**given["hnsw"])),
        "search": asdict(SearchParams(**given["search"])),
        "target_recall": DEFAULT_TARGET if given["target_recall"] is None else given["target_recall"],
    }


def _merged(head: Head, given: Mapping[str, Any]) -> dict[str, Any]:
    """The stored settings with those given over them. Raises SettingsConflictError where stored bytes contradict."""
    stored = head.settings

    def agree(name: str, has: Any, wants: Any, hint: str = "", none_is_a_value: bool = False) -> None:
        if (none_is_a_value or has is not None) and wants is not None and has != wants:
            raise SettingsConflictError(
                f"{name}={wants!r} contradicts what this collection was made with, {name}={has!r}; it is fixed then: "
                f"leave {name} out, or make another collection{hint}"
            )

    agree("dim", head.dim, given["dim"])
    words = TextIndex.of(stored)
    if words is not None and given["text_index"] is not None:
        wants = given["text_index"] or False
        agree("text_index", {"tokenize": words.tokenize}, wants, ", or change it by set_text_index()")
    for name in ("distance", "originals"):
        agree(name, stored[name], given[name])
    model = stored["embedding_model"]
    if not head.is_cleared:
        agree("embedding_model", model, given["embedding_model"])
        model = model or given["embedding_model"]
    else:  # another may follow
        model = given["embedding_model"] or model
    for name, value in given["hnsw"].items():
        if name != "full_scan_threshold":  # it steers searches only
            agree(name, stored["hnsw"].get(name), value, " (an object sets every field, a dict hnsw={...} some)")
    made = coding_of(stored)
    # without originals, codes cannot be made again
    final = head.n_slots > 0 and (stored["originals"] == "none" or not is_open(stored))
    asked = {name: value for name, value in given["quantization"].items() if value not in (AUTO, None)}
    for name, value in asked.items():
        if name != "query_encoding":  # it steers searches only
            was = made.get(name) if final else stored["quantization"].get(name)
            agree(name, None if was == AUTO else was, value, ", or change its codes by requantize()", final)
    out = {**stored, "embedding_model": model}
    if final:  # the stored settings say it all; "auto" beside a given field would leave another open again
        asked = {name: value for name, value in asked.items() if name == "query_encoding"}
    out["quantization"] = as_settings(replace(Quantization(**stored["quantization"]), **asked))
    out["hnsw"] = asdict(replace(HnswConfig(**stored["hnsw"]), **given["hnsw"]))
    out["search"] = asdict(replace(SearchParams(**stored["search"]), **given["search"]))
    return out
