"""What metadata and filters take: a documented form in JSON, what it was when it comes back, or an error by name."""

import collections
import dataclasses
import datetime
import decimal
import enum
import pathlib
import types
import uuid

import numpy as np
import pytest

import bqstore
from bqstore import InvalidInputError

UTC, DAY = datetime.timezone.utc, datetime.date(2024, 5, 6)
ZONE = datetime.timezone(datetime.timedelta(hours=5, minutes=45))
MOMENT = datetime.datetime(2024, 5, 6, 7, 8, 9, 120000)


class Color(enum.Enum):
    RED = "red"
    WHEN = DAY


class Level(enum.IntEnum):
    HIGH = 3


class Nowhere(datetime.tzinfo):
    """A time zone that does not say which."""

    def utcoffset(self, when):
        return None


class Stamp(datetime.datetime):
    """As pandas has them."""

    nanosecond = 5


@dataclasses.dataclass
class Place:
    name: str
    seen: datetime.date


def kept(value, path=None):
    """A value as it comes back."""
    with bqstore.open(path) as col:
        col.add([[1.0]], ["a"], metadatas=[{"x": value}])
        return col.get(["a"])[0].metadata["x"]


@pytest.mark.parametrize(
    ("value", "form"),
    [
        (decimal.Decimal("0.1"), 0.1),
        (decimal.Decimal("1.50"), 1.5),
        (decimal.Decimal("12345678901234567890"), 12345678901234567890),
        (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        (Color.RED, "red"),
        (Color.WHEN, DAY),
        (Level.HIGH, 3),
        (pathlib.PurePosixPath("a/b"), "a/b"),
        (datetime.time(1, 2, 3), "01:02:03"),
        (datetime.timedelta(0), "PT0S"),
        (datetime.timedelta(days=1, hours=2, minutes=3, seconds=4.5), "P1DT2H3M4.5S"),
        (-datetime.timedelta(minutes=1), "-PT1M"),
        (b"text \xc3\xa9", "text é"),
        ({3, 1, 2}, [1, 2, 3]),
        (frozenset("ba"), ["a", "b"]),
        ((1, (2, DAY)), [1, [2, DAY]]),
        (range(3), [0, 1, 2]),
        (collections.deque([1]), [1]),
        (types.MappingProxyType({"a": DAY}), {"a": DAY}),
        (Place("x", DAY), {"name": "x", "seen": DAY}),
        (np.float32(0.5), 0.5),
        (np.longdouble(0.5), 0.5),
        (np.array(5), 5),
        (np.ma.masked, None),
        (np.ma.array([DAY, None], mask=[False, True], dtype=object), [DAY, None]),
        (np.array("2024-05-06", "datetime64[D]"), DAY),
        (np.bool_(True), True),
        (np.str_("s"), "s"),
        (np.arange(4).reshape(2, 2), [[0, 1], [2, 3]]),
        (np.array(["2024-05-06"], "datetime64[D]"), [DAY]),
        (np.datetime64("2024-05-06T07:08:09.120000000", "ns"), MOMENT),
        (MOMENT.replace(tzinfo=Nowhere()), MOMENT),
    ],
)
def test_a_value_with_one_form_in_json_is_taken(value, form):
    found = kept(value)
    assert found == form and type(found) is type(form)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (float("nan"), r"'x': nan is no number of JSON; use None"),
        (np.float32("inf"), r"'x': inf is no number"),
        (decimal.Decimal("NaN"), "'x': NaN is no number"),
        (decimal.Decimal("0.1234567890123456789"), "'x': .*more digits than a float keeps"),
        (b"\xff\xfe", "'x': bytes that are not UTF-8 .*base64"),
        (1j, "'x': a complex is not JSON"),
        ({"deep": ["\ud800"]}, r"holds a lone surrogate in 'x.deep\[0\]'"),
        ({"deep": [1, {"er": object()}]}, r"'x.deep\[1\].er': an object is not JSON"),
        (np.datetime64("NaT", "s"), "'x': NaT is no date"),
        (np.datetime64("2024-05-06T07:08:09.000000001", "ns"), "'x': .*finer than a microsecond"),
        (np.datetime64("20000-01-01", "D"), "'x': .*beyond the years 1 to 9999"),
        (Stamp(2024, 5, 6), r"'x': .*finer than a microsecond; use .floor"),
        (np.timedelta64(3, "s"), "'x': a timedelta64 is not JSON"),
        (datetime.datetime(1, 1, 1, tzinfo=ZONE), "'x': .*beyond the years 1 to 9999 in UTC"),
        ("\U0010ffff\U0010ffff2024-05-06", r"begins with U\+10FFFF"),
        ({"a": {1: 2}}, "key of type int, 1; expected strings"),
        (types.MappingProxyType({1: 2}), "key of type int, 1; expected strings"),
        (iter([1]), "'x': a list_iterator is not JSON"),
    ],
)
def test_a_value_that_would_lose_something_is_named(value, words):
    with bqstore.open() as col:
        with pytest.raises(InvalidInputError, match=f"metadata 1 .*{words}"):
            col.add(np.eye(2), ["a", "b"], metadatas=[{}, {"x": value}])
        assert len(col) == 0


