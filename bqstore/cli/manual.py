"""The Python manual as passages. Python ships it, so nothing is downloaded.

It has two sources: the topics of ``pydoc_data`` (the language reference, as shown by ``help("with")``) and the
docstrings of the standard library. Modules written in Python are parsed, not imported, so none of their code runs.
Modules written in C (``builtins``, ``math`` ...) have no Python source and are imported.
"""

import ast
import importlib.machinery
import importlib.util
import inspect
import pkgutil
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAX_CHARS = 700  # of a passage: two or three paragraphs, about as much as one embedding represents well
MIN_CHARS = 60  # shorter docstrings say little, such as "See above."
MIN_TAIL = 250  # a shorter last piece is appended to the one before it

# test suites, drawing toolkits (a thousand near-equal docstrings), bundled copies, jokes that run code
_SKIPPED = {"test", "tests", "idlelib", "lib2to3", "tkinter", "turtle", "turtledemo", "pydoc_data"}
_SKIPPED |= {"ensurepip", "encodings", "antigravity", "this", "site-packages", "ntpath"}
_KNOWN_AS = {"posixpath": "os.path"}


@dataclass(frozen=True)
class Passage:
    """A piece of the manual; the same Python gives it the same ``id`` in every run."""

    id: str
    text: str
    title: str  # "json.dumps", or the heading of a topic
    kind: str  # "topic", "module", "class" or "function"
    module: str  # "json"; "" for a topic


@dataclass(frozen=True)
class _Entry:
    title: str
    kind: str
    module: str
    signature: str
    text: str


def passages(limit: int | None = None) -> list[Passage]:
    """Return all passages, several thousand, in a fixed order; with ``limit``, at most that many."""
    found: dict[str, Passage] = {}
    texts = set()
    for entry in (*_topics(), *_docstrings()):
        for number, piece in enumerate(split(entry.text), 1):
            text = f"{entry.title}{entry.signature}\n\n{piece}"
            if piece in texts:  # an inherited docstring
                continue
            texts.add(piece)
            name = f"{entry.kind}:{entry.title}#{number}"
            found.setdefault(name, Passage(name, text, entry.title, entry.kind, entry.module))
    return spread(list(found.values()), limit)


def spread(everything: list[Passage], limit: int | None) -> list[Passage]:
    """Return at most ``limit`` passages, evenly spread over the whole."""
    if limit is None or limit >= len(everything):
        return everything
    return [everything[i * len(everything) // limit] for i in range(limit)]


def split(text: str, most: int = MAX_CHARS) -> list[str]:
    """Join paragraphs into pieces of up to ``most`` characters; a longer paragraph is cut between its lines."""
    pieces = [""]
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        for piece in _lines(paragraph.rstrip(), most):
            if not pieces[-1]:
                pieces[-1] = piece
            elif len(pieces[-1]) + len(piece) + 2 <= most:
                pieces[-1] += f"\n\n{piece}"
            else:
                pieces.append(piece)
    if len(pieces) > 1 and len(pieces[-1]) < MIN_TAIL:
        tail = pieces.pop()
        pieces[-1] += f"\n\n{tail}"
    return [piece for piece in pieces if len(piece) >= MIN_CHARS]


def _lines(paragraph: str, most: int) -> Iterator[str]:
    held = ""
    for line in paragraph.split("\n"):
        if held and len(held) + len(line) + 1 > most:
            yield held
            held = ""
        held = f"{held}\n{line}" if held else line
    if held.strip():
        yield held


def _topics() -> Iterator[_Entry]:
    from pydoc_data.topics import topics

    for name, text in sorted(topics.items()):
        heading, _, body = text.strip().partition("\n")
        body = re.sub(r"^\s*[*=~-]{3,}\s*\n", "", body.lstrip("\n"))  # the line under the heading
        yield _Entry(heading.strip().replace('"', "") or name, "topic", "", "", body)


def _docstrings() -> Iterator[_Entry]:
    for name in sorted(sys.stdlib_module_names - _SKIPPED):
        if name.startswith("_"):
            continue
        spec = importlib.util.find_spec(name)  # finds without importing
        if spec is None or spec.loader is None:
            continue
        if isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            yield from _of_package(_KNOWN_AS.get(name, name), Path(spec.loader.path))
        elif name in sys.builtin_module_names or isinstance(spec.loader, importlib.machinery.ExtensionFileLoader):
            yield from _of_builtin(name)
        elif (source := Path(sysconfig.get_path("stdlib"), f"{name}.py")).is_file():  # frozen: os, codecs ...
            yield from _of_source(_KNOWN_AS.get(name, name), source)


def _of_package(name: str, path: Path) -> Iterator[_Entry]:
    yield from _of_source(name, path)
    if path.name == "__init__.py":
        for info in sorted(pkgutil.iter_modules([str(path.parent)]), key=lambda info: info.name):
            if info.name.startswith("_") or info.name in _SKIPPED:
                continue
            inner = path.parent / info.name
            source = inner / "__init__.py" if info.ispkg else inner.with_suffix(".py")
            if source.is_file():
                yield from _of_package(f"{name}.{info.name}", source)


def _of_source(module: str, path: Path) -> Iterator[_Entry]:
    """Read the docstrings of a Python module and of its public classes and functions from its source."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer Pythons warn of escapes in old modules
        tree = ast.parse(path.read_bytes())
    if doc := ast.get_docstring(tree):
        yield _Entry(module, "module", module, "", doc)
    yield from _of_body(tree.body, module, module)


def _of_body(body: list[ast.stmt], prefix: str, module: str) -> Iterator[_Entry]:
    for node in body:
        if isinstance(node, (ast.If, ast.Try)):  # platforms, optional accelerators
            yield from _of_body([*node.body, *node.orelse], prefix, module)
        if not isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) or node.name[0] == "_":
            continue
        title = f"{prefix}.{node.name}"
        kind = "class" if isinstance(node, ast.ClassDef) else "function"
        signature = "" if isinstance(node, ast.ClassDef) else f"({ast.unparse(node.args)})"
        if doc := ast.get_docstring(node):
            yield _Entry(title, kind, module, signature, doc)
        if isinstance(node, ast.ClassDef):
            yield from _of_body(node.body, title, module)


def _of_builtin(module: str) -> Iterator[_Entry]:
    """Read the docstrings of a C module, of its public names and of the methods of its classes."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated modules warn when imported
            loaded = importlib.import_module(module)
    except ImportError:  # this Python was built without the system library that the module wraps
        return
    if loaded.__doc__:
        yield _Entry(module, "module", module, "", loaded.__doc__)
    prefix = "" if module == "builtins" else f"{module}."
    for name, value in sorted(vars(loaded).items()):
        if name.startswith("_") or not callable(value) or not isinstance(value.__doc__, str):
            continue
        kind = "class" if isinstance(value, type) else "function"
        yield _Entry(f"{prefix}{name}", kind, module, _signature(value), value.__doc__)
        for inner, method in sorted(vars(value).items()) if isinstance(value, type) else ():
            doc = getattr(method, "__doc__", None)
            if not inner.startswith("_") and isinstance(doc, str):
                yield _Entry(f"{prefix}{name}.{inner}", "function", module, _signature(method), doc)


def _signature(value: object) -> str:
    try:
        return str(inspect.signature(value))  # type: ignore[arg-type]
    except (TypeError, ValueError, AttributeError):  # the last: select.epoll.register, Python 3.13
        return ""
