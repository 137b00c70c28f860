"""Strings that mean something elsewhere, filters without end: each is just a value, or a sentence that refuses it."""

import decimal
import enum
import os
import subprocess
import sys
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bqstore
from tests.conftest import HANGS
from tests.slow_filters import like

ROOT = Path(bqstore.__file__).parents[1]

SQL = [
    "'; DROP TABLE rows; --", "1 OR 1=1", "' OR '1'='1", '" OR ""="', "'", '"', "''", "`", "\\'",
    "a' UNION SELECT id FROM rows --",
    "); DELETE FROM rows; --", "/* comment */", "-- x", ";", "rowid", "NULL", "?", "?1", ":id", "@id", "$id",
    "main.rows", "x'41'",
    "ATTACH DATABASE '/tmp/x' AS y", "PRAGMA writable_schema=1", "load_extension('x')", "char(39)", "%' OR 1 --",
]  # fmt: skip
JSON = [
    "$.a", "$", "$[0]", "$..*", "$.a.b", "a[0]", "a[*]", "a->b", "a->>'$.b'", "@.x", "?(@.x)", "#", "[]", "{}", "{",
    "}", "[1", '{"a": 1}',
    '{"$gt": ""}', '"a"', "\\u0041", "\\", "\\\\", "\\n", "null", "true", "false", "json_extract(metadata, '$')",
    "a/b", "~1", "/a",
]  # fmt: skip
NAMES = [
    "$eq", "$and", "$or", "$not", "$where", "$expr", "$regex", "$ne", "_bq", "_BQ_ID", "_id", "id", "rid", "text",
    "metadata", "vector",
    "__class__", "__dict__", "__init__", "__proto__", "constructor", "self", "None", "True", "nan", "NaN", "Infinity",
    "-inf", "undefined",
]  # fmt: skip
FORMATS = [
    "%s", "%d", "%n", "%(a)s", "%%", "%", "_", "%_", "{0}", "{a}", "{a.__class__.__mro__}", "{{7*7}}", "${7*7}",
    "$(id)", "`id`", "#{1}",
    "<script>alert(1)</script>", "&amp;", "a\r\nSet-Cookie: b", "__import__('os').system('false')", "lambda: 1",
    "eval('1')", "f'{a}'",
    "os.system", "!!python/object/apply:os.system", "\x80\x04N.", "cos\nsystem\n(S'id'\ntR.",
]  # fmt: skip
REGEX = [
    ".*", ".", "^a$", "[a-z]+", "(a+)+$", "(?i)a", "\\d", "\\b", "a|b", "(", ")", "[", "*", "+", "a{9999}", "(?P<x>",
    "\\Z", "^", "(.*)*",
]  # fmt: skip
PATHS = [
    "../..", "../../etc/passwd", "/", "/etc/passwd", "C:\\x", "file:///etc/passwd", ".", "..", "...", "a..b", ".a",
    "a.", "CON", "~", "*.*",
]  # fmt: skip
NUMBERS = [
    "0", "1", "-1", "01", "1.0", "1e309", "0x10", "1_000", "9" * 400, "\u0661", "\u00bd", "1,5", "+1", " 1", "1 ",
    "inf",
]  # fmt: skip
UNICODE = [
    "\0", "a\0b", "\0a", "\x01", "\x1b[31m", "\x7f", "\u00a0", "\u2028", "\ufeffa", "\ufffd", "\uffff", "\U0010ffff",
    "\u202eabc\u202c",
    "\u05d0\u05d1", "\u0645\u0631\u062d\u0628\u0627", "\u200b", "a\u200db", "👩‍👩‍👧", "🏳️‍🌈", "e\u0301", "é", "İ", "ß",
    "\ufb01", "\u1e9e", "Z" + "\u0300" * 60,
    "Ω", "\u2126", "가", "\u1100\u1161", "\t", "\n", "\r\n", " ", "  ", "\u3000",
]  # fmt: skip
LONG = ["x" * 1000, "ab." * 300, "é" * 500, "%" * 500, "'" * 1000, "9" * 1000, "\\" * 500, "(" * 1000, "." * 1000]
ALL = list(dict.fromkeys([*SQL, *JSON, *NAMES, *FORMATS, *REGEX, *PATHS, *NUMBERS, *UNICODE, *LONG]))
SURROGATES = ["\ud800", "a\udfffb", "\udc80", "\udfff\ud800"]

# what a program does that was talked into something; recorded while `_watched` holds a list
_EVENTS = {"exec", "compile", "os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen"}
_watched: list[list[str]] = []


def _watch(event: str, arguments: Any) -> None:
    if _watched and (event in _EVENTS or event.startswith("socket.")):
        _watched[-1].append(event)


