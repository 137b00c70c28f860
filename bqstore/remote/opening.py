"""A collection on a server is opened: by its address, or with a client that is there already."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ..arguments import check_bool, check_int, check_seconds
from ..errors import InvalidInputError, NotFoundError
from ..metadata.filter_grammar import checked_field
from . import settings as mapping
from .address import Address, address_of
from .collection import RemoteCollection
from .library import client_class, is_client
from .place import Place, checked_consistency
from .server import Server

KEY_VARIABLE: Final = "QDRANT_API_KEY"
_LOG: Final = logging.getLogger("bqstore")
_FIRST_VERSION: Final = (1, 16)  # which keeps metadata of collections
_ONE_REQUEST: Final = 60.0  # seconds, at most


def open_remote(
    path: Any,
    collection: str,
    given: Mapping[str, Any],
    *,
    indexed: Sequence[str] = (),
    read_only: bool = False,
    api_key: str | None = None,
    grpc: bool = False,
    timeout: float = 30.0,
    shard_number: int | None = None,
    replication_factor: int | None = None,
    write_consistency_factor: int | None = None,
    read_consistency: Any = None,
    tenant_field: str | None = None,
) -> RemoteCollection:
    """Open a collection on a server; it is made when the first vectors, or ``dim``, tell their dimension.

    Raises
    ------
    InvalidInputError       a setting that a server has no counterpart for
    SettingsConflictError   a setting contradicts what the collection was made with
    NotFoundError           ``read_only=True``, and there is none
    ServerError             the server cannot be reached
    """
    mapping.refuse_without_counterpart(given)
    seconds = check_seconds("timeout", timeout)
    numbers = {
        "shard_number": shard_number,
        "replication_factor": replication_factor,
        "write_consistency_factor": write_consistency_factor,
    }
    cluster = {name: value if value is None else check_int(name, value, 1, 10_000) for name, value in numbers.items()}
    consistency = checked_consistency(read_consistency)
    tenant = None if tenant_field is None else checked_field(tenant_field, "tenant_field")
    vector = None
    if is_client(path):
        if api_key is not None or grpc:
            raise InvalidInputError("api_key and grpc are set where the client is made; leave them out beside a client")
        name, server = collection, Server(path, "", seconds)
    else:
        address = address_of(path)
        name, vector = _name(address, collection), address.vector
        server = _connected(address, api_key, check_bool("grpc", grpc), seconds)
    try:
        asked = mapping.asked_for(given)
        place = Place(server, name, given, asked, read_only, cluster, indexed, consistency, vector, tenant)
        if not place.look():
            if read_only:
                raise NotFoundError(f"{server.where}: there is no collection {name!r}, and read_only=True makes none")
            if asked.dim is not None:
                place.make(asked.dim)
        elif not read_only:
            place.index_present()
            if place.known.embedding_model != place.model_there:
                place.keep(place.known)
        _tell_of_version(server)
    except BaseException:
        server.close()
        raise
    return RemoteCollection(place)


def _name(address: Address, collection: str) -> str:
    if address.name is None:
        return collection
    if collection not in ("default", address.name):
        raise InvalidInputError(
            f"the address names the collection {address.name!r}, and collection={collection!r}; give one of them"
        )
    return address.name


def _connected(address: Address, api_key: object, grpc: bool, timeout: float) -> Server:
    if api_key is not None and (not isinstance(api_key, str) or not api_key):
        raise InvalidInputError("api_key is no text; expected the server's key")
    key = api_key or os.environ.get(KEY_VARIABLE)
    client = client_class()(
        host=address.host,
        port=address.port,
        grpc_port=address.grpc_port,
        prefer_grpc=grpc,
        https=address.tls,
        api_key=key,
        prefix=address.prefix,
        timeout=max(1, math.ceil(min(timeout, _ONE_REQUEST))),
        check_compatibility=False,
    )
    return Server(client, str(address.of_server), timeout, key, owned=True)


def _tell_of_version(server: Server) -> None:
    """Log one WARNING where the server is too old to keep what is stored beside documents."""
    if server.version() < _FIRST_VERSION:
        found, first = (".".join(map(str, each)) for each in (server.version(), _FIRST_VERSION))
        _LOG.warning("%s is Qdrant %s; upgrade it: bqstore needs %s or newer", server.where, found, first)
