"""FORMAT.md is enough to write a reader: here is one that knows nothing else, and it agrees with the collection."""

import json
import re
import sqlite3
import struct
import zlib
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

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
    assert crc_of([7, 3], ["a", "é", "{}", None, None]) == zlib.crc32("7,3,1,1,2,-,-:aé{}".encode())


def test_the_document_has_the_tables_as_they_are(tmp_path):
    import bqstore

    bqstore.open(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / "default/meta.db")) as db:
        stored = {sql for (sql,) in db.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")}
    written = re.search(r"```sql\n(.*?)```", document(), re.DOTALL).group(1)
    assert {"CREATE " + part.strip() for part in written.split("CREATE ") if part.strip()} == stored
