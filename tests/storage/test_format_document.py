"""FORMAT.md is enough to write a reader: here is one that knows nothing else, and it agrees with the collection."""

import hashlib
import json
import math
import re
import sqlite3
import struct
import zlib
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from bqstore.storage.sections import DTYPES

from .kit import StoreModel

# ---- the reader, from FORMAT.md


def sum64(data: bytes, first: int) -> int:
    words = struct.unpack(f"<{len(data) // 4}I", data)
    keys = ((((i + 1) * 0x9E3779B1) & 0xFFFFFFFF) | 1 for i in range(first, first + len(words)))
    return (0x627173746F726531 + sum(key * word for key, word in zip(keys, words, strict=True))) % 2**64


def crc_of(numbers: list, parts: list) -> int:
    lengths = ["-" if part is None else len(part) for part in parts]
    head = ",".join(str(n) for n in [*numbers, *lengths])
    return zlib.crc32((head + ":" + "".join(part or "" for part in parts)).encode())


def read_flat(path: Path, magic: bytes, head: dict, record_bytes: int, form: int) -> list[tuple[int, bytes]]:
    data = path.read_bytes()
    fields = struct.unpack("<8s6I2Q8xQ", data[:64])
    expected = (magic, 1, 64, head["dim"], form, record_bytes, 0, head["generation"], head["store_id"])
    assert fields == (*expected, sum64(data[:56], 0))
    records = []
    for slot in range(head["n_slots"]):
        record = data[64 + slot * record_bytes : 64 + (slot + 1) * record_bytes]
        checksum, rid = struct.unpack("<Qq", record[:16])
        assert checksum == sum64(record[8:], 2)
        records.append((rid, record[16:]))
    return records


