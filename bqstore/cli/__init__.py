"""The `bqstore` command. Floor 5: public names of bqstore, typer and rich; plotly for the page of a report.

    bqstore info PATH       what a collection is and what it takes
    bqstore recall PATH     what its searches find, measured against exact search; --report draws it as a page
    bqstore tune PATH       keep the cheapest settings that find enough

This module imports none of them, so that a missing extra is told, and not shown as a traceback.
"""


def main() -> None:
    """The entry point: read the command line, do it, exit."""
    try:
        from .commands import app
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == __name__.partition(".")[0]:
            raise  # a part of bqstore itself
        raise SystemExit(f'bqstore: this command needs {error.name}: pip install "bqstore[cli]"') from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    app(prog_name="bqstore")
