"""LangChain's `index()` is killed at each call to the system of one kind, and each time the next run must mend it.

strace kills a process at its call number `AT`; a fork for each kill makes calls to nothing until the wanted one has
that number, as in `faults/sweep.py`. What is copied, run and checked is in forks: this process makes no such call.

    python -m tests.torture.index_kills FOLDER pwrite64 full
"""

import ctypes
import mmap
import os
import shutil
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from langchain_core.documents import Document
from langchain_core.indexing import index

from langchain_bqstore import BQRecordManager, BQVectorStore

from ..adapters.langchain_texts import Spelled
from .faults.sweep import trace
from .faults.table import NUMBERS

AT = 2000
FIRST = [Document(text, metadata={"source": source}) for text, source in (("1 0", "a"), ("0 1", "a"), ("1 1", "b"))]
THEN = [FIRST[0], FIRST[2], *(Document(text, metadata={"source": "a"}) for text in ("2 1", "3 1"))]  # "0 1" is gone
OTHERS = [Document("4 4", metadata={"source": "a"}), Document("5 5", metadata={"source": "b"})]
_libc = ctypes.CDLL(None, use_errno=True)
_made = mmap.mmap(-1, 8)  # shared with forks: calls to nothing


def opened(folder: Path) -> tuple[BQVectorStore, BQRecordManager]:
    store = BQVectorStore(Spelled(), path=folder)
    return store, BQRecordManager("n", vector_store=store)


def run(given: list[Document], cleanup: Any, records: BQRecordManager, store: BQVectorStore) -> dict[str, int]:
    return dict(index(given, records, store, cleanup=cleanup, source_id_key="source", key_encoder="sha256"))


def call_nothing(name: str, count: int) -> None:
    for done in range(count):
        _made[:] = done.to_bytes(8, "little")
        _libc.syscall(NUMBERS[name], -1, 0, 0, 0, -1, 0)


def in_fork(work: Callable[[], object]) -> int:
    """Do something in a process of its own; its status."""
    child = os.fork()
    if not child:
        try:
            work()
        except BaseException as error:
            print("WRONG", type(error).__name__, error, flush=True)
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def check(folder: Path, cleanup: str, then: list[Document]) -> None:
    """The next run mends all, and the one behind it has nothing to do."""
    store, records = opened(folder)
    run(then, cleanup, records, store)
    assert {record.text for record in store.collection.scroll()} == {document.page_content for document in then}
    assert sorted(records.list_keys()) == sorted(store.collection.ids())
    done = run(then, cleanup, records, store)
    assert (done["num_added"], done["num_skipped"], done["num_deleted"]) == (0, len(then), 0), done
    assert store.collection.verify().ok
    records.close(), store.close()


def main(folder: str, name: str, cleanup: str) -> None:
    warnings.simplefilter("ignore")
    template, work = Path(folder) / "template", Path(folder) / "work"
    store, records = opened(template)
    run(FIRST, cleanup, records, store)
    records.close(), store.close()
    trace(name, "signal=KILL", AT)

    def fresh() -> None:
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(template, work)

    def calls(whole: bool) -> int:
        """How many calls a process makes until the run begins, or has ended."""

        def measured() -> None:
            store, records = opened(work)
            if whole:
                run(THEN, cleanup, records, store)
            call_nothing(name, AT)

        in_fork(fresh)
        status = in_fork(measured)
        assert os.WTERMSIG(status) == signal.SIGKILL, status
        return AT - 1 - int.from_bytes(_made[:], "little")

    def one(n: int) -> None:
        store, records = opened(work)
        call_nothing(name, AT - first - n)
        run(THEN, cleanup, records, store)

    first, last = calls(whole=False), calls(whole=True)
    print(f"{name} {cleanup}: {last - first} calls", flush=True)
    for n in range(1, last - first + 1):
        for then in (THEN, FIRST, OTHERS):
            in_fork(fresh)
            killed = os.WTERMSIG(in_fork(lambda n=n: one(n))) == signal.SIGKILL
            print(n, "killed" if killed else "ran on", flush=True)
            in_fork(lambda then=then: check(work, cleanup, then))


if __name__ == "__main__":
    main(*sys.argv[1:])
