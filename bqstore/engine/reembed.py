"""Another embedding model without downtime: all texts are embedded again, and swapped in by one commit.

Until then searches answer from the old vectors, and documents are added and deleted as ever. New vectors are kept on
disk batch by batch (`storage/staging.py`), so that the next call goes on where an interrupted one was. What was added
meanwhile is embedded in further rounds, and what was added during the last one under the lock. The graph is linked
after the commit, when others can write again; until then codes are scanned.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..config import Quantization, check_truncated
from ..errors import EmbeddingError, InvalidInputError
from ..index import METRICS
from ..progress import Progress
from ..results.outcomes import ReembedPlan, ReembedReport
from ..storage.staging import Staging, staging
from ..validate import vectors_in
from . import choose_encoding, maintenance, writes
from .embedding_model import checked_model
from .state import State
from .writes import keep_misses

if TYPE_CHECKING:
    from .engine import Engine

_ROUNDS = 20  # at most; what others have added during the last one is embedded under the lock
_AT_ONCE = 500


def plan(engine: "Engine", embedder: Any) -> ReembedPlan:
    """What `reembed` would do and cost; nothing is sent or written."""
    model = _model_of(embedder)
    state = engine.publisher.current()
    with staging(engine.store, model, alone=False) as stage:
        stage.drop_changed(state.head.seq)
        todo = _missing(state, stage)
        done, characters, without = len(_live(state)) - len(todo), 0, []

        def texts() -> Iterator[str]:
            nonlocal characters
            for _, id_, text in _texts(engine, todo):
                if not text:
                    without.append(id_)
                    continue
                characters += len(text)
                yield text

        estimate = embedder.estimate(texts()) if hasattr(embedder, "estimate") else None
        if estimate is None:
            for _ in texts():
                pass
    return ReembedPlan(
        model,
        len(todo),
        done,
        characters,
        tuple(without),
        getattr(estimate, "cached", None),
        getattr(estimate, "tokens", None),
        getattr(estimate, "price", None),
    )


def reembed(engine: "Engine", embedder: Any, batch: int) -> ReembedReport:
    """Embed all texts with another model, and replace all vectors in one commit."""
    model = _model_of(embedder)
    embedded = 0
    writes.expire(engine)
    with staging(engine.store, model) as stage:
        state = engine.publisher.current()
        stage.drop_changed(state.head.seq)
        resumed = len(stage)
        _refuse_without_text(engine, _missing(state, stage))
        with Progress("embedding") as progress:
            for _ in range(_ROUNDS):
                state = engine.publisher.current()
                stage.drop_changed(state.head.seq)
                todo = _missing(state, stage)
                if not todo:
                    break
                for at in range(0, len(todo), batch):
                    embedded += _embed(engine, embedder, stage, todo[at : at + batch])
                    progress(len(stage), len(_live(state)))

        before = _choose(engine, stage, engine.store.head.settings)  # before the lock: it takes as long as the commit

        def swap() -> None:
            nonlocal embedded
            state = engine.publisher.follow()
            stage.drop_changed(state.head.seq)
            rest = _missing(state, stage)
            for at in range(0, len(rest), batch):
                embedded += _embed(engine, embedder, stage, rest[at : at + batch])
            _swap(engine, stage, model, before)
            stage.remove()  # under the lock: after it another thread may close the collection

        engine.recode(swap)
        engine.graph.settle()
        keep_misses(engine)
    head = engine.store.head
    return ReembedReport(model, head.dim, head.n_live, embedded, resumed)


_Choice = tuple[Quantization, choose_encoding.Chosen]


def _choose(engine: "Engine", stage: Staging, settings: Mapping[str, Any]) -> _Choice | None:
    """The quantization that the settings ask for, and what was chosen on staged vectors; None if there are none."""
    wanted, live = Quantization(**settings["quantization"]), _live(engine.publisher.state)
    live = live[[rid in stage for rid in live.tolist()]]
    if not len(live) or stage.dim is None:
        return None
    check_truncated(wanted.truncate_dim, stage.dim)
    if len(live) > choose_encoding.TRAINED_ON:
        live = np.sort(np.random.default_rng(0).choice(live, choose_encoding.TRAINED_ON, replace=False))
    return wanted, choose_encoding.choose(stage.vectors(live), wanted, METRICS[settings["distance"]])


def _swap(engine: "Engine", stage: Staging, model: str, before: _Choice | None) -> None:
    """Make a new generation of the staged vectors; under the lock."""
    store, state = engine.store, engine.publisher.state
    settings = {**store.head.settings, "embedding_model": model}
    if not len(_live(state)):
        head = store.clear()
        store.put_settings({**head.settings, "embedding_model": model}, stage.dim)
        return
    if before is None or before[0] != Quantization(**settings["quantization"]):  # changed meanwhile
        before = _choose(engine, stage, settings)
    assert before is not None, "each document has a vector here"
    wanted, chosen = before
    coded = chosen.quantizer, chosen.settings(settings, wanted)
    maintenance.recode(engine.core, *coded, stage.vectors, stage.dim, link_later=True)


def _embed(engine: "Engine", embedder: Any, stage: Staging, rids: list[int]) -> int:
    """Embed the texts of documents and stage their vectors, without those deleted meanwhile; how many there were."""
    rows = {row.rid: row for row in engine.store.rows("rid", rids)}
    some = [rid for rid in rids if rid in rows]
    if not some:
        return 0
    texts = [rows[rid].text or "" for rid in some]
    if not all(texts):
        raise _without_text([rows[rid].id for rid in some if not rows[rid].text])
    settings = engine.store.head.settings
    vectors = vectors_in(embedder.embed(texts), stage.dim, settings["distance"], settings["originals"])
    if len(vectors) != len(texts):
        raise EmbeddingError(f"the embedder returned {len(vectors):,} vectors for {len(texts):,} texts")
    stage.add(some, texts, vectors)
    return len(some)


def _live(state: State) -> NDArray[np.int64]:
    """The rids of a state's documents, ascending."""
    return state.rids[: state.n][state.live]


def _missing(state: State, stage: Staging) -> list[int]:
    return [rid for rid in _live(state).tolist() if rid not in stage]


def _texts(engine: "Engine", rids: list[int]) -> Iterator[tuple[int, str, str | None]]:
    for at in range(0, len(rids), _AT_ONCE):
        for row in engine.store.rows("rid", rids[at : at + _AT_ONCE]):
            yield row.rid, row.id, row.text


def _refuse_without_text(engine: "Engine", rids: list[int]) -> None:
    without = [id_ for _, id_, text in _texts(engine, rids) if not text]
    if without:
        raise _without_text(without)


def _without_text(ids: list[str]) -> InvalidInputError:
    return InvalidInputError(
        f"{len(ids):,} documents have no text to embed, such as {ids[0]!r}; add them again with their texts, or delete "
        "them; nothing was changed"
    )


def _model_of(embedder: Any) -> str:
    for name in ("model", "embed"):
        if not hasattr(embedder, name):
            raise InvalidInputError(
                f"embedder is of type {type(embedder).__name__}, which has no {name!r}; expected a bqstore.Embedder, "
                "such as OpenAIEmbedder, or CachedEmbedder around any other model, LangChain's too"
            )
    return checked_model(embedder.model, "embedder.model")