def test_a_set_that_has_no_order_is_taken_in_any():
    assert sorted(map(str, kept({3, "a", 1.5}))) == ["1.5", "3", "a"]


def test_a_text_like_an_instant_that_there_is_not_is_a_text():
    with bqstore.open() as col:
        col.add(np.eye(2), ["a", "b"], metadatas=[{"x": "2024-13-45T09:00:00Z"}, {"x": MOMENT.replace(tzinfo=UTC)}])
        assert col.ids({"x": "2024-13-45T09:00:00Z"}) == ["a"]
        assert col.ids({"x": {"$gt": "2024-13-45T00:00:00Z"}}) == ["a"]


def test_a_source_document_and_a_key_of_an_operand_are_strings():
    with bqstore.open() as col:
        with pytest.raises(InvalidInputError, match="'_bq_ref_doc_id' is an int; expected a string"):
            col.add(np.eye(1), ["a"], metadatas=[{"_bq_ref_doc_id": 5}])
        with pytest.raises(InvalidInputError, match="a dict with a key of type int; expected strings"):
            col.ids({"x": {"$eq": {1: 2}}})
        assert len(col) == 0


def test_pydantic_models_are_taken_with_their_dates():
    pydantic = pytest.importorskip("pydantic")
    model = pydantic.create_model("Page", when=(datetime.date, ...), price=(decimal.Decimal, ...))
    assert kept(model(when=DAY, price="2.5")) == {"when": DAY, "price": 2.5}


def test_what_pandas_calls_missing_is_null():
    pandas = pytest.importorskip("pandas")
    with bqstore.open() as col:
        col.add(np.eye(2), ["a", "b"], metadatas=[{"x": pandas.NaT, "y": pandas.NA}, {"x": pandas.Timestamp(MOMENT)}])
        assert [record.metadata for record in col.scroll()] == [{"x": None, "y": None}, {"x": MOMENT}]
        assert col.count({"x": {"$gte": DAY}}) == 1
        with pytest.raises(InvalidInputError, match="finer than a microsecond"):
            col.add([[1.0, 0.0]], metadatas=[{"x": pandas.Timestamp(1)}])


class NAType:
    """As pandas' NA is called."""


class NaT(datetime.datetime):
    """As pandas' NaT: a datetime that is not equal to itself."""

    __hash__ = None

    def __eq__(self, other):
        return False

    def __ne__(self, other):
        return True


def test_missing_values_are_null_without_pandas_too():
    assert kept(NAType()) is None and kept(NaT(1, 1, 1)) is None


# ---- dates


