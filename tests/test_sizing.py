"""`bqstore.sizing`: the bytes of stores that are built here are those that were reckoned, within a few percent."""

import numpy as np
import pytest

import bqstore
from bqstore import sizing
from bqstore.sizing import Setup

N = 2200  # from 2,048 on there is a graph
KINDS = {  # encoding, estimator, originals, dim
    "one bit": ("one_bit", "rabitq", "float32", 320),
    "levels": ("one_and_half_bits", "sign", "float16", 200),
    "two bits": ("two_bits", "rabitq", "int8", 100),
    "four bits": ("four_bits", "rabitq", "none", 64),
}


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_of_a_store_are_those_that_were_reckoned(tmp_path, kind):
    encoding, estimator, originals, dim = KINDS[kind]
    rng = np.random.default_rng(0)
    texts = ["x" * length for length in rng.integers(0, 1200, N)]
    metadatas = [{"source": f"file-{n % 10}.md", "passage": n % 100} for n in range(N)]
    quantization = bqstore.Quantization(encoding, estimator=estimator)
    with bqstore.open(tmp_path, quantization=quantization, originals=originals, target_recall=0) as col:
        col.add(rng.standard_normal((N, dim)), ids=[f"{n:036d}" for n in range(N)], texts=texts, metadatas=metadatas)
        col.flush()
        info = col.info()
        ids = sum(map(len, col.ids())) / N
    written = sum(map(len, texts)) // N + len('{"source":"file-1.md","passage":10}')
    setup = Setup(N, dim, encoding, originals, id_bytes=round(ids), document_bytes=written)
    memory, disk = sizing.memory(setup), sizing.disk(setup)
    assert info.linked == N and info.code_bytes * N == memory["codes"]
    assert memory["graph"] == pytest.approx(info.graph_bytes + 4 * N, rel=0.03)  # which node each is a copy of
    files = {path.name.partition("-")[0]: path.stat().st_size for path in (tmp_path / "default").iterdir()}
    assert files.get("vectors", 0) == pytest.approx(disk["originals"], abs=64)
    assert files["codes"] == pytest.approx(disk["codes"], rel=0.06)  # beside a header of a few thousand bytes
    assert files["snap"] == pytest.approx(disk["snapshot"], rel=0.06)
    assert info.catalogue_bytes == pytest.approx(disk["documents"], rel=0.06)
    assert info.disk_bytes == pytest.approx(sum(disk.values()), rel=0.05)


def test_more_takes_more():
    small, large = (Setup(n, 1536) for n in (10**6, 10**8))
    for reckon in (sizing.memory, sizing.disk, sizing.memory_while):
        assert all(a <= b for a, b in zip(reckon(small).values(), reckon(large).values(), strict=True))
    assert sizing.build_seconds(large, 8) > 100 * sizing.build_seconds(small, 8)
    assert sizing.build_seconds(small, 8) < sizing.build_seconds(small, 1)
    assert sizing.query_seconds(large)["0.95"] > sizing.query_seconds(small)["0.95"]


def test_times_at_what_was_measured():
    at = Setup(100_000, 1536)
    assert sizing.query_seconds(at)["0.95"] == pytest.approx(1 / 28_500, rel=0.02)
    assert sizing.query_seconds(at)["0.99"] == pytest.approx(1 / 18_500, rel=0.02)


@pytest.mark.parametrize("machine", [8e9, 24e9, 64e9])
def test_the_largest_set_fits_and_one_more_does_not(machine):
    setup = Setup(1, 1536)
    most = sizing.largest(setup, machine)
    assert sizing.fits(Setup(most, 1536), machine) and not sizing.fits(Setup(most + 100, 1536), machine)
    assert sizing.smallest_machine(Setup(most, 1536)) == machine


def test_one_machine_ends_where_ordinals_do():
    assert sizing.largest(Setup(1, 8), 10**15) == 2**31 - 1
    assert not sizing.fits(Setup(2**31, 8), 10**15) and sizing.smallest_machine(Setup(10**11, 1536)) is None


def test_a_cluster_holds_it_and_answers():
    setup = Setup(500_000_000, 1536)
    found = sizing.cluster(setup, 200, 64 * 10**9, 8)
    assert found.nodes > 3 and found.shards >= found.nodes and found.replicas == 2
    assert found.memory_of_a_node <= 64e9 and found.queries_per_second >= 200
    asked = 10 * found.queries_per_second
    more = sizing.cluster(setup, asked, 64 * 10**9, 8)
    assert more.nodes > found.nodes and more.queries_per_second >= asked
    assert sizing.cluster(Setup(1000, 8), 0, 8 * 10**9, 2).nodes == 3


def test_originals_that_memory_has_no_room_for_are_read_from_the_disk():
    setup = Setup(30_000_000, 1536)
    few, missed = sizing.queries_per_second(setup, 24 * 10**9, 8)
    many, none = sizing.queries_per_second(setup, 10**12, 8)
    assert few < many and missed > 0.9 and none == 0
    assert sizing.queries_per_second(Setup(30_000_000, 1536, originals="none"), 24 * 10**9, 8)[1] == 0


@pytest.mark.parametrize("wrong", [{"vectors": 0}, {"dim": 0}, {"encoding": "auto"}, {"originals": "int4"}, {"m": 1}])
def test_settings_that_do_not_exist_are_refused(wrong):
    with pytest.raises(bqstore.InvalidInputError):
        Setup(**{"vectors": 10, "dim": 8} | wrong)
