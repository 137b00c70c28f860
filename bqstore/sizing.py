"""How much memory, disk and time a collection will take, before there is one: plain functions of its settings.

Bytes follow from the arrays and files (`storage/FORMAT.md`); a test compares them with stores that it builds. Times are
estimated from a few that were measured (see ``MEASURED`` and docs/scaling.md), and from their growth between 10,000 and
1,000,000 vectors. What a cluster takes is estimated by Qdrant's own rule and the ratio in docs/benchmarks.md. It opens
nothing and measures nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from .arguments import check_choice, check_int
from .config import ENCODINGS, MAX_DIM, ORIGINALS, VALUE_BYTES

MEASURED: Final = (
    "bytes of stores of 10,000 and 100,000 vectors of 128 to 1,536 dimensions; times on one thread of an AMD EPYC at "
    "100,000 x 1,536; their growth from 10,000 to 1,000,000 vectors. Beyond that all is reckoned"
)
MACHINES: Final = tuple(gigabytes * 10**9 for gigabytes in (4, 8, 16, 24, 32, 64, 128, 256, 512, 1024))

_PLANES = {"one_bit": 1.0, "one_and_half_bits": 1.5, "two_bits": 2.0, "four_bits": 4.0}
_MOST_SLOTS = 2**31 - 1  # ordinals are int32

# ---- bytes
_NODE = 9  # of a node of the graph beside its links: its first row, level, and the node that it is a copy of
_ROW = 9  # of a slot: its rid, and whether it is live
_ID = 8  # of an id in memory beside its bytes: where it ends
_PROCESS = 200_000_000  # Python, numpy, numba and the compiled kernels
_CATALOGUE = 42  # of a row of SQLite beside its id, which is in an index, too, and its text and metadata
_PAGE, _MOST_WASTE = 4096, 1.15  # of SQLite; a page is not filled where the next row is long
_SPARE = 0.1  # of a machine's memory, for the system and what else runs

# ---- times, in microseconds of one thread, at 100,000 x 1,536 and one bit
_AT, _AT_WORDS = 100_000, 25
_CODE, _WORD = 10.0, 0.3  # the parts of a distance, fixed and for each word of a code: `index.planner`
_LINK = 40.0
_ADD, _ADD_VALUE, _ADD_BYTE = 6.0, 0.027, 0.003  # checking, encoding and writing: fixed, a value, a byte of a document
_CALL, _WALK, _RESCORE = 8.5, 17.0, 9.5  # a search at recall .95: Python, the walk, 28 originals that are cached
_CANDIDATES = 28  # originals that such a search reads
_MORE_AT_99 = 1.55  # times as long at recall .99
# For ten times the vectors: up to 100,000 and up to 1,000,000 as measured at 128 dimensions on a busy machine; and
# beyond, where more distances (1.4 times) and hardly slower ones are reckoned
_LINK_GROWTH, _WALK_GROWTH = (1.1, 1.6, 1.4), (1.44, 2.0, 1.5)
DISK_READS: Final = 50_000  # random reads a second, of a local NVMe

# ---- a cluster
_QDRANT_ID = 32  # bytes of a point's id and version
_QDRANT_SPARE = 1.5  # Qdrant's rule: half as much again for indexes, versions, and segments that are being optimized
_QDRANT_SLOWER = 3.55  # times our queries' time at recall .95: docs/benchmarks.md
_FEWEST_NODES, _SHARDS_OF_A_NODE = 3, 2  # Raft goes on without one of three; and shards that can move to more nodes
_MOST_NODES = 1000


@dataclass(frozen=True)
class Setup:
    """A collection that does not exist yet.

    Parameters
    ----------
    vectors, dim : int
    encoding, originals, m      as in `open`; codes of one, two and four bits are RaBitQ's, 8 bytes more than signs
    id_bytes : int              of an id on an average; ids that nobody gave have 36
    document_bytes : int        of a text and its metadata as JSON, on an average

    >>> from bqstore.sizing import Setup, memory
    >>> memory(Setup(1_000_000, 1536))["codes"]
    200000000
    """

    vectors: int
    dim: int
    encoding: str = "one_bit"
    originals: str = "float32"
    m: int = 16
    id_bytes: int = 36
    document_bytes: int = 0

    def __post_init__(self) -> None:
        check_int("vectors", self.vectors, 1, 10**12)
        check_int("dim", self.dim, 1, MAX_DIM)
        check_choice("encoding", self.encoding, ENCODINGS)
        check_choice("originals", self.originals, ORIGINALS)
        check_int("m", self.m, 2, 512)
        check_int("id_bytes", self.id_bytes, 1, 10_000)
        check_int("document_bytes", self.document_bytes, 0, 10**9)


def code_words(setup: Setup) -> int:
    """64-bit words of one code."""
    if setup.encoding == "one_and_half_bits":
        return -(-(setup.dim + -(-setup.dim // 2)) // 64)
    return int(_PLANES[setup.encoding]) * -(-setup.dim // 64) + 1


def links_bytes(setup: Setup) -> float:
    """Bytes of one node of the graph: links of level 0, its share of those of upper levels, and what is beside them."""
    return 8 * setup.m + 4 * setup.m / (setup.m - 1) + _NODE


def memory(setup: Setup) -> dict[str, int]:
    """Bytes in memory by part; no columns of filters, which take 1 to 50 bytes a document each."""
    n = setup.vectors
    return {
        "codes": n * 8 * code_words(setup),
        "graph": round(n * links_bytes(setup)),
        "ids": n * (setup.id_bytes + _ID),
        "rows": n * _ROW,
        "process": _PROCESS,
    }


def memory_while(setup: Setup) -> dict[str, int]:
    """Bytes in memory while searching; at most while adding, when the largest array is copied into a longer one; and
    at most while compacting, when the next generation is beside this one."""
    parts = memory(setup)
    resident = sum(parts.values())
    largest = max(parts["codes"], setup.vectors * 8 * setup.m)
    twice = resident + parts["codes"] + parts["graph"]
    return {"searching": resident, "adding": resident + largest, "compacting": twice}


def disk(setup: Setup) -> dict[str, int]:
    """Bytes on disk by part; compaction and a backup take as much again."""
    n, value = setup.vectors, VALUE_BYTES[setup.originals]
    ids = setup.id_bytes + _ID
    document = setup.document_bytes
    waste = min(_MOST_WASTE, 1 / (1 - min(document, _PAGE) / (1.5 * _PAGE)))
    return {
        "originals": n * -(-(32 + setup.dim * value) // 32) * 32 if value else 0,
        "codes": n * (16 + 8 * code_words(setup)),
        "snapshot": round(n * (links_bytes(setup) + ids)),
        "documents": round(n * (_CATALOGUE + 2 * setup.id_bytes + document) * waste),
    }


def _growth(vectors: int, factors: tuple[float, float, float]) -> float:
    """How many times as long as at 100,000; the factors are those of `_LINK_GROWTH`."""
    tens = math.log10(max(vectors, 1000) / _AT)
    below, to_a_million, beyond = min(tens, 0.0), min(max(tens, 0.0), 1.0), max(tens - 1.0, 0.0)
    return float(factors[0] ** below * factors[1] ** to_a_million * factors[2] ** beyond)


def _distance(setup: Setup) -> float:
    """A distance of the graph, as a multiple of one of 1,536 dimensions at one bit."""
    return (_CODE + _WORD * code_words(setup)) / (_CODE + _WORD * _AT_WORDS)


def build_seconds(setup: Setup, cores: int) -> float:
    """From the first `add` to the last node that is linked; without the time that embedding takes."""
    linking = _LINK * _distance(setup) * _growth(setup.vectors, _LINK_GROWTH) / max(1, cores)
    adding = _ADD + _ADD_VALUE * setup.dim + _ADD_BYTE * setup.document_bytes
    return setup.vectors * (adding + linking) / 1e6


def query_seconds(setup: Setup) -> dict[str, float]:
    """A search for ten on one thread, its originals in the page cache, at a recall of .95 and of .99."""
    walk = _WALK * _distance(setup) * _growth(setup.vectors, _WALK_GROWTH)
    rescore = _RESCORE * setup.dim / 1536 if setup.originals != "none" else 0.0
    seconds = (_CALL + walk + rescore) / 1e6
    return {"0.95": seconds, "0.99": _MORE_AT_99 * seconds}


def queries_per_second(setup: Setup, machine: int, cores: int, disk_reads: int = DISK_READS) -> tuple[float, float]:
    """On all cores of a machine with so many bytes of memory, at recall .95; and the share of the originals for which
    the memory that is left has no room. These are read from the disk, which then may be what limits."""
    missed = _missed(disk(setup)["originals"], machine * (1 - _SPARE) - memory_while(setup)["searching"])
    of_disk = disk_reads / (_CANDIDATES * missed) if missed else math.inf
    return min(cores / query_seconds(setup)["0.95"], of_disk), missed


def _missed(originals: float, left: float) -> float:
    return max(0.0, 1 - max(0.0, left) / originals) if originals else 0.0


def fits(setup: Setup, machine: int) -> bool:
    """Whether a machine with so many bytes of memory can take the collection, also while it is added to."""
    return setup.vectors <= _MOST_SLOTS and memory_while(setup)["adding"] <= machine * (1 - _SPARE)


def largest(setup: Setup, machine: int) -> int:
    """How many vectors of such a collection a machine with so many bytes of memory can take."""
    one = Setup(10**9, setup.dim, setup.encoding, setup.originals, setup.m, setup.id_bytes, setup.document_bytes)
    each = (memory_while(one)["adding"] - _PROCESS) / 1e9
    return max(0, min(_MOST_SLOTS, int((machine * (1 - _SPARE) - _PROCESS) / each)))


def smallest_machine(setup: Setup) -> int | None:
    """The memory of the smallest usual machine that takes the collection; None: not one of them does."""
    return next((machine for machine in MACHINES if fits(setup, machine)), None)


@dataclass(frozen=True)
class Cluster:
    """What Qdrant takes for the same collection: codes and graph in memory, originals on disk."""

    nodes: int
    shards: int
    replicas: int
    node_memory: int
    memory_of_a_node: int
    disk_of_a_node: int
    queries_per_second: float


def cluster(setup: Setup, qps: float, node_memory: int, cores: int, replicas: int = 2) -> Cluster:
    """The smallest cluster of nodes with so many bytes of memory and so many cores that holds it and answers ``qps``.

    At least three nodes, each shard on two of them, so that one of them may fail.
    """
    bits = setup.dim * _PLANES[setup.encoding] / 8
    point = (bits + 8 * setup.m + 4 * setup.m / (setup.m - 1) + _QDRANT_ID) * _QDRANT_SPARE
    on_disk = setup.dim * 4 + point + setup.id_bytes + setup.document_bytes
    usable = node_memory * (1 - _SPARE)
    nodes = max(_FEWEST_NODES, replicas, math.ceil(setup.vectors * replicas * point / usable))
    shards = _SHARDS_OF_A_NODE * nodes
    part = Setup(-(-setup.vectors // shards), setup.dim, setup.encoding, setup.originals, setup.m)
    work = shards * query_seconds(part)["0.95"] * _QDRANT_SLOWER  # a query asks every shard, so that more cost more
    while True:
        copies = max(replicas, -(-nodes // shards))  # more nodes help by more copies of each shard
        held, filed, vectors = (setup.vectors * copies * each / nodes for each in (point, on_disk, 4 * setup.dim))
        missed = _missed(vectors, usable - held)
        of_disks = nodes * DISK_READS / (shards * _CANDIDATES * missed) if missed else math.inf
        answered = min(nodes * cores / work, of_disks)
        if answered >= qps or nodes >= _MOST_NODES:
            return Cluster(nodes, shards, copies, node_memory, round(held), round(filed), answered)
        nodes += max(1, nodes // 20)
