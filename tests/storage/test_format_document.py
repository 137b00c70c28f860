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

from bqstore.storage.format import FORMAT_VERSION
from bqstore.storage.snapshot_format import DTYPES

from .store_model import DIM, StoreModel

# ---- the reader, from FORMAT.md


def sum64(data: bytes, first: int) -> int:
    words = struct.unpack(f"<{len(data) // 4}I", data)
    keys = ((((i + 1) * 0x9E3779B1) & 0xFFFFFFFF) | 1 for i in range(first, first + len(words)))
    return (0x627173746F726531 + sum(key * word for key, word in zip(keys, words, strict=True))) % 2**64


def crc_of(numbers: list, parts: list) -> int:
    lengths = ["-" if part is None else len(part) for part in parts]
    head = ",".join(str(n) for n in [*numbers, *lengths])
    return zlib.crc32((head + ":" + "".join(part or "" for part in parts)).encode())


CODE_FORMS = {
    ("one_bit", "sign"): 1,
    ("one_and_half_bits", "sign"): 2,
    ("two_bits", "sign"): 3,
    ("one_bit", "rabitq"): 4,
    ("two_bits", "rabitq"): 5,
    ("four_bits", "rabitq"): 6,
}


def code_form(head: dict) -> tuple[int, int]:
    """The form, and how many values of a vector are encoded."""
    coding = head["settings"].get("coding", {"encoding": "one_bit", "estimator": "sign", "rotate": False})
    return CODE_FORMS[coding["encoding"], coding["estimator"]], coding.get("truncate_dim", head["dim"])


