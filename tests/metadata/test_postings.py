"""Filters by equality through postings, against a pass over all codes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bqstore
from bqstore.bitmap import Matches
from bqstore.metadata import columns, dictionary
from bqstore.metadata.columns import Column
from bqstore.metadata.dictionary import NOTHING
from bqstore.metadata.evaluate import matches, matching
from bqstore.metadata.filter_tree import OneOf
from bqstore.metadata.values import typed
from tests.conftest import often

VALUES = [NOTHING, None, True, 0, 1, 1.5, 10**30, "a", "b", "", {"k": 1}, *(f"t{i}" for i in range(300))]
VALUE = st.sampled_from(VALUES)
CHANGE = st.one_of(
    st.tuples(st.just("extend"), st.lists(VALUE, max_size=40)),
    st.tuples(st.just("replace"), st.lists(VALUE, min_size=1, max_size=3)),
    st.tuples(st.just("lists"), st.just([["a", "t1"], "t2"])),
)


@pytest.fixture
def early(monkeypatch):
    monkeypatch.setattr(columns, "_ASKED", 3)
    monkeypatch.setattr(columns, "_FEW", 1)


@settings(max_examples=often(100), deadline=None)
@given(
    first=st.lists(VALUE, min_size=1, max_size=400),
    changes=st.lists(CHANGE, max_size=5),
    few=st.sampled_from([1, 50]),
)
def test_postings_find_what_a_pass_finds(first, changes, few):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "_ASKED", 3)
        patch.setattr(columns, "_FEW", few)
        patch.setattr(dictionary, "_REMEMBERED", 20)  # so that entries repeat values
        values, column = list(first), Column("key").extended(first)
        older = []
        for what, given_ in [("extend", []), *changes]:
            if what == "replace":
                places = list(range(min(len(values), len(given_))))
                column = column.replaced(places, given_[: len(places)])
                values[: len(places)] = given_[: len(places)]
            else:
                column, values = column.extended(given_), values + given_
            older.append((column, list(values)))
        for column, values in older[::-1]:
            for operand in [*VALUES[1:20], "t299", "nowhere"]:
                test = OneOf((typed(operand), typed("t7")))
                bits, either = matching(column, test), matches(column, test)
                found = np.unpackbits(bits.view(np.uint8), bitorder="little")[: len(values)].astype(bool)
                wanted = [_equals(value, operand) or _equals(value, "t7") for value in values]
                assert (
                    either.mask().tolist() == wanted and either.ordinals().tolist() == np.flatnonzero(wanted).tolist()
                )
                assert either.count == sum(wanted) and either.bits.tolist() == bits.tolist()
                assert found.tolist() == wanted and not bits.view(np.uint8)[-(-len(values) // 8) :].any()


def _equals(value, operand):
    if isinstance(value, list):
        return any(_equals(each, operand) for each in value)
    return value is not NOTHING and typed(value) == typed(operand)


def test_they_are_made_when_many_values_were_asked_for_and_made_anew_when_much_has_come(early):
    column = Column("tenant").extended(f"t{i // 2}" for i in range(100))
    for _ in range(2):
        matching(column, OneOf((("string", "t1"),)))
    assert column._postings is None
    matching(column, OneOf((("string", "t1"),)))
    made, before = column._postings, column.nbytes
    assert made is not None and made.n == 100 and before > Column("tenant").extended(["t1"]).nbytes
    column = column.extended(["t1"] * 20)
    assert matching(column, OneOf((("string", "t1"),))).tolist() == [0b1100, (2**20 - 1) << 36]
    assert column._postings is made
    column = column.extended(["t2"] * 20)
    for _ in range(3):
        matching(column, OneOf((("string", "t1"),)))
    assert column._postings is not made and column._postings.n == 140
    assert column.replaced([0], ["t1"])._postings is None


def test_of_many_ordinals_a_pass_is_quicker_and_taken(early, monkeypatch):
    monkeypatch.setattr(columns, "_FEW", 10)
    monkeypatch.setattr(columns, "_ASKED", 1)
    column = Column("tenant").extended(["all"] * 90 + ["one"] * 10)
    assert column.equal((("string", "all"),)) == ([1], None)
    assert column.equal((("string", "one"),))[1].tolist() == list(range(90, 100))
    assert column.equal((("string", "none"),))[1].tolist() == []
    assert matching(column, OneOf((("string", "all"),))).tolist() == [2**64 - 1, 2**26 - 1]


def test_a_collection_of_tenants_finds_each_ones_documents(early):
    n = 400
    vectors = np.random.default_rng(0).standard_normal((n, 4), dtype=np.float32)
    with bqstore.open() as col:
        col.add(vectors, [str(i) for i in range(n)], metadatas=[{"tenant": f"t{i % 40}"} for i in range(n)])
        for tenant in range(40):
            mine = [str(i) for i in range(n) if i % 40 == tenant]
            assert col.ids({"tenant": f"t{tenant}"}) == mine
            hits = col.search(vectors[0], k=20, filter={"tenant": f"t{tenant}"})
            assert sorted(hit.id for hit in hits) == sorted(mine)
        assert col._engine.publisher.state.columns["tenant"]._postings is not None
        assert col.delete(filter={"tenant": "t3"}) == 10
        assert col.count({"tenant": "t3"}) == 0 and len(col) == 390
    assert Matches(65, rows=np.zeros(0, np.int32)).bits.tolist() == [0, 0]


@pytest.mark.parametrize("threshold", [0, 10_000])
def test_a_search_for_a_tenant_went_through_the_bitmap_of_all_documents(early, monkeypatch, threshold):
    """It goes through the list of the tenant's, exactly or by their codes: without those deleted, with those added."""
    vectors = np.random.default_rng(0).standard_normal((300, 8), dtype=np.float32)
    metadatas = [{"tenant": i % 30} for i in range(300)]
    with bqstore.open(hnsw={"full_scan_threshold": threshold}) as col:
        col.add(vectors[:290], [str(i) for i in range(290)], metadatas=metadatas[:290])
        for tenant in range(4):
            col.count({"tenant": tenant})
        col.delete(["35", "65"])
        col.add(vectors[290:], [str(i) for i in range(290, 300)], metadatas=metadatas[290:])
        monkeypatch.setattr(Matches, "bits", property(lambda _: pytest.fail("a bitmap is made"), lambda *_: None))
        for tenants, step in ((5, 30), ([5, 20, 5.0], 15)):
            mine = [i for i in range(5, 300, step) if i not in (35, 65)]
            found, _ = col.search_ids(vectors[5], 30, filter={"tenant": tenants})
            order = np.argsort(-(vectors[mine] @ vectors[5]) / np.linalg.norm(vectors[mine], axis=1))
            assert [each for each in found[0] if each is not None] == [str(mine[i]) for i in order]
            how = col.search(vectors[5], filter={"tenant": tenants}, explain=True).explanation
            assert how.way == ("exact" if threshold else "scan")


