"""Addresses of collections on a server: ``qdrant://host:6333/name?tls=1``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from ..arguments import check_int, did_you_mean, shown
from ..errors import InvalidInputError
from .library import is_client

SCHEME: Final = "qdrant://"
_EXPECTED: Final = "expected qdrant://host:6333/name"
_KNOWN: Final = ("tls", "grpc_port", "prefix", "vector")


@dataclass(frozen=True)
class Address:
    """Where a collection is.

    Parameters
    ----------
    host : str, port : int      of the REST interface
    name : str or None          of the collection
    tls : bool                  whether the connection is encrypted
    grpc_port : int             of the gRPC interface
    prefix : str or None        path of the server behind a proxy
    vector : str or None        which of the named vectors, where a collection that others made has several
    """

    host: str
    port: int = 6333
    name: str | None = None
    tls: bool = False
    grpc_port: int = 6334
    prefix: str | None = None
    vector: str | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        own = {"tls": "1" if self.tls else None, "prefix": self.prefix, "vector": self.vector}
        own["grpc_port"] = None if self.grpc_port == 6334 else str(self.grpc_port)
        query = urlencode({key: value for key, value in own.items() if value is not None})
        name = "" if self.name is None else f"/{quote(self.name, safe='')}"
        return f"{SCHEME}{host}:{self.port}{name}{'?' + query if query else ''}"

    @property
    def of_server(self) -> Address:
        """That of the server alone."""
        return replace(self, name=None)


def is_remote(path: object) -> bool:
    """Whether a path is the address of a server, or a client of one."""
    return (isinstance(path, str) and path.lstrip()[: len(SCHEME)].lower() == SCHEME) or is_client(path)


def address_of(given: str) -> Address:
    """The parts of an address. Raises InvalidInputError, which never shows a key that stands in it."""
    try:
        parts = urlsplit(given.strip())
        port = parts.port
        host = parts.hostname
    except ValueError as error:
        raise InvalidInputError(f"the address of the server cannot be read ({error}); {_EXPECTED}") from None
    if "@" in parts.netloc:
        raise InvalidInputError(
            f"the address has a name or a key before the host; {_EXPECTED}, and the key in api_key="
        )
    if not host or parts.fragment:
        raise InvalidInputError(f"the address has no host, or a #; {_EXPECTED}")
    name = unquote(parts.path.removeprefix("/"))
    if "/" in name:
        raise InvalidInputError(
            f"the address has the path {shown(parts.path)}; {_EXPECTED}: a path of a proxy goes into ?prefix="
        )
    asked = dict(parse_qsl(parts.query, keep_blank_values=True))
    for key in asked:
        if key in ("api_key", "api-key", "apikey", "token"):
            raise InvalidInputError(f"the address has a key in it; {_EXPECTED}, and the key in api_key=")
        if key not in _KNOWN:
            raise InvalidInputError(
                f"the address has {shown(key)}{did_you_mean(key, _KNOWN, '')}; known are {', '.join(_KNOWN)}; settings "
                "are keywords of open()"
            )
    tls = asked.get("tls", "0").lower()
    if tls not in ("0", "1", "true", "false"):
        raise InvalidInputError(f"the address has tls={tls!r}; expected 1 or 0")
    grpc_port = asked.get("grpc_port", "6334")
    return Address(
        host,
        6333 if port is None else port,
        name or None,
        tls in ("1", "true"),
        check_int("grpc_port", int(grpc_port) if grpc_port.isdecimal() else grpc_port, 1, 65535),
        asked.get("prefix"),
        asked.get("vector"),
    )
