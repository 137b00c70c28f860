"""Demo: ask the Python manual, through LangChain and through LlamaIndex, from one store on disk.

    python examples/ask_the_manual.py                            five questions
    python examples/ask_the_manual.py "How do I copy a file?"    your own

The first run cuts the manual that every Python ships into passages and builds a store of them in ``./bqstore-demo``;
later runs open it and answer at once. An interrupted run is continued by the next one. With OPENAI_API_KEY set, OpenAI
embeds the passages and answers the questions; without it, nothing leaves this machine. After ``pip install wordllama``,
``--embedder wordllama`` embeds with a small model whose weights are in that package.
"""

import argparse
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

try:
    from manual import report, store
    from manual.llamaindex import query_engine
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from langchain_bqstore import BQVectorStore as LangChainStore
    from llama_index.vector_stores.bqstore import BQVectorStore as LlamaIndexStore
except ImportError as error:
    sys.exit(f'The demo needs its extra ({error}): pip install "bqstore[demo]"')

import bqstore

QUESTIONS = (
    "How does the try statement handle exceptions?",
    "How do I cache the results of a function?",
    "How do I turn a Python object into JSON text?",
    "How can I measure the execution time of small pieces of code?",
    "How do I copy a file to another directory?",
)
PASSAGES = 3  # shown for each question
EMBEDDERS = {
    "openai": "OpenAI's text-embedding-3-small, with the key of OPENAI_API_KEY",
    "offline": "offline: latent semantic analysis with scikit-learn, which matches words, not meaning. "
    "Set OPENAI_API_KEY to use OpenAI's model, or pip install wordllama and pass --embedder wordllama",
    "wordllama": "offline: wordllama's l2_supercat, word vectors of a language model, averaged",
}


def main(arguments: list[str] | None = None) -> int:
    """Build or open the store, ask, report; return the exit status."""
    options = parse(arguments)
    console = Console(highlight=False)
    console.width = min(console.width, 100)
    try:
        show(options, console)
    except KeyboardInterrupt:
        console.print("\nStopped. What was stored is kept: run the same command to go on.")
        return 130
    except (bqstore.BqstoreError, ImportError, OSError) as error:
        console.print(f"\n[bold red]{type(error).__name__}[/]: ", end="")
        console.print(str(error), markup=False)
        return 1
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Ask the Python manual, from a store on disk.")
    parser.add_argument("questions", nargs="*", default=QUESTIONS, help="your own questions, in place of the five")
    parser.add_argument("--path", type=Path, default=Path("bqstore-demo"), help="folder of the store (%(default)s)")
    parser.add_argument(
        "--embedder", choices=EMBEDDERS, help="openai with a key, otherwise offline, unless this is given"
    )
    parser.add_argument("--fresh", action="store_true", help="build the store anew")
    parser.add_argument("--limit", type=int, help="use only so many passages, spread over the manual")
    parser.add_argument("--llm", default="gpt-4o-mini", help="OpenAI model that answers, with a key (%(default)s)")
    options = parser.parse_args(arguments)
    if options.limit is not None and options.limit < 100:
        parser.error("--limit must be at least 100")
    return options


def show(options: argparse.Namespace, console: Console) -> None:
    """Do all that the demo shows, from top to bottom."""
    name = options.embedder or store.embedder_name()
    if options.fresh:
        store.forget(options.path, name)
    console.print("\n[bold]Ask the Python manual[/]")
    console.print(f"Embedder  {EMBEDDERS[name]}.", markup=False)
    start = time.perf_counter()
    lang, embedder, existed = store.open_or_build(options.path, name, options.limit, console)
    count, seconds = len(lang.collection), time.perf_counter() - start
    done = f"{'opened' if existed else 'built'} in {seconds:.2f} s"
    console.print(f"Store     {count:,} passages in {options.path}, {done}", markup=False)

    # a folder has one writer, here LangChain's store; LlamaIndex's reads what it wrote
    with lang, LlamaIndexStore(options.path, name, read_only=True, **store.SEARCH_CODES) as llama:
        retriever = lang.as_retriever(search_kwargs={"k": PASSAGES})
        engine = query_engine(llama, embedder, PASSAGES, options.llm if name == "openai" else None)
        for question in options.questions:
            ask(question, lang, retriever, engine, console)
        for table in (report.recall_table(lang.collection, embedder), report.memory_table(lang.collection)):
            console.print()
            console.print(table)
    if not existed:
        console.print("\nRun it again: the store is there now, and the answers come at once.")


def ask(question: str, lang: LangChainStore, retriever: Any, engine: Any, console: Console) -> None:
    """Ask one question through both frameworks; they search the same folder, so they agree."""
    start = time.perf_counter()
    documents = retriever.invoke(question)
    middle = time.perf_counter()
    response = engine.query(question)
    end = time.perf_counter()

    # LangChain's retriever drops the scores; the store returns them
    scores = {found.id: score for found, score in lang.similarity_search_with_score(question, k=PASSAGES)}
    nodes = {found.node.node_id: found for found in response.source_nodes}
    passages = {document.id: document.page_content for document in documents}
    passages |= {name: found.node.get_content() for name, found in nodes.items()}

    table = Table(title=Text(question, style="bold"), title_justify="left", expand=True, box=box.SIMPLE_HEAD)
    table.add_column("LangChain", justify="right", width=10)
    table.add_column("LlamaIndex", justify="right", width=10)
    table.add_column("passage")
    for name, passage in passages.items():
        title, _, body = passage.partition("\n\n")
        described = Text(title, style="cyan", overflow="ellipsis")
        described.append("\n" + textwrap.shorten(body, 130, placeholder=" ..."), style="default")
        by_llama = nodes[name].score if name in nodes else None
        table.add_row(_score(scores.get(name)), _score(by_llama), described)
    answered = ", and for the model behind LlamaIndex to answer" if response.response else ""
    spent = f"to embed the question and search{answered}"
    table.add_row(_milliseconds(middle - start), _milliseconds(end - middle), spent)
    console.print()
    console.print(table)
    if response.response:
        console.print(Text(f"Answer: {response.response}"))


def _score(score: float | None) -> str:
    return "-" if score is None else f"{score:.3f}"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms"


if __name__ == "__main__":
    sys.exit(main())