@pytest.fixture(scope="module", autouse=True)
def hook(tmp_path_factory):
    """Every kernel is compiled before anybody watches: that compiles and executes."""
    with bqstore.open(tmp_path_factory.mktemp("warm")) as col:
        col.add(np.eye(4), list("abcd"), metadatas=[{"v": "a"}, {"v": ["a", "b"]}, {"v": 1}, {}])
        used(col, "a", 0)
        for name in ("$like", "$ilike", "$contains", "$gt"):
            col.count({"v": {name: "a"}})
        col.search([1.0, 2, 3, 4], 5, filter={"v": "a"})
        col.delete(filter={"v": 1})
        col.compact()
    sys.addaudithook(_watch)  # there is no taking it away; it does nothing where nobody watches


@pytest.fixture
def nothing_is_executed():
    _watched.append([])
    yield
    assert _watched.pop() == []


def escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")


@pytest.fixture(scope="module", params=["memory", pytest.param("disk", marks=pytest.mark.slow)])
def full(request, tmp_path_factory):
    """A document for each string, which is its id, its text, one of its keys, and in its values."""
    path = None if request.param == "memory" else tmp_path_factory.mktemp("parent") / "store"
    with bqstore.open(path) as col:
        metadatas = [
            {key: i, "v": key, "list": ["x", key, i], "deep": {key: {"er": key}}} if not key.startswith("$")
            else {key: i, "v": key, "list": [key]}
            for i, key in enumerate(ALL)
        ]  # fmt: skip
        col.add(np.random.default_rng(0).standard_normal((len(ALL), 4)), ALL, ALL, metadatas)
        before = list(col.scroll())
        assert [record.id for record in before] == ALL
        yield col
        assert list(col.scroll()) == before  # after everything that was asked of it
        assert col.verify().ok and len(col) == len(ALL)
    if path is not None:
        assert [child.name for child in path.parent.iterdir()] == ["store"]
        with bqstore.open(path) as col:
            assert list(col.scroll()) == before


def used(col: bqstore.Collection, text: str, i: int) -> list[list[str]]:
    """What a string finds, as an operand of every kind, and as a key."""
    conditions: list[dict[str, Any]] = [
        {"v": text},
        {"v": {"$in": [text, text]}},
        {"v": {"$gte": text, "$lte": text}},
        {"v": {"$between": [text, text]}},
        {"v": {"$like": escaped(text)}},
        {"$not": {"v": {"$ne": text}}},
        {"list": text},
        {"list": {"$any": [text, "nobody has it"]}},
        {"list": {"$contains": text}},
        {"_bq_id": text},
        {"_bq_id": [text]},
    ]
    if not text.startswith("$"):
        conditions += [{text: i}, {text: {"$gte": i, "$lt": i + 1}}, {text: {"$in": [i]}, "v": {"$exists": True}}]
        if "." not in text:
            conditions += [{f"deep.{text}.er": text}, {f"deep.{text}": {"$eq": {"er": text}}}]
    return [[record.id for record in col.scroll(condition)] for condition in conditions]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("some", [ALL[i::4] for i in range(4)], ids=range(4))
def test_each_finds_its_own_document_and_no_other(full, nothing_is_executed, some):
    assert len(ALL) > 200
    for text in some:
        i = ALL.index(text)
        assert all(found == [text] for found in used(full, text, i)), (text, used(full, text, i))
        hits = full.search([1.0, 2, 3, 4], 5, filter={"v": text})
        assert [(hit.id, hit.text, hit.metadata["v"]) for hit in hits] == [(text, text, text)]
        assert text in full and full.get([text])[0].id == text


@pytest.mark.slow
def test_as_patterns_and_as_pieces(full, nothing_is_executed):
    for text in ALL:
        if text.endswith("\\") and (len(text) - len(text.rstrip("\\"))) % 2:
            with pytest.raises(bqstore.InvalidInputError, match="backslash"):
                full.count({"v": {"$like": text}})
        else:
            wanted = [other for other in ALL if like(other, text)]
            assert [record.id for record in full.scroll({"v": {"$like": text}})] == wanted, text
            folded = sum(like(other, text, folded=True) for other in ALL)
            assert full.count({"v": {"$ilike": text}}) == folded, text
        assert [record.id for record in full.scroll({"v": {"$contains": text}})] == [o for o in ALL if text in o], text
        assert full.count({"v": {"$gt": text}}) == sum(other > text for other in ALL)


