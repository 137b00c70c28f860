"""The `bqstore` command: fill a store from folders of documents, search, measure and maintain it.

    bqstore demo                store the Python manual in a few seconds, and ask it questions
    bqstore ingest STORE FILE   cut folders of documents into passages, embed and store them; again, only what changed
    bqstore search STORE TEXT   find documents by words, by meaning or by a vector; --explain says how it was done
    bqstore info STORE          its collections, their settings and the memory they use
    bqstore recall STORE        the recall of its searches, against exact search; --report writes it as a page
    bqstore tune STORE          store the fastest search settings that reach a recall
    bqstore bench STORE         recall and queries per second on this machine
    bqstore view STORE          a page to look at it: documents, a map of their vectors, scores, recall, memory, health
    bqstore backup STORE TO     copy a store that is in use, or bring an older copy up to date
    bqstore verify STORE        read and check every byte
    bqstore repair STORE        save the intact documents of a damaged store into a new one
    bqstore compact STORE       free the space of deleted or replaced documents
    bqstore copy STORE TO       copy collections into another store
    bqstore reembed STORE       embed all texts again with another model
    bqstore import FROM TO      import another store's documents; bqstore export STORE FILE exports them
    bqstore plan                the memory, disk and machines that a collection will need
    bqstore mcp STORE           serve it to clients of the Model Context Protocol
    bqstore warm-up             compile the kernels, for container images and other first starts

May import public names of bqstore, typer, rich, plotly for the pages and mcp for the server. Start reading in
`options.py` and `commands.py`; `ingesting.py` and `passages.py` implement ingest, `searching.py` search, `bench.py`
bench, `mcp_server.py` mcp, `viewing.py` and the ``view_*`` modules view, `upkeep.py` backup, verify, repair, compact,
copy and reembed, `moving.py` import and export. This module imports them lazily, so that a missing package is reported
in one line instead of a traceback.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # slow imports are made in `main`, which handles Ctrl-C
if TYPE_CHECKING:
    from typing import Any


def _warned(message: Warning | str, *_: Any, **__: Any) -> None:
    """Show a warning as one line, without its source location."""
    from .formatting import printable

    sys.stderr.write(f"bqstore: {printable(str(message))}\n")


def _log_escaped() -> None:
    """Show log messages like warnings, control characters escaped: they may hold names of metadata fields."""
    import logging

    class Escaped(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            _warned(record.getMessage())

    logging.getLogger("bqstore").addHandler(Escaped(logging.WARNING))


def loaded() -> Any:
    """The application, with the commands that the imported modules register."""
    from . import bench, commands, demo, ingesting, mcp_server, moving, planning, searching, upkeep, viewing  # noqa: F401
    from .options import app

    return app


def main() -> None:
    """Read the command line, run the command, exit."""
    try:
        import warnings
        from io import TextIOWrapper

        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):  # for terminals without Unicode, as with LC_ALL=C
                stream.reconfigure(errors="backslashreplace")
        warnings.showwarning = _warned
        try:
            app = loaded()
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] == __name__.partition(".")[0]:
                raise  # a part of bqstore itself
            raise SystemExit(f"bqstore: this command needs {error.name}: pip install typer rich plotly") from None
        _log_escaped()
        app(prog_name="bqstore")
    except KeyboardInterrupt:
        sys.stderr.write("Stopped.\n")
        raise SystemExit(130) from None
