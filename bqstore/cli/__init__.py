"""The `bqstore` command: make a store of folders of documents, search it, measure it, look after it.

    bqstore demo                a store of the Python manual in a few seconds, and questions to it
    bqstore ingest STORE FILE   cut folders of documents into passages, embed and store them; again, only what changed
    bqstore search STORE TEXT   find documents by words, by meaning or by a vector; --explain says how it was done
    bqstore info STORE          its collections, their settings and the memory they use
    bqstore recall STORE        the recall of its searches, against exact search; --report writes it as a page
    bqstore tune STORE          store the fastest search settings that reach a recall
    bqstore bench STORE         what its searches find, and how many there are in a second
    bqstore view STORE          a page to look at it: documents, a map of their vectors, scores, recall, memory, health
    bqstore backup STORE TO     copy a store that is in use, or bring an older copy up to date
    bqstore verify STORE        read and check every byte
    bqstore repair STORE        save what is intact of a damaged store into a new one
    bqstore compact STORE       give back the space of what was deleted or replaced
    bqstore copy STORE TO       copy collections into another store
    bqstore reembed STORE       embed all texts again with another model
    bqstore import FROM TO      bring another store's documents in; bqstore export STORE FILE writes them out
    bqstore plan                what a collection will take, and where one machine ends
    bqstore mcp STORE           serve it to clients of the Model Context Protocol
    bqstore warm-up             compile what searches run on, for images and other first starts

It uses the public names of bqstore, typer, rich, plotly for the pages and mcp for the server. Start reading in
`options.py` and `commands.py`; `ingesting.py` and `passages.py` have ingest, `searching.py` search, `bench.py` bench,
`mcp_server.py` mcp, `viewing.py` and its neighbors view, `upkeep.py` the commands that keep a store safe, `moving.py`
those that bring documents in and out. This module imports none of them itself, so that a missing package is reported by
one line, not a traceback.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # what takes longer to import is imported in `main`, where Ctrl-C is told in a word
if TYPE_CHECKING:
    from typing import Any


def _warned(message: Warning | str, *_: Any, **__: Any) -> None:
    """Show a warning as a line, without the place in our sources that it comes from."""
    from .formatting import printable

    sys.stderr.write(f"bqstore: {printable(str(message))}\n")


def _log_escaped() -> None:
    """Show what bqstore logs as its warnings are shown: it may name metadata fields, which anybody may have written."""
    import logging

    class Escaped(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            _warned(record.getMessage())

    logging.getLogger("bqstore").addHandler(Escaped(logging.WARNING))


def loaded() -> Any:
    """The application, with the commands that these modules add to it."""
    from . import bench, commands, demo, ingesting, mcp_server, moving, planning, searching, upkeep, viewing  # noqa: F401
    from .options import app

    return app


def main() -> None:
    """Read the command line, run the command, exit."""
    try:
        import warnings
        from io import TextIOWrapper

        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):  # a terminal without Unicode, as of LC_ALL=C, shows it escaped
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