def test_keys_of_operators_are_refused_and_their_documents_are_there(full, nothing_is_executed):
    for text in [text for text in ALL if text.startswith("$")]:
        with pytest.raises(bqstore.InvalidInputError):
            full.count({text: 1})
        with pytest.raises(bqstore.InvalidInputError):
            full.delete(filter={text: ALL.index(text)})
        assert full.get([text])[0].metadata[text] == ALL.index(text)


def test_as_operators_they_are_refused(full, nothing_is_executed):
    known = {"$eq", "$ne", "$not"}
    for text in [text for text in ALL if text not in known]:
        for condition in ({"v": {text: 1}}, {"v": {f"${text}": 1}}, {"v": {"$eq": 1, text: 1}}):
            if set(condition["v"]) - known:
                with pytest.raises(bqstore.InvalidInputError) as caught:
                    full.count(condition)
                assert len(str(caught.value)) < 5000


def test_deleting_by_them_deletes_their_document(tmp_path, nothing_is_executed):
    with bqstore.open(tmp_path) as col:
        col.add(np.ones((len(ALL), 2)), ALL, metadatas=[{"v": text, text: 1} for text in ALL])
        left = list(ALL)
        for i, text in enumerate(ALL[::3]):
            key = text if i % 3 == 1 and not text.startswith("$") and text != "v" else None
            condition = {key: 1} if key is not None else {"_bq_id": text} if i % 3 else {"v": text}
            assert col.delete(filter=condition) == 1, condition
            left.remove(text)
            if i % 20 == 0:
                assert [record.id for record in col.scroll()] == left
        assert [record.id for record in col.scroll()] == left and col.verify().ok
        col.compact()
        assert [record.metadata for record in col.scroll()] == [{"v": text, text: 1} for text in left]


@pytest.mark.parametrize("text", SURROGATES)
def test_what_is_no_text_is_refused_everywhere(full, nothing_is_executed, text):
    filters: list[Any] = [
        {text: 1}, {f"deep.{text}": 1}, {"v": text}, {"v": [text]}, {"_bq_id": text}, {"_bq_ref_doc_id": text},
        {"v": {text: 1}},
        *({"v": {name: text}} for name in ("$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$like", "$ilike", "$contains")),
        *({"v": {name: ["a", text]}} for name in ("$in", "$nin", "$any", "$all", "$between", "$eq", "$ne")),
        {"v": {"$eq": {"a": [text]}}}, {"v": {"$eq": {text: 1}}},
        {"$or": [{"v": 1}, {"$not": {"v": {"$not": {"$eq": text}}}}]},
    ]  # fmt: skip
    for condition in filters:
        for call in (full.count, full.scroll, lambda given: full.delete(filter=given)):
            with pytest.raises(bqstore.InvalidInputError) as caught:
                call(condition)
            str(caught.value).encode()  # a message that can be printed
    for arguments in ({"ids": [text]}, {"metadatas": [{text: 1}]}, {"metadatas": [{"v": text}]}, {"texts": [text]}):
        with pytest.raises(bqstore.InvalidInputError):
            full.add([[1.0, 2, 3, 4]], **arguments)
    assert text not in full


# ---- values that are not what they look like


class Letter(str, enum.Enum):
    A = "a"
    V = "v"
    W = "w"


class Number(enum.IntEnum):
    ONE = 1


class Text(str):
    def __eq__(self, other):
        return True

    __hash__ = str.__hash__


@pytest.fixture(scope="module")
def few():
    with bqstore.open() as col:
        col.add(np.eye(4), list("abcd"), metadatas=[{"v": "a"}, {"v": 1}, {"v": [1, "a"]}, {"w": 1}])
        yield col


def test_subclasses_are_what_they_derive_from(few):
    assert [r.id for r in few.scroll({"v": Letter.A})] == ["a", "c"]
    assert [r.id for r in few.scroll({"v": Number.ONE})] == ["b", "c"]
    assert [r.id for r in few.scroll({"v": {"$gte": Number.ONE}})] == ["b", "c"]
    assert [r.id for r in few.scroll({"v": Text("z")})] == []
    assert [r.id for r in few.scroll({Letter.W: {"$in": [Number.ONE]}})] == ["d"]
    assert [r.id for r in few.scroll({"$not": {Letter.V: {"$exists": True}}})] == ["d"]
    assert [r.id for r in few.scroll({"v": {"$like": Letter.A}})] == ["a", "c"]


@pytest.mark.parametrize(
    "value",
    [decimal.Decimal("nan"), Fraction(1), 1 + 0j, b"a", bytearray(b"a"), memoryview(b"a"), range(2), object(), Ellipsis,
     len, Letter, np.array([1]), np.array(1), np.float64("nan"), np.void(b"a"), iter([1]), lambda: 1],
)  # fmt: skip
def test_values_that_no_document_holds_are_refused(few, value):
    for condition in ({"v": value}, {"v": {"$gt": value}}, {"v": {"$in": [value]}}, {"v": {"$eq": {"a": value}}}):
        with pytest.raises(bqstore.InvalidInputError):
            few.count(condition)


