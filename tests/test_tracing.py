"""Spans of OpenTelemetry: which there are, what they tell and never tell, and that nothing is imported for them."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import bqstore
from bqstore import tracing

from .embeddings.fake_server import serve
from .pages import ROOT, blocks_of, check_printed

SECRET = "hunter2"


class Spans:
    """What was exported, in the order in which it ended."""

    def __init__(self, exporter: Any) -> None:
        self._exporter = exporter

    @property
    def names(self) -> list[str]:
        return [each.name for each in self._exporter.get_finished_spans()]

    def of(self, name: str) -> Any:
        (found,) = [each for each in self._exporter.get_finished_spans() if each.name == name]
        return found

    def clear(self) -> None:
        self._exporter.clear()

    def __str__(self) -> str:
        return "\n".join(each.to_json() for each in self._exporter.get_finished_spans())


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spans]:
    """The spans of a program that has set a provider; not that of this process, which can be set but once."""
    pytest.importorskip("opentelemetry.sdk", reason="pip install opentelemetry-sdk")
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    yield Spans(exporter)
    provider.shutdown()


def vectors(n: int, dim: int = 8) -> Any:
    return np.random.default_rng(1).standard_normal((n, dim)).astype(np.float32)


def test_calls_have_spans_by_the_conventions_for_databases(spans: Spans, tmp_path: Path) -> None:
    with bqstore.open(tmp_path / "store", "notes") as col:
        col.add(vectors(20), ids=[str(i) for i in range(20)])
        col.add(vectors(1), ids=["one"])
        col.search(vectors(1)[0], k=3, filter={"page": 1})
        col.search(vectors(1)[0], 4)
        col.search_batch(vectors(5), k=2)
        col.search_ids(vectors(6), 2)
        col.delete(["1"])
        col.compact()
    assert spans.names == ["add notes"] * 2 + ["search notes"] * 4 + ["compact notes"]
    found = list(spans._exporter.get_finished_spans())
    common = {"db.system.name": "bqstore", "db.collection.name": "notes", "db.namespace": "store"}
    told = [{key: value for key, value in each.attributes.items() if key not in common} for each in found]
    assert all(common.items() <= dict(each.attributes).items() for each in found)
    assert told == [
        {"db.operation.name": "add", "db.operation.batch.size": 20},
        {"db.operation.name": "add"},
        {
            "db.operation.name": "search",
            "bqstore.search.filtered": True,
            "bqstore.search.k": 3,
            "db.response.returned_rows": 0,
        },
        {
            "db.operation.name": "search",
            "bqstore.search.filtered": False,
            "bqstore.search.k": 4,
            "db.response.returned_rows": 4,
        },
        {
            "db.operation.name": "search",
            "bqstore.search.filtered": False,
            "bqstore.search.k": 2,
            "db.operation.batch.size": 5,
        },
        {
            "db.operation.name": "search",
            "bqstore.search.filtered": False,
            "bqstore.search.k": 2,
            "db.operation.batch.size": 6,
        },
        {"db.operation.name": "compact"},
    ]
    assert {each.kind.name for each in found} == {"CLIENT"}
    assert found[0].instrumentation_scope.version == bqstore.__version__


def test_searches_of_a_searcher_had_no_spans(spans: Spans) -> None:
    with bqstore.open(collection="notes") as col:
        col.add(vectors(20))
        spans.clear()
        col.searcher(3, filter={"page": 1}).search(vectors(1)[0])
        col.searcher(4).search_ids(vectors(1)[0])
    assert spans.names == ["search notes"] * 2
    told = [
        [each.attributes.get(f"bqstore.search.{key}") for key in ("filtered", "k")]
        for each in spans._exporter.get_finished_spans()
    ]
    assert told == [[True, 3], [False, 4]]


def test_a_provider_that_cannot_be_a_key_failed_every_search(spans: Spans) -> None:
    provider = sys.modules["opentelemetry.trace"].get_tracer_provider()
    provider.__class__ = type("Compared", (type(provider),), {"__eq__": lambda self, other: self is other})
    with pytest.raises(TypeError, match="unhashable"):
        hash(provider)
    with bqstore.open() as col:
        col.add(vectors(2))
        assert len(col.search(vectors(1)[0])) == 2
    assert spans.names == ["add default", "search default"]


def test_a_provider_that_cannot_be_loaded_failed_every_search(monkeypatch: pytest.MonkeyPatch) -> None:
    trace = pytest.importorskip("opentelemetry.trace", reason="pip install opentelemetry-api")

    def fails() -> None:
        raise StopIteration  # as of a name in OTEL_PYTHON_TRACER_PROVIDER that is not known

    monkeypatch.setattr(trace, "get_tracer_provider", fails)
    with bqstore.open() as col:
        col.add(vectors(2))
        assert len(col.search(vectors(1)[0])) == 2


def test_a_stand_in_for_the_package_failed_the_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", ModuleType("opentelemetry"))
    assert not tracing._is_installed()


def test_linking_is_a_span_within_the_add_that_links(spans: Spans) -> None:
    bqstore.warm_up()
    with bqstore.open() as col:
        col.add(vectors(2100))
    assert spans.names[-1] == "add default" and set(spans.names[:-1]) == {"link"}
    outer = spans.of("add default")
    assert "db.namespace" not in outer.attributes  # in memory
    linked = [each for each in spans._exporter.get_finished_spans() if each.name == "link"]
    assert all(each.parent.span_id == outer.context.span_id and each.kind.name == "INTERNAL" for each in linked)
    assert all(each.attributes["db.operation.name"] == "link" for each in linked)


def test_requests_for_embeddings_have_spans_within_that_of_the_caller(spans: Spans) -> None:
    pytest.importorskip("openai")
    with serve() as server:
        tracer = sys.modules["opentelemetry.trace"].get_tracer_provider().get_tracer("program")
        key = f"sk-{SECRET}"
        embedder = bqstore.OpenAIEmbedder(api_key=key, model="own", base_url=server.url, cache=False)
        with embedder, tracer.start_as_current_span("question"):
            embedder.embed([SECRET, "two"])
    made = spans.of("embeddings own")
    assert made.parent.span_id == spans.of("question").context.span_id
    assert dict(made.attributes) == {
        "gen_ai.operation.name": "embeddings",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "own",
        "bqstore.texts": 2,
    }
    assert SECRET not in str(spans)


class Lengths:
    model = "lengths"

    def embed(self, texts: list[str]) -> list[list[float]]:
        return [[1.0, len(text)] for text in texts]

    embed_query = embed


def test_another_model_behind_the_cache_has_spans_for_what_it_is_asked(spans: Spans, tmp_path: Path) -> None:
    with bqstore.CachedEmbedder(Lengths(), cache=tmp_path) as embedder:
        for _ in range(2):
            embedder.embed(["one", SECRET])
    assert spans.names == ["embeddings lengths"]  # the second time nothing is asked
    assert spans.of("embeddings lengths").attributes["gen_ai.provider.name"] == "tests"
    assert SECRET not in str(spans)


FAILING: dict[str, Callable[[Any], Any]] = {
    "search": lambda col: col.search(vectors(1)[0], filter={SECRET: {"$oops": SECRET}}),
    "other": lambda col: col.search([SECRET] * 8),
}


@pytest.mark.parametrize("name", FAILING)
def test_an_error_is_told_by_its_class_and_quotes_nothing(spans: Spans, name: str) -> None:
    with bqstore.open() as col:
        col.add(vectors(3), ids=[SECRET, "b", "c"], texts=[SECRET] * 3, metadatas=[{SECRET: SECRET}] * 3)
        with pytest.raises(bqstore.InvalidInputError):
            FAILING[name](col)
        col.search(vectors(1)[0], filter={SECRET: SECRET})
    failed = [each for each in spans._exporter.get_finished_spans() if not each.status.is_ok]
    assert [each.attributes["error.type"] for each in failed if each.status.status_code.name == "ERROR"] == [
        "bqstore.errors.InvalidInputError"
    ]
    assert SECRET not in str(spans)


def test_without_a_provider_there_are_no_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("opentelemetry.trace", reason="pip install opentelemetry-sdk")
    assert tracing._tracer() is None
    with tracing.span("add") as made:
        assert made is None


def test_the_page_shows_the_spans_that_there_are(tmp_path: Path) -> None:
    pytest.importorskip("opentelemetry.sdk", reason="pip install opentelemetry-sdk")
    (block,) = [each for each in blocks_of(ROOT / "docs" / "observability.md") if each.needs_tracing]
    program = [sys.executable, "-c", block.code]
    done = subprocess.run(program, cwd=tmp_path, check=True, capture_output=True, encoding="utf-8")
    check_printed(block, done.stdout)


def test_nothing_is_imported_for_spans_and_without_the_package_calls_are_left_as_they_are() -> None:
    program = (
        "import sys, importlib.util as util\n"
        "find = util.find_spec\n"
        "util.find_spec = lambda name, *more: None if name == 'opentelemetry' else find(name, *more)\n"
        "import bqstore\n"
        "from bqstore import tracing\n"
        "def method(): ...\n"
        "assert tracing.traced('search')(method) is method\n"
        "with bqstore.open() as col: col.add([[1.0, 0.0]]); col.search([1.0, 0.0])\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')], sys.modules\n"
        "tracing._INSTALLED = True\n"
        "assert tracing.traced('search')(method) is not method\n"
        "with bqstore.open() as col: col.add([[1.0, 0.0]])\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