def code_bytes(dim: int, form: int) -> int:
    plane = -(-dim // 64)
    lanes = {2: dim + -(-dim // 2), 3: 2 * dim}
    words = {1: plane, 4: plane + 1, 5: 2 * plane + 1, 6: 4 * plane + 1}
    return 16 + 8 * (-(-lanes[form] // 64) if form in lanes else words[form])


def read_flat(
    path: Path, magic: bytes, head: dict, dim: int, record_bytes: int, form: int, version: int
) -> tuple[list, tuple]:
    """The records, and the parameters."""
    data = path.read_bytes()
    *fields, length, dim_, form_, record_bytes_, count = struct.unpack("<8s6I", data[:32])
    generation, store_id, digest, checksum = struct.unpack("<4Q", data[32:64])
    assert (*fields, dim_, form_, record_bytes_) == (magic, version, dim, form, record_bytes)
    assert (generation, store_id, checksum) == (head["generation"], head["store_id"], sum64(data[:56], 0))
    assert length == 64 + -(-4 * count // 64) * 64 and not any(data[64 + 4 * count : length])
    assert digest == (blake(data[64:length]) if version == 2 else 0) and (version == 2 or count == 0)
    records = []
    for slot in range(head["n_slots"]):
        record = data[length + slot * record_bytes : length + (slot + 1) * record_bytes]
        checksum, rid = struct.unpack("<Qq", record[:16])
        assert checksum == sum64(record[8:], 2)
        records.append((rid, record[16:]))
    return records, struct.unpack(f"<{count}f", data[64 : 64 + 4 * count])


def bits_of(code: bytes) -> np.ndarray:
    return np.unpackbits(np.frombuffer(code, np.uint8), bitorder="little")


def decode(code: bytes, dim: int, form: int) -> tuple:
    """What a code says: bits; or of which values are not low, and which are high; or values, add and factor."""
    bits, plane = bits_of(code), -(-dim // 64) * 64
    if form == 1:
        assert not bits[dim:].any()
        return (bits[:dim],)
    if form < 4:
        upper = bits[dim : dim + (-(-dim // 2) if form == 2 else dim)]
        assert not bits[dim + len(upper) :].any()
        return bits[:dim], upper
    n_planes = {4: 1, 5: 2, 6: 4}[form]
    values = np.zeros(dim, int)
    for p in range(n_planes):
        some = bits[p * plane : (p + 1) * plane]
        assert not some[dim:].any()
        values += 2 ** (n_planes - 1 - p) * np.where(some[:dim], 1, -1)
    return values, *struct.unpack("<2f", code[n_planes * plane // 8 :])


def read_store(folder: Path) -> tuple[dict, dict]:
    """The head, with the parameters, and of each id: vector or None, what its code says, text, metadata."""
    with closing(sqlite3.connect(f"file:{folder}/meta.db?mode=ro", uri=True)) as db:
        assert db.execute("PRAGMA application_id").fetchone() == (0x42515354,)
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
        version, body, crc = db.execute("SELECT format, body, crc FROM head").fetchone()
        assert zlib.crc32(body.encode()) == crc
        head, dead = json.loads(body), {rid for (rid,) in db.execute("SELECT rid FROM dead")}
        columns = "rid, seq, id, ref_doc_id, metadata, key_crc, text, private, crc"
        rows = {row[0]: row for row in db.execute(f"SELECT {columns} FROM rows")}
    kind, coded = code_form(head)
    of_file = 1 if kind == 1 else 2
    truncated, scaled = "truncate_dim" in head["settings"].get("coding", {}), "scaled_halves" in head["settings"]
    assert version == (4 if scaled else 3 if truncated else of_file)
    if head["n_slots"] == 0:
        return head, {}
    dim, out, name = head["dim"], {}, folder / f"codes-{head['generation']}.bin"
    assert 1 <= coded <= dim
    codes, head["parameters"] = read_flat(name, b"BQSTcode", head, coded, code_bytes(coded, kind), kind, of_file)
    vectors = {}
    if head["settings"]["originals"] != "none":
        form = ["float32", "float16", "int8"].index(head["settings"]["originals"])
        dtype, size = ["<f4", "<f2", "i1"][form], [4, 2, 1][form]
        length = -(-(32 + dim * size) // 32) * 32
        name = folder / f"vectors-{head['generation']}.bin"
        for rid, rest in read_flat(name, b"BQSTvecs", head, dim, length, form, 1)[0]:
            norm, scale = struct.unpack("<2f", rest[:8])
            assert scale == 1 or (form == 1 and scaled) or form == 2
            vectors[rid] = np.frombuffer(rest[16 : 16 + dim * size], dtype).astype("<f4") * np.float32(scale)
            assert abs(norm - np.linalg.norm(vectors[rid].astype(float))) <= 1e-6 * norm
            assert not any(rest[8:16]) and not any(rest[16 + dim * size :])
    assert head["n_live"] == len(rows) == len(codes) - len(dead)
    for rid, code in codes:
        if rid in dead:
            continue
        _, seq, id_, ref, metadata, key_crc, text, private, crc = rows[rid]
        assert crc == crc_of([rid, seq], [id_, text, metadata, private, ref])
        assert key_crc == crc_of([rid, seq], [id_, ref, metadata])
        assert seq <= head["seq"] and rid < head["next_rid"]
        whole = json.loads(metadata) | json.loads(private or "{}") | ({"_bq_ref_doc_id": ref} if ref else {})
        out[id_] = (vectors.get(rid), decode(code, coded, kind), text, whole)
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
    form, coded = code_form(head)
    record, (begin,) = code_bytes(coded, form), struct.unpack("<I", codes[12:16])
    slots = [i * (n - 1) // 15 for i in range(16)] if n else []
    assert table["codes"] == blake(b"".join(codes[begin + slot * record :][:16] for slot in slots))
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


@pytest.mark.sampled(14)
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
    for id_, (vector, (bits, *_), text, metadata) in found.items():
        assert (text, metadata) == (records[id_].text, records[id_].metadata)
        assert np.array_equal(bits, added[id_] > 0)
        if originals != "none":
            assert np.array_equal(vector, records[id_].vector)
        if originals == "float32":
            assert np.array_equal(vector, added[id_])


@pytest.mark.sampled(30)
@pytest.mark.parametrize(("originals", "recoded"), [("float32", False), ("float32", True), ("none", False)])
@pytest.mark.parametrize("form", range(1, 7))
@pytest.mark.parametrize("part", [None, 1, 7, 8, DIM])
def test_a_reader_of_other_codes_written_from_the_document_agrees(tmp_path, originals, part, form, recoded):
    """The bits of Qdrant's forms; of RaBitQ's, that the estimate is what the document says it is."""
    with StoreModel(tmp_path, originals=originals) as model:
        model.form, model.part = 7 - form if recoded else form, None if recoded else part
        model.add(40)
        model.delete(7)
        if recoded:
            model.recode(form, seed=3, part=part)
        model.add(3)
        parameters = model.store.parameters
    head, found = read_store(tmp_path / "default")
    assert found.keys() == model.documents.keys() and len(found) == 36
    assert head["generation"] == int(recoded) and head["parameters"] == tuple(parameters.tolist())
    dim = part or DIM
    assert len(parameters) == (0 if form == 1 else 2 * dim if form < 4 else 2 + dim)
    query = np.random.default_rng(1).standard_normal(dim)
    lost = []
    for id_, (vector, code, _, _) in found.items():
        truth = model.documents[id_][0].astype(float)
        assert (vector is None) == (originals == "none") and (vector is None or np.array_equal(vector, truth))
        truth = truth[:dim]
        if form == 1:
            assert np.array_equal(code[0], truth > 0)
        elif form < 4:
            apart = (truth - parameters[:dim]) / parameters[dim:]
            high = apart >= 2 / 3
            high = high if form == 3 else np.append(high, [False] * (dim % 2)).reshape(-1, 2).any(1)
            assert np.array_equal(code[0], apart > -2 / 3) and np.array_equal(code[1], high)
        else:
            (values, add, factor), mean = code, parameters[2:]
            rest, apart = truth - mean, query - mean
            most = 2 ** {4: 1, 5: 2, 6: 4}[form] - 1
            assert (values % 2 == 1).all() and abs(values).max() == most
            assert abs(add - mean @ truth) < 1e-5 and abs(factor - rest @ rest / (rest @ values)) < 1e-5
            estimate = add + factor * (apart @ values) + mean @ apart
            lost_square = values @ values * factor**2 - rest @ rest
            across = np.sqrt(max(0.0, lost_square))  # what the code lost, at right angles to it
            assert abs(estimate - query @ truth) <= across * np.linalg.norm(apart) + 1e-5
            lost.append(across / np.linalg.norm(rest))
    assert form < 4 or np.mean(lost) < {4: 0.9, 5: 0.6, 6: 0.15}[form]


@pytest.mark.parametrize("form", [1, 4])
@pytest.mark.parametrize("compacted", [False, True])
def test_a_reader_of_snapshots_written_from_the_document_agrees(tmp_path, compacted, form):
    with StoreModel(tmp_path) as model:
        model.form = form
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


def hexadecimal(data: bytes) -> str:
    words = [data[i : i + 4].hex() for i in range(0, len(data), 4)]
    return "\n".join("    " + " ".join(words[i : i + 8]) for i in range(0, len(words), 8))


def test_the_examples_of_the_document():
    text = document()
    keys = [f"{(((i + 1) * 0x9E3779B1) & 0xFFFFFFFF) | 1:#010x}" for i in (2, 3)]
    assert f"have the keys `{keys[0]}` and `{keys[1]}`" in text
    assert f"= {sum64(struct.pack('<2I', 1, 2), 2):#018x}" in text
    rest = struct.pack("<qQ", 7, 9)
    assert hexadecimal(struct.pack("<Q", sum64(rest, 2)) + rest) in text
    rest = struct.pack("<qQ2f", 7, 0b1001, 2.0, 2.25 / 2.5)
    assert hexadecimal(struct.pack("<Q", sum64(rest, 2)) + rest) in text
    assert decode(rest[8:], 4, 4)[0].tolist() == [1, -1, -1, 1]
    block = struct.pack("<6f", 0.5, 1, 0, 0, 0, 1) + bytes(40)
    start = struct.pack("<8s6I3Q", b"BQSTcode", 2, 128, 4, 4, code_bytes(4, 4), 6, 1, 5, blake(block))
    assert hexadecimal(start + struct.pack("<Q", sum64(start, 0)) + block) in text
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


def test_the_changelog_told_of_an_older_format():
    text = (Path(__file__).parents[2] / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"now {FORMAT_VERSION}. Formats 1 to {FORMAT_VERSION - 1} can" in text
    assert document().startswith(f"# The files of a collection, formats 1 to {FORMAT_VERSION}\n")
