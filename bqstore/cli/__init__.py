"""The `bqstore` command: describe a collection, measure its recall, tune its search settings, warm up.

    bqstore info PATH       the settings of a collection and the memory it uses
    bqstore recall PATH     the recall of its searches, against exact search; --report writes it as a page
    bqstore tune PATH       store the fastest search settings that reach a recall
    bqstore backup PATH TO  copy a store that is in use, or bring an older copy up to date
    bqstore verify PATH     read and check every byte
    bqstore repair PATH     save what is intact of a damaged store into a new one
    bqstore reembed PATH    embed all texts again with another model
    bqstore import FROM TO  bring another store's documents in; bqstore export PATH FILE writes them out
    bqstore warm-up         compile what searches run on, for images and other first starts

It uses the public names of bqstore, typer, rich, and plotly for the page. Start reading in `commands.py`; `upkeep.py`
has the commands that keep a store safe, `moving.py` those that bring documents in and out. This module imports none of
them itself, so that a missing package is reported by one line instead of a traceback.
"""


def main() -> None:
    """Read the command line, run the command, exit."""
    try:
        from . import moving, upkeep  # noqa: F401 - more commands
        from .commands import app
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == __name__.partition(".")[0]:
            raise  # a part of bqstore itself
        raise SystemExit(f'bqstore: this command needs {error.name}: pip install "bqstore[cli]"') from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    app(prog_name="bqstore")
