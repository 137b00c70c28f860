"""What a collection is, what it takes, and whether it is whole: reports for people."""

from html import escape
from typing import TYPE_CHECKING

import numpy as np

from ..config import VALUE_BYTES
from ..errors import CorruptionError, StorageError
from ..index import kernels_state
from ..results.info import CollectionInfo
from ..results.outcomes import VerifyReport
from ..storage.reading import Block
from ..storage.verify import files_of, problems_of
from . import search, text_upkeep
from .health import health_of

if TYPE_CHECKING:
    from .engine import Engine

_TRIES = 50  # to find a moment without a commit


def info_of(engine: "Engine") -> CollectionInfo:
    """The collection as it stands at the last commit; the settings are those of this opening."""
    state, store, quantization = engine.publisher.current(), engine.store, engine.encoder.in_use(engine.query_encoding)
    head, data = state.head, state.data
    options = engine.options(10)
    _, way = search.prepared(engine, state, None, options)
    plain = "exact" if way.nothing else way.search.plan.way
    graph = data.graph if data is not None else None
    graph_bytes = 0
    if graph is not None:
        rows = int(np.sum(graph.levels[: graph.n], dtype=np.int64))
        graph_bytes = graph.n * (graph.links[0].nbytes + 5) + rows * 2 * graph.links.shape[1]
    dim, settings = head.dim or 0, head.settings
    coded = min(dim, quantization.truncate_dim or dim)
    code_bytes = 8 * data.quantizer.words if data is not None else -(-coded // 64) * 8
    disk, catalogue = store.disk_bytes()
    return CollectionInfo(
        path=None if engine.path is None else str(engine.path),
        collection=engine.name,
        count=head.n_live,
        deleted=head.n_slots - head.n_live,
        dim=head.dim,
        distance=settings["distance"],
        originals=settings["originals"],
        quantization=quantization,
        hnsw=engine.hnsw,
        search=options.in_use(head.n_live),
        embedding_model=settings["embedding_model"],
        read_only=store.read_only,
        code_bytes=code_bytes,
        original_bytes=dim * VALUE_BYTES[settings["originals"]],
        vector_bytes=dim * 4,
        compression=dim * 4 / code_bytes if code_bytes else 0.0,
        memory_bytes=head.n_slots * code_bytes + graph_bytes,
        way=plain,
        linked=0 if data is None else data.linked,
        graph_bytes=graph_bytes,
        disk_bytes=disk,
        catalogue_bytes=catalogue,
        generation=head.generation,
        format_version=head.format_version,
        choice=engine.encoder.choice,
        columns={key: column.nbytes for key, column in state.columns.items()},
        recall=health_of(engine, plain),
        kernels=kernels_state(),
        text_index=text_upkeep.described(head.settings),
        recent_bytes=state.recent.n_bytes,
        compact_due=graph_bytes > 0 and 8 * (head.n_slots - head.n_live) > head.n_live,
    )


def html_of(engine: "Engine", title: str) -> str:
    """A collection for a notebook: its settings, nothing of its documents."""
    rows = [("", title)]
    if not engine.closed and not engine.lifecycle.closed:
        head = engine.store.head
        quantization = engine.encoder.in_use(engine.query_encoding)
        rows += [
            ("documents", f"{engine.publisher.count:,}"),
            ("dimension", "of the first vectors" if head.dim is None else f"{head.dim:,}"),
            ("distance", engine.distance),
            ("codes", f"{quantization.encoding} ({quantization.estimator})"),
            ("originals", head.settings["originals"]),
            ("model", head.settings["embedding_model"] or "not known"),
        ]
    cells = "".join(f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>" for name, value in rows)
    return f"<table>{cells}</table>"


def verify(engine: "Engine") -> VerifyReport:
    """Read everything of one commit and compare it with its checksums and counts; writers go on, but in memory."""
    store, publisher = engine.store, engine.publisher
    store.check_place()
    try:
        for _ in range(_TRIES if store.folder is not None else 0):  # until nobody commits between the two lines
            commit = publisher.at_one_commit(lambda state: (state.head, files_of(store)))
            with Block() as block, store.snapshot(block) as seq:
                if seq == commit[0].seq:
                    return _report(problems_of(store, commit, words=True))
        return _report(publisher.at_one_commit(lambda _: problems_of(store, words=True)))
    except (CorruptionError, StorageError) as error:
        return VerifyReport(False, [str(error)], 0, 0)


def _report(found: tuple[list[str], int, int]) -> VerifyReport:
    return VerifyReport(not found[0], *found)
