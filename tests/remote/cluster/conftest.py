"""Clusters for tests, and the table of what was acknowledged and found, printed at the end of the run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from .life import ROWS, Life
from .nodes import Cluster, cluster_of


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes that the tests of a module share, and leave running."""
    with cluster_of(3, tmp_path_factory.mktemp("cluster")) as made:
        yield made


@pytest.fixture
def cluster(shared: Cluster) -> Cluster:
    """The same, whole again after the test before."""
    for node in shared.nodes:
        if node.process is None:
            node.start(shared.nodes[0])
    for node in shared.nodes:
        node.wait()
    shared.settle()
    return shared


@pytest.fixture
def life(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Life]:
    """Writers and searchers on a collection of their own: six shards, each on two nodes."""
    name = request.node.name.removeprefix("test_")[:60]
    made = Life(cluster, name)
    try:
        yield made
    finally:
        made.stop()
    made.remove()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The table."""
    if ROWS:
        terminalreporter.write_sep("-", "what was acknowledged, and found afterwards")
        for row in ["| what happened | acknowledged | found | searches | of which missed | errors | slowest |", *ROWS]:
            terminalreporter.write_line(row)
