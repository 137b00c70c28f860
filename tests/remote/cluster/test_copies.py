"""A copy to a cluster and back that is killed in the middle, with a node killed meanwhile, and resumed."""

import json
import os
import subprocess
import sys

import numpy as np

import bqstore
from tests.conftest import HANGS, child, clustered

from .life import ROWS
from .nodes import NEEDS_PROGRAM, wait_for

pytestmark = NEEDS_PROGRAM

N = int(os.environ.get("QDRANT_COPIED", "3000"))
COPY = """
import json, sys
import bqstore
given = json.loads(sys.argv[1])
report = bqstore.copy(
    given["path"], given["collection"], to=given["to"], batch=given["batch"], journal=given["journal"],
    from_settings=given["from"], to_settings=given["made"],
)
print(json.dumps([report.ok, report.documents, report.copied, report.resumed, report.compared, report.recall,
    report.seconds]))
"""


def copied(journal, path, collection, to, killed_at=None, made=None, source=None):
    """Run a copy in a process of its own; killed once its journal says that so many are done."""
    given = {"path": str(path), "collection": collection, "to": str(to), "journal": str(journal)}
    given |= {"from": source or {}, "made": made or {}, "batch": max(200, N // 100)}

    def done():
        lines = journal.read_text().splitlines()[1:] if journal.exists() else []
        return bool(lines) and lines[-1].endswith("]") and json.loads(lines[-1])[0] >= killed_at

    command = [sys.executable, "-c", COPY, json.dumps(given)]
    with child(command, stdout=subprocess.PIPE, text=True) as process:
        if killed_at is not None:
            wait_for(lambda: done() or process.poll() is not None)
            process.kill()
        told = process.communicate(timeout=HANGS)[0]
    assert (process.returncode == -9) if killed_at is not None else (process.returncode == 0)
    if killed_at is not None:
        return None
    report = json.loads(told)
    assert report[:2] == [True, N] and report[2] + report[3] == N and report[3] >= N // 3, report
    return report


def test_a_copy_that_is_killed_is_resumed_through_another_node(cluster, tmp_path):
    """Each way, with an index of words; a node is dead while the second half goes to it."""
    words = ["pump", "fan", "E1042", "dog", "cat", "run", "fox", "lazy"]
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(words, 5)) + f" {i}" for i in range(N)]
    with bqstore.open(tmp_path / "store", "copied", text_index=True, index_metadata=["n"]) as col:
        col.add(clustered(N, 32), [f"id {i}" for i in range(N)], texts, [{"n": i} for i in range(N)])
    journal, first = tmp_path / "journal", cluster.nodes[0]
    there = {"shard_number": 6, "replication_factor": 2, "timeout": 60}
    far = first.address("copied")
    try:
        copied(journal, tmp_path / "store", "copied", far, killed_at=N // 3, made=there)
        cluster.nodes[2].kill()
        to = copied(journal, tmp_path / "store", "copied", far, made=there)
        cluster.nodes[2].start()
        cluster.nodes[2].wait()
        cluster.whole("copied")
        other = cluster.nodes[1].address("copied")
        copied(journal, other, "default", tmp_path / "back", killed_at=N // 3)
        back = copied(journal, other, "default", tmp_path / "back")
        with (
            bqstore.open(tmp_path / "store", "copied") as before,
            bqstore.open(tmp_path / "back", "copied") as after,
            bqstore.open(other) as col,
        ):
            for a, b in zip(before.scroll(with_vectors=True), after.scroll(with_vectors=True), strict=True):
                assert (a.id, a.text, a.metadata) == (b.id, b.text, b.metadata)
                np.testing.assert_allclose(a.vector, b.vector, rtol=1e-5, atol=1e-6)
            for query in clustered(5, 32, seed=3):
                lists = [[hit.id for hit in each.search(query, 10, exact=True)] for each in (before, col, after)]
                assert lists[0] == lists[1] == lists[2]
            found = [{hit.id for hit in each.search(k=20, text="E1042 17")[:1]} for each in (before, col)]
            assert found[0] == found[1]
        before, after = f"{to[3]} and {back[3]}", f"{to[6]:.0f} and {back[6]:.0f} s"
        what = f"a copy of {N} there and back, each killed (-9) with {before} done, a node dead meanwhile"
        ROWS.append(f"| {what} | {N} | {N} | | | none | {after} |")
    finally:
        first.post("/collections/copied", None, "DELETE")