def test_strings_with_one_checksum_are_two_values(early, monkeypatch):
    monkeypatch.setattr(columns, "_ASKED", 1)
    column = Column("word").extended(["plumless", "buckeroo", "plumless"])  # CRC-32 4DDB0C25
    assert column.equal((("string", "buckeroo"),))[1].tolist() == [1]
    grown = column.extended(["new"])  # of an entry that came after the postings
    monkeypatch.setattr(columns, "_LATE", 1)
    assert grown.equal((("string", "new"),))[1].tolist() == [3]
    assert column.equal((("string", "new"),))[1].tolist() == []  # the dictionary has it, this column does not


def test_a_search_failed_beside_one_that_knew_of_a_value_that_was_just_added(monkeypatch):
    """Its entries had been read, and the other's postings then, which are of more."""
    monkeypatch.setattr(columns, "_ASKED", 1)
    column, new = Column("tenant").extended(["a", "b"]), (("string", "new"),)

    class Read:
        def __init__(self, dictionary):
            self.dictionary = dictionary

        @property
        def entries(self):
            entries, column.dictionary = self.dictionary.entries, self.dictionary
            column.extended(["new"])
            column.equal(new)
            return entries

    column.dictionary = Read(column.dictionary)
    assert column.equal(new)[0] == []