@pytest.mark.parametrize("path", ["memory", "disk"])
def test_dates_come_back_as_what_they_were(path, tmp_path):
    given = {
        "day": DAY,
        "naive": MOMENT,
        "aware": MOMENT.replace(tzinfo=ZONE),
        "list": [DAY, {"deep": MOMENT}],
        "s": "2024-05-06",
    }
    where = None if path == "memory" else tmp_path
    with bqstore.open(where) as col:
        col.add([[1.0]], ["a"], metadatas=[given])
        col.update_metadata(["a"], {"more": DAY})
        (record,), (hit,) = col.get(["a"]), col.search([1.0])
        assert record.metadata == hit.metadata == {**given, "more": DAY}
        assert (
            record.metadata["aware"].utcoffset() == ZONE.utcoffset(None)
            and type(record.metadata["day"]) is datetime.date
        )
        assert [r.metadata for r in col.scroll(lambda record: record.metadata["naive"] < MOMENT.max)] == [hit.metadata]
    if where is not None:
        with bqstore.open(where) as col:
            assert col.get(["a"])[0].metadata == {**given, "more": DAY}
            assert col.count({"aware": MOMENT.replace(tzinfo=ZONE).astimezone(UTC)}) == 1


def test_the_same_instant_in_another_zone_matches_and_does_not_match_at_the_bound():
    """Dates compared as text: 09:00+02:00 was more than 07:00+00:00."""
    berlin = datetime.datetime(2024, 7, 1, 9, tzinfo=datetime.timezone(datetime.timedelta(hours=2)))
    utc = berlin.astimezone(UTC)
    with bqstore.open() as col:
        col.add([[1.0]], metadatas=[{"when": berlin}])
        assert col.count({"when": utc}) == col.count({"when": {"$gte": utc}}) == col.count({"when": [utc]}) == 1
        assert col.count({"when": {"$gt": utc}}) == col.count({"when": {"$lt": utc}}) == 0
        naive = utc.replace(tzinfo=None)
        assert col.count({"when": naive}) == col.count({"when": {"$gte": naive}}) == 0
        assert col.count({"when": "2024-07-01T07:00:00Z"}) == col.count({"when": {"$lte": "2024-07-01T07:00Z"}}) == 1


def test_a_text_that_looks_like_a_mark_of_another_kind_comes_back_as_it_was():
    """Of a store that was written before dates were marked."""
    from bqstore.metadata import dates

    for text in ("\U0010ffff", "\U0010ffff\U0010ffff2024-13-45", "\U0010ffff\U0010ffff#", "\U0010ffff2024-05-06"):
        assert dates.restored([text]) == [text] and dates.in_column(text) == text


# ---- long values


def test_a_document_may_have_megabytes_of_metadata_and_filters_stay_right():
    """The limit was 64 KiB: a window of text, HTML and cached answers were refused."""
    html = "<p>é</p>" * 200_000
    with bqstore.open() as col:
        col.add(
            np.eye(3), ["a", "b", "c"], metadatas=[{"html": html, "n": 1}, {"html": "short"}, {"html": [html, "x"]}]
        )
        assert col.get(["a"])[0].metadata["html"] == html
        assert col.count({"html": html}) == 2 and col.count({"html": {"$ne": html}}) == 1
        assert col.count({"html": {"$in": ["short", html + "!"]}}) == 1 and col.count({"html": {"$contains": 3}}) == 0
        assert col.count({"n": 1}) == 1 and col.count({"html": {"$exists": True}}) == 3
        assert col.info().columns["html"] < 100_000
        for operator in ({"$like": "%p%"}, {"$contains": "p"}, {"$gt": "a"}):
            with pytest.raises(InvalidInputError, match="'html' has strings of more than 65,536 characters"):
                col.count({"html": operator})
        assert col.count(lambda record: "short" in record.metadata["html"]) == 1
        with pytest.raises(InvalidInputError, match="takes 16,777,226 bytes as JSON; at most 16,777,216"):
            col.add(np.eye(3)[:1], metadatas=[{"h": "x" * ((16 << 20) + 2)}])