def test_numbers_of_thousands_of_digits(few):
    many = 10**4299  # as many as JSON keeps
    assert few.count({"v": many}) == 0 and few.count({"v": {"$ne": many}}) == 4
    assert few.count({"v": {"$lt": many}}) == 2 and few.count({"v": {"$between": [-many, many]}}) == 2
    with bqstore.open() as col:
        col.add(np.eye(2), metadatas=[{"v": many}, {"v": [-many]}])
        assert col.count({"v": many}) == col.count({"v": {"$gte": many}}) == col.count({"v": {"$lt": 1e308}}) == 1
    huge = 10**5000  # more digits than Python prints, and JSON keeps
    for given in ({"$between": [huge, "a"]}, {"$like": huge}, {"$exists": huge}, {"$lt": huge}, {"$in": [huge]}, huge):
        with pytest.raises(bqstore.InvalidInputError):
            few.count({"v": given})
    with pytest.raises(bqstore.InvalidInputError):
        few.count({huge: 1})


# ---- filters without end


@pytest.mark.sampled(5)
@pytest.mark.parametrize("name", ["$in", "$nin", "$any", "$all", ""])
@pytest.mark.parametrize("kind", [int, str, lambda i: [i]], ids=["numbers", "strings", "lists"])
def test_ten_thousand_operands(few, name, kind):
    def condition(n):
        operands = [kind(i) for i in range(n)]
        return {"v": {name: operands} if name else operands}

    found = {"$in": 2, "$any": 2, "": 2, "$nin": 2, "$all": 0} if kind is int else {"$nin": 4}
    assert few.count(condition(10_000)) == found.get(name, 0)
    assert few.count({"v": {"$in": list(range(2, 9_000)), "$nin": list(range(9_000))}}) == 0  # each by itself
    with pytest.raises(bqstore.InvalidInputError, match=r"10,?001.*10,000|10,000.*10,?001"):
        few.count(condition(10_001))


def odd(n: int) -> dict[str, Any]:
    """One condition more where the pairs leave one out."""
    return {"v": 1} if n % 2 else {}