def read_store(folder: Path) -> tuple[dict, dict]:
    """The head, and of each id: vector or None, code bits, text, metadata."""
    with closing(sqlite3.connect(f"file:{folder}/meta.db?mode=ro", uri=True)) as db:
        assert db.execute("PRAGMA application_id").fetchone() == (0x42515354,)
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
        form, body, crc = db.execute("SELECT format, body, crc FROM head").fetchone()
        assert form == 1 and zlib.crc32(body.encode()) == crc
        head, dead = json.loads(body), {rid for (rid,) in db.execute("SELECT rid FROM dead")}
        columns = "rid, seq, id, ref_doc_id, metadata, key_crc, text, private, crc"
        rows = {row[0]: row for row in db.execute(f"SELECT {columns} FROM rows")}
    if head["n_slots"] == 0:
        return head, {}
    dim, out = head["dim"], {}
    codes = read_flat(folder / f"codes-{head['generation']}.bin", b"BQSTcode", head, 16 + -(-dim // 64) * 8, 1)
    vectors = {}
    if head["settings"]["originals"] != "none":
        form = ["float32", "float16", "int8"].index(head["settings"]["originals"])
        kind, size = ["<f4", "<f2", "i1"][form], [4, 2, 1][form]
        length = -(-(32 + dim * size) // 32) * 32
        for rid, rest in read_flat(folder / f"vectors-{head['generation']}.bin", b"BQSTvecs", head, length, form):
            norm, scale = struct.unpack("<2f", rest[:8])
            vectors[rid] = np.frombuffer(rest[16 : 16 + dim * size], kind).astype("<f4") * np.float32(scale)
            assert abs(norm - np.linalg.norm(vectors[rid].astype(float))) <= 1e-6 * norm
            assert not any(rest[8:16]) and not any(rest[16 + dim * size :])
    assert head["n_live"] == len(rows) == len(codes) - len(dead)
    for rid, code in codes:
        if rid in dead:
            continue
        _, seq, id_, ref, metadata, key_crc, text, private, crc = rows[rid]
        assert crc == crc_of([rid, seq], [id_, text, metadata, private, ref])
        assert key_crc == crc_of([rid, seq], [id_, ref, metadata])
        bits = np.unpackbits(np.frombuffer(code, np.uint8), bitorder="little")
        assert not bits[dim:].any() and seq <= head["seq"] and rid < head["next_rid"]
        whole = json.loads(metadata) | json.loads(private or "{}") | ({"_bq_ref_doc_id": ref} if ref else {})
        out[id_] = (vectors.get(rid), bits[:dim], text, whole)
    return head, out


def lanes_sum(data: bytes) -> int:
    data += bytes(-len(data) % 8)
    words = struct.unpack(f"<{len(data) // 8}Q", data)
    lanes = [0] * min(4096, len(words))
    for i, word in enumerate(words):
        lane = lanes[i % 4096]
        lanes[i % 4096] = ((lane ^ (lane >> 29)) * 0x9E3779B97F4A7C15 + word) % 2**64
    return blake(struct.pack(f"<{len(lanes)}Q", *lanes))


def blake(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def read_snapshot(path: Path, head: dict) -> tuple[dict, dict]:
    """The numbers and the arrays of a snapshot that may be used at a head row."""
    data = path.read_bytes()
    magic, version, length, generation, store_id, n, seq, size, checksum = struct.unpack("<8s2I6Q", data[:64])
    assert (magic, version, length % 64, size) == (b"BQSTsnap", 1, 0, len(data))
    parts = sum64(data[:56], 0) + sum64(data[64:length], 16) - 0x627173746F726531
    assert checksum == parts % 2**64 and path.name == f"snap-{generation}-{seq}.bin"
    assert (generation, store_id) == (head["generation"], head["store_id"])
    assert n <= head["n_slots"] and seq <= head["seq"]
    table = json.loads(data[64:length].decode("ascii"))
    codes = (path.parent / f"codes-{generation}.bin").read_bytes()
    record = 16 + -(-head["dim"] // 64) * 8
    slots = [i * (n - 1) // 15 for i in range(16)] if n else []
    assert table["codes"] == blake(b"".join(codes[64 + slot * record :][:16] for slot in slots))
    arrays, end = {}, length
    for name, kind, shape, offset, checksum in sorted(table["sections"], key=lambda section: section[3]):
        long = math.prod(shape) * np.dtype(kind).itemsize
        assert offset % (4096 if long >= 4096 else 64) == 0 and not any(data[end:offset])
        assert lanes_sum(data[offset : offset + long]) == checksum
        arrays[name] = np.frombuffer(data[offset : offset + long], np.dtype(kind).newbyteorder("<")).reshape(shape)
        end = offset + long
    assert not any(data[end:]) and (len(data) - end) < 64
    return table["numbers"], arrays


# ---- its tests


@pytest.mark.parametrize("originals", ["float32", "float16", "int8", "none"])
@pytest.mark.parametrize("dim", [1, 12, 64, 65, 200])
@pytest.mark.parametrize("closed", [True, False], ids=["closed", "open"])
def test_a_reader_written_from_the_document_agrees(tmp_path, originals, dim, closed):
    import bqstore

    rng = np.random.default_rng(dim)
    with bqstore.open(tmp_path, originals=originals, distance="dot") as col:
        added = {}
        for step in range(3):
            vectors = rng.standard_normal((5, dim)).astype(np.float32)
            ids = [f"{step}-{i}" for i in range(4)] + ["same é"]
            metadata = [{"n": i, "_bq_x": [step], "_bq_ref_doc_id": f"doc {step}"} for i in range(4)] + [None]
            col.add(vectors, ids, [None, "", "text", "é\x00\n", "x" * 5000], metadata)
            added.update(zip(ids, vectors, strict=True))
            if step == 0:
                col.clear()
                added.clear()
        col.delete(["1-0"])
        col.update_metadata(["1-1"], {"new": None})
        head, found = read_store(tmp_path / "default") if not closed else (None, {})
        records = {r.id: r for r in col.get(list(added), with_vectors=originals != "none")}
    if closed:
        head, found = read_store(tmp_path / "default")
    assert found.keys() == records.keys() == added.keys() - {"1-0"}
    assert head["generation"] == 1 and head["settings"]["originals"] == originals
    for id_, (vector, bits, text, metadata) in found.items():
        assert (text, metadata) == (records[id_].text, records[id_].metadata)
        assert np.array_equal(bits, added[id_] > 0)
        if originals != "none":
            assert np.array_equal(vector, records[id_].vector)
        if originals == "float32":
            assert np.array_equal(vector, added[id_])


@pytest.mark.parametrize("compacted", [False, True])
def test_a_reader_of_snapshots_written_from_the_document_agrees(tmp_path, compacted):
    with StoreModel(tmp_path) as model:
        model.add(300)
        model.delete(40)
        if compacted:
            model.compact()
        head, rng = model.store.head, np.random.default_rng(0)
        arrays = {kind: rng.integers(0, 100, (40, 3)).astype(kind) for kind in sorted(DTYPES)}
        arrays |= {"long": rng.integers(0, 99, (3, 5000)), "none": np.zeros((0, 4), np.int32), "é": np.array(7)}
        model.store.write_snapshot(head.n_slots - 3, head.seq, {"a": -5, "é": 2**62}, arrays)
        model.add(5)
    raw, documents = read_store(tmp_path / "default")
    assert len(documents) == 265 and raw["generation"] == int(compacted)
    (path,) = (tmp_path / "default").glob("snap-*")
    numbers, found = read_snapshot(path, raw)
    assert numbers == {"a": -5, "é": 2**62} and found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype and np.array_equal(found[name], array)


def document() -> str:
    import bqstore.storage

    return (Path(bqstore.storage.__file__).parent / "FORMAT.md").read_text("utf-8")


def test_the_examples_of_the_document():
    text = document()
    keys = [f"{(((i + 1) * 0x9E3779B1) & 0xFFFFFFFF) | 1:#010x}" for i in (2, 3)]
    assert f"have the keys `{keys[0]}` and `{keys[1]}`" in text
    assert f"= {sum64(struct.pack('<2I', 1, 2), 2):#018x}" in text
    rest = struct.pack("<qQ", 7, 9)
    record = struct.pack("<Q", sum64(rest, 2)) + rest
    assert " ".join(record[i : i + 4].hex() for i in range(0, 24, 4)) in text
    assert f"of which the crc is {zlib.crc32('7,3,1,1,2,-,-:aé{}'.encode())}" in text
    assert f"of which the key_crc is {zlib.crc32(b'7,3,1,-,2:a{}')}" in text
    for words in ([1, 2], [1, *[0] * 4095, 2]):
        assert f"`{lanes_sum(struct.pack(f'<{len(words)}Q', *words)):#018x}`" in text
    assert crc_of([7, 3], ["a", "é", "{}", None, None]) == zlib.crc32("7,3,1,1,2,-,-:aé{}".encode())


def test_the_document_has_the_tables_as_they_are(tmp_path):
    import bqstore

    bqstore.open(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / "default/meta.db")) as db:
        stored = {sql for (sql,) in db.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")}
    written = re.search(r"```sql\n(.*?)```", document(), re.DOTALL).group(1)
    assert {"CREATE " + part.strip() for part in written.split("CREATE ") if part.strip()} == stored
