"""The top-level `bqstore` command, and options that several commands share."""

from typing import Annotated, Any, ClassVar

import typer
from typer.core import TyperGroup

import bqstore

from .console import debug, stopped


class Commands(TyperGroup):
    """The commands, in the order in which a newcomer needs them; accepts --debug anywhere before a "--"."""

    SHORT: ClassVar = {  # for the list of commands, where typer would cut off the first sentence of the help
        "demo": "Ask the Python manual: a first try, offline",
        "ingest": "Embed and store folders of documents",
        "search": "Find documents by meaning, words or a filter",
        "info": "Collections, their settings and memory; versions",
        "recall": "Recall of searches, against exact search",
        "tune": "Store the fastest settings that reach a recall",
        "bench": "Recall and speed of this store on this machine",
        "view": "A page to look at the store",
        "verify": "Read every byte and compare it with checksums",
        "repair": "Save the intact documents of a damaged store",
        "compact": "Free the space of deleted documents",
        "backup": "Copy a store while it is in use",
        "copy": "Copy collections into another store",
        "import": "Bring in documents of other stores and files",
        "export": "Write all documents to a file",
        "reembed": "Embed all texts again with another model",
        "plan": "Memory, disk and machines a collection will need",
        "mcp": "Serve to Model Context Protocol clients",
        "warm-up": "Compile the kernels in advance",
    }
    ORDER = tuple(SHORT)

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of the commands."""
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: self.ORDER.index(name) if name in self.ORDER else -1)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command, whose help shows arguments without their Python types."""
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            command.short_help = self.SHORT.get(cmd_name)
            params: list[Any] = command.params
            for each in params:
                if each.param_type_name == "argument":
                    each.display_type_rich = lambda ctx: None
        return command

    def make_context(self, *arguments: Any, **keywords: Any) -> Any:
        """Read the command line."""
        with stopped():
            return super().make_context(*arguments, **keywords)

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        with stopped():
            return super().invoke(ctx)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Move --debug to the front, as it is an option of the top-level command."""
        end = args.index("--") if "--" in args else len(args)
        if "--debug" in args[:end]:
            args = ["--debug", *(each for each in args[:end] if each != "--debug"), *args[end:]]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: boxes break in narrow terminals, in pipes and with LC_ALL=C
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Create, search, measure and maintain bqstore stores. Errors are one line; the exit code is then 1.",
)


def names_to_complete(ctx: typer.Context, incomplete: str) -> list[str]:
    """Collections of the store on the command line, for shell completion."""
    try:
        return [name for name in bqstore.collections(ctx.params.get("path") or ".") if name.startswith(incomplete)]
    except (bqstore.BqstoreError, OSError):
        return []


Store = Annotated[str, typer.Argument(metavar="STORE", help="Folder of the store.")]
Name = Annotated[
    str | None,
    typer.Option(
        "--collection",
        metavar="NAME",
        autocompletion=names_to_complete,
        help='Which of its collections; else "default", or the only one.',
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON and nothing else.")]
K = Annotated[
    int, typer.Option("-k", metavar="NUMBER", min=1, max=10_000, help="How many nearest documents a search asks for.")
]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bqstore {bqstore.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    tracebacks: Annotated[bool, typer.Option("--debug", help="Show where an error comes from.")] = False,
) -> None:
    """Handle the options that come before a command."""
    debug(tracebacks)