def test_long_values_are_known_again_from_a_snapshot(tmp_path):
    with bqstore.open(tmp_path) as col:
        long = {f"k{i}": "y" * 100 for i in range(1000)}
        col.add(np.eye(3), ["a", "b", "c"], metadatas=[{"h": "x" * 70_000}, {"h": "s"}, {"h": long}])
        assert col.count({"h": "s"}) == 1
        col.flush()
    with bqstore.open(tmp_path) as col:
        assert "h" in col.info().columns or col.count({"h": "s"}) == 1
        assert col.count({"h": "x" * 70_000}) == 1 and col.count({"h": {"$eq": long}}) == 1
        with pytest.raises(InvalidInputError, match="65,536"):
            col.count({"h": {"$like": "x%"}})


# ---- operands


def test_durations_and_missing_values_could_be_stored_and_not_asked_for():
    missing = type("NAType", (), {})()  # of pandas
    with bqstore.open() as col:
        col.add(np.eye(2), ["a", "b"], metadatas=[{"x": datetime.timedelta(hours=1)}, {"x": missing}])
        assert col.ids({"x": datetime.timedelta(hours=1)}) == ["a"] and col.ids({"x": missing}) == ["b"]


@pytest.mark.parametrize(
    ("value", "instead"),
    [
        (datetime.timedelta(hours=1), "total_seconds"),
        (datetime.time(9, tzinfo=datetime.timezone.utc), "times without a zone"),
    ],
)
def test_durations_were_compared_by_their_text(value, instead):
    """Two hours, PT2H, were more than a day, P1D."""
    with bqstore.open() as col:
        for operator in ("$gt", "$lte"):
            with pytest.raises(InvalidInputError, match=f"on 'x' .*in no order of time: keep {instead}"):
                col.count({"x": {operator: value}})
        with pytest.raises(InvalidInputError, match="in no order of time"):
            col.count({"x": {"$between": [value, value]}})
        assert col.count({"x": {"$lt": datetime.time(9)}}) == 0


def test_times_with_and_without_a_zone_were_both_called_strings(caplog):
    noon = datetime.datetime(2024, 5, 6, 12)
    with bqstore.open() as col:
        col.add(np.eye(2), metadatas=[{"zoned": noon.replace(tzinfo=datetime.timezone.utc)}, {"plain": noon}])
        col.count({"zoned": noon})
        col.count({"plain": noon.replace(tzinfo=datetime.timezone.utc)})
    zoned, plain = "a datetime with a time zone", "a string, or a date without a zone"
    assert f"'zoned' matches nothing: it compares with {plain}, and documents have {zoned}" in caplog.text
    assert f"'plain' matches nothing: it compares with {zoned}, and documents have {plain}" in caplog.text


def test_operands_are_converted_as_metadata_is():
    with bqstore.open() as col:
        col.add(
            np.eye(3),
            ["a", "b", "c"],
            metadatas=[{"x": decimal.Decimal("1.5")}, {"x": uuid.UUID(int=5)}, {"x": Color.RED}],
        )
        assert [col.count({"x": each}) for each in (decimal.Decimal("1.50"), uuid.UUID(int=5), Color.RED)] == [1, 1, 1]
        assert col.count({"x": {"$gt": decimal.Decimal("1.4")}}) == 1


@pytest.mark.parametrize("values", [range(2, 4), np.array([2, 3]), (i for i in (2, 3)), {2: 0, 3: 0}.keys(), {2, 3}])
def test_in_takes_what_can_be_iterated(values):
    with bqstore.open() as col:
        col.add(np.ones((5, 1)), metadatas=[{"n": i} for i in range(5)])
        condition = {"n": {"$in": values}}
        assert col.count(condition) == 2


def test_a_tensor_of_values_was_taken_for_tensors():
    class Tensor:
        shape = (2,)

        def __iter__(self):
            return iter([Tensor(), Tensor()])

        def tolist(self):
            return [0, 1]

    with bqstore.open() as col:
        col.add(np.eye(3), ["a", "b", "c"], metadatas=[{"x": i} for i in range(3)])
        assert col.ids({"x": {"$in": Tensor()}}) == ["a", "b"] and col.ids({"x": {"$nin": Tensor()}}) == ["c"]