@pytest.mark.parametrize(
    "tree",
    [
        lambda n: {f"k{i}": 1 for i in range(n)},
        lambda n: {"$and": [{f"k{i}": 1} for i in range(n - 1)]},
        lambda n: {"$or": [{"v": {"$gt": i}} for i in range(n - 1)]},
        lambda n: {"$or": [{"v": 1, "w": {"$exists": True}} for _ in range(n // 2)]} | odd(n),
        lambda n: {"$and": [{"$not": {"v": i}} for i in range(n // 2)]} | odd(n),
        lambda n: {f"k{i}": {"$gt": 1, "$lt": 2} for i in range(n // 2)} | odd(n),
        lambda n: {f"k{i}": {"$not": {"$eq": 1}} for i in range(n // 2)} | odd(n),
    ],
    ids=["keys", "and", "or", "pairs", "nots", "operators", "field nots"],
)
def test_two_hundred_and_fifty_six_nodes(few, tree):
    for n in range(250, 257):
        if nodes(tree(n)) <= 256:
            assert 0 <= few.count(tree(n)) <= 4
    over = next(tree(n) for n in range(250, 300) if nodes(tree(n)) == 257)
    with pytest.raises(bqstore.InvalidInputError, match=r"256"):
        few.count(over)
    with pytest.raises(bqstore.InvalidInputError, match=r"256"):
        few.count({"$or": [{"v": 1}] * 1_000_000})


def nodes(tree: dict[str, Any]) -> int:
    """Conditions on fields, and $and, $or and $not."""
    count = 0
    for key, given in tree.items():
        if key in ("$and", "$or"):
            count += 1 + sum(nodes(part) for part in given)
        elif key == "$not":
            count += 1 + nodes(given)
        else:
            count += operators(given) if isinstance(given, dict) else 1
    return count


def operators(given: dict[str, Any]) -> int:
    return sum(1 + (operators(value) if name == "$not" else 0) for name, value in given.items())


WRAPS: dict[str, Any] = {
    "$and": lambda tree: {"$and": [tree]},
    "$or": lambda tree: {"$or": [tree]},
    "$not": lambda tree: {"$not": tree},
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", [*WRAPS, "mixed", "on a field"])
def test_sixteen_levels(few, name):
    def nested(depth):
        if name == "on a field":
            inner: dict[str, Any] = {"$eq": 1}
            for _ in range(depth):
                inner = {"$not": inner}
            return {"v": inner}
        tree: dict[str, Any] = {"v": 1}
        for level in range(depth):
            tree = WRAPS[name if name != "mixed" else ["$and", "$not", "$or"][level % 3]](tree)
        return tree

    assert few.count(nested(16)) in (2, 4 - 2)
    assert [few.count(nested(depth)) for depth in (1, 2)] == ([2, 2])
    for depth in (17, 18, 900, 100_000):
        with pytest.raises(bqstore.InvalidInputError, match="16"):
            few.count(nested(depth))
    both = {"$and": [{"v": {"$not": {"$eq": 1}}}]}
    for _ in range(14):
        both = {"$or": [both]}
    assert few.count(both) == 2
    with pytest.raises(bqstore.InvalidInputError, match="16"):
        few.count({"$or": [both]})


def test_what_holds_itself_is_refused(few):
    tree: dict[str, Any] = {}
    tree["$not"] = tree
    many: dict[str, Any] = {"$and": []}
    many["$and"] += [many, many]
    inner: dict[str, Any] = {}
    inner["$not"] = inner
    loop: list[Any] = []
    loop.append(loop)
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    circle: dict[str, Any] = {}
    circle["a"] = circle
    for condition in (tree, many, {"v": inner}, {"v": loop}, {"v": {"$eq": circle}}, {"v": {"$in": deep}}, {"v": deep}):
        with pytest.raises(bqstore.InvalidInputError):
            few.count(condition)


def test_very_long_keys_and_values(few):
    long = "a" * 1_000_000
    assert few.count({long: 1}) == few.count({"v": long}) == few.count({"v": {"$contains": long}}) == 0
    assert few.count({".".join(["a"] * 100_000): 1}) == 0
    assert few.count({"v": {"$like": "%" * 100_000}}) == 2 and few.count({"v": {"$ilike": long + "%"}}) == 0
    for condition in ({"v": {"$" + long: 1}}, {"$" + long: 1}, {"v": {"$exists": long}}, {"v": {long: 1}}):
        with pytest.raises(bqstore.InvalidInputError) as caught:
            few.count(condition)
        assert len(str(caught.value)) < 10_000


PATTERNS = """
import numpy as np
import bqstore

for wrap in (lambda value: value, lambda value: [1, value, "c"]):
    with bqstore.open() as col:
        values = ["a" * 20_000, "a" * 20_000 + "b", "a" * 50_000, "b" + "a" * 20_000, "ab" * 10_000]
        col.add(np.ones((5, 2)), list("vwxyz"), metadatas=[{"v": wrap(value)} for value in values])
        for pattern, found in [
            ("%a" * 30 + "%b", "wz"),
            ("%a" * 5000 + "%b", "wz"),
            ("%a_" * 300 + "%b", "wz"),
            ("%_" * 3000 + "d", ""),
            ("_%" * 3000, "vwxyz"),
            ("%" * 3000 + "d", ""),
            ("%" + "a" * 5000 + "b%", "w"),
            ("%" + "a%" * 3000 + "b%" + "a%" * 3000, "z"),
            ("a%" * 20_000, "vwx"),
            ("%aa%" * 500 + "b", "w"),
            ("%ab" * 200 + "%ac", ""),
        ]:
            for name, given in (("$like", pattern), ("$ilike", pattern.upper())):
                ids = "".join(record.id for record in col.scroll({"v": {name: given}}))
                assert ids == found, (name, pattern[:20], ids)
        whole = col.count({"v": {"$contains": "a" * 10_000 + "b"}})
        assert whole == (1 if wrap("x") == "x" else 0)
print("done")
"""


def test_patterns_that_would_take_years_to_try_out():
    run = subprocess.run(
        [sys.executable, "-c", PATTERNS],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=HANGS,
        check=False,
    )
    assert (run.stdout, run.stderr) == ("done\n", "")


def test_patterns_against_the_slow_evaluation():
    """Every pattern of up to five of these signs, against every short string."""
    texts = ["".join(some) for length in range(6) for some in product("ab", repeat=length)]
    with bqstore.open() as col:
        col.add(np.ones((len(texts), 2)), metadatas=[{"v": text} for text in texts])
        for length in range(5):
            for some in product(["a", "%", "_", r"\b"], repeat=length):
                pattern = "".join(some)
                wanted = [text for text in texts if like(text, pattern)]
                assert [record.metadata["v"] for record in col.scroll({"v": {"$like": pattern}})] == wanted, pattern
