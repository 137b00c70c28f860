"""Serves the page of `bqstore view` on loopback, read-only, at a secret address.

A page of another site in the same browser can send requests here, but does not know the token in the address. With DNS
rebinding its requests carry that site's name as Host, which is refused.
"""

import hmac
import secrets
import socketserver
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from typing import Any
from urllib.parse import parse_qs, urlsplit

import bqstore

LOOPBACK = "127.0.0.1"
_PATIENCE = 10.0  # seconds in which a client must send its request


class Server(ThreadingHTTPServer):
    """Answers GET and HEAD at one address with the page that ``make`` returns for the requested filter."""

    daemon_threads = True  # a stalled connection does not keep the command alive
    block_on_close = False

    def __init__(self, port: int, make: Callable[[str], str]) -> None:
        self.make, self.path = make, f"/{secrets.token_urlsafe(24)}/"
        self.one_at_a_time = Lock()  # a page of a large store takes all cores for a moment
        super().__init__((LOOPBACK, port), _Handler)

    def server_bind(self) -> None:
        """Bind without resolving this machine's name, which may take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = LOOPBACK, self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore errors of clients that have disconnected."""

    @property
    def address(self) -> str:
        """The URL for a browser."""
        return f"http://{LOOPBACK}:{self.server_port}{self.path}"


class _Handler(BaseHTTPRequestHandler):
    server: Server
    timeout = _PATIENCE
    server_version, sys_version = "bqstore", ""

    def do_GET(self) -> None:
        """Send the page, or an error."""
        asked = urlsplit(self.path)
        hosts = [f"{name}:{self.server.server_port}" for name in (LOOPBACK, "localhost")]
        if self.headers.get_all("Host") not in [[host] for host in hosts]:
            self._answer(HTTPStatus.FORBIDDEN, f"This is served to {hosts[0]} only.")
        elif not hmac.compare_digest(asked.path.encode(), self.server.path.encode()):
            self._answer(HTTPStatus.FORBIDDEN, "Open the whole address that bqstore view has printed.")
        else:
            try:
                with self.server.one_at_a_time:
                    text = self.server.make(parse_qs(asked.query).get("filter", [""])[0].strip())
            except bqstore.InvalidInputError as error:
                self._answer(HTTPStatus.BAD_REQUEST, str(error))
            except (bqstore.BqstoreError, OSError) as error:
                self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
            else:
                self._answer(HTTPStatus.OK, text, "text/html")

    do_HEAD = do_GET  # noqa: N815

    def _refused(self) -> None:
        self._answer(HTTPStatus.METHOD_NOT_ALLOWED, "This is to be read only: GET or HEAD.")

    do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_TRACE = do_CONNECT = _refused  # noqa: N815

    def _answer(self, status: HTTPStatus, text: str, kind: str = "text/plain") -> None:
        body = text.encode("utf-8", "backslashreplace")
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("X-Frame-Options", "DENY")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Log nothing: the address is a secret."""