def test_infinity_is_no_limit():
    inf = float("inf")
    with bqstore.open() as col:
        col.add(np.ones((4, 1)), metadatas=[{"n": 3}, {"n": 10**400}, {"n": "text"}, {"n": -1.5}])
        for condition in (
            {"$lt": inf},
            {"$lte": inf},
            {"$gt": -inf},
            {"$between": [-inf, inf]},
            {"$gte": np.float32("-inf")},
            {"$lt": decimal.Decimal("Infinity")},
        ):
            assert col.count({"n": condition}) == 3, condition
        assert col.count({"n": {"$between": [0, inf]}}) == 2
        assert col.count({"n": {"$gt": inf}}) == col.count({"n": {"$lt": -inf}}) == 0


def test_zero_and_one_among_ten_thousand_values_do_not_count_twice():
    """LlamaIndex's filters add False to 0 and True to 1: 9,999 values were 10,001."""
    with bqstore.open() as col:
        col.add(np.ones((2, 1)), metadatas=[{"n": 9998}, {"n": True}])
        values = list(range(10_000))
        assert col.count({"n": {"$in": [*values, False, True]}}) == 2
        with pytest.raises(InvalidInputError, match="given 10,001 values; at most 10,000"):
            col.count({"n": {"$in": [*values, 10_000, False, True]}})


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ({"must": [{"a": 1}]}, r"'must' with a list of filters; did you mean '\$and'"),
        ({"and": [{"a": 1}]}, r"did you mean '\$and'"),
        ({"AND": [{"a": 1}, {"b": 2}]}, r"did you mean '\$and'"),
        ({"or": [{"a": 1}]}, r"did you mean '\$or'"),
        ({"should": [{"a": 1}]}, r"did you mean '\$or'"),
        ({"must_not": [{"a": 1}]}, r"\{'\$not': \{'\$or': \[...\]\}\}"),
        ({"$and": [{"or": [{"a": 1}]}]}, r"did you mean '\$or'"),
        ({"path": ["a"], "operator": "Equal", "valueInt": 1}, "'path' and 'operator': 'Equal', another store's form"),
        ({"field": "meta.a", "operator": "==", "value": 1}, "'field' and 'operator': '==', another store's form"),
        ({"operator": "AND", "conditions": []}, "another store's form"),
        ({"a": {"$regex": "^x"}}, r"did you mean '\$like'\? with % and _ \(of a regular expression use a function"),
        ({"a": {"$size": 2}}, "no operator '.size'; use lambda record"),
        ({"a": {"$not_contains": "x"}}, r"write \{'\$not': \{'\$contains': ...\}\}"),
        ({"a": {"$in": "xyz"}}, "expected a list"),
        ({"NOT": {"a": 1}}, r"\{'\$eq': \{...\}\}; did you mean '\$not'"),
        ({"a": {"$mod": [2, 0]}}, "no operator '.mod'; use lambda record"),
        ({"$price": 1}, r"a field whose name begins with \$ is tested by a function"),
    ],
)
def test_a_filter_of_another_store_is_refused_with_ours(condition, words):
    with bqstore.open() as col, pytest.raises(InvalidInputError, match=words):
        col.count(condition)


def test_fields_with_such_names_can_still_be_filtered():
    metadatas = [{"and": 1, "operator": "sum", "path": "x"}, {"must": [{"a": 1}]}, {"$price": 2}]
    with bqstore.open() as col:
        col.add(np.eye(3), ["a", "b", "c"], metadatas=metadatas)
        assert col.count({"and": 1, "operator": "sum", "path": "x"}) == col.count({"must": {"$in": [{"a": 1}]}}) == 1
        assert [r.id for r in col.scroll(lambda record: record.metadata.get("$price") == 2)] == ["c"]
