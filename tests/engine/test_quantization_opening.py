"""What may be asked of an existing collection's quantization at an opening, and what that changes: mostly nothing."""

import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest

import bqstore
from bqstore import Quantization, SettingsConflictError
from bqstore.storage import open_store
from tests.engine.given import BITS, data_of, settle_early
from tests.engine.test_quantization import SIGNS, asked, check_codes, named_ids, opened, points, way_of

N, DIM = 500, 24
ENOUGH = 450
BASE, QUERIES = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in data_of(1200, DIM, queries=20))
FIELDS = {
    "encoding": ("one_bit", "one_and_half_bits", "two_bits", "four_bits"),
    "estimator": ("sign", "rabitq"),
    "rotate": (False, True),
}


@pytest.fixture(autouse=True)
def chosen_and_linked_early(monkeypatch):
    """As of 2,048 documents, of fewer."""
    settle_early(monkeypatch, ENOUGH)


# collections as they are stored: what they were made with, and their vectors
MADE = {
    "given signs": ({"encoding": "one_bit"}, BASE[:N]),
    "given two bits": ({"encoding": "two_bits"}, BASE[:N]),
    "given one_bit rabitq": ({"encoding": "one_bit", "estimator": "rabitq"}, BASE[:N]),
    "given two_bits rabitq turned": ({"encoding": "two_bits", "estimator": "rabitq", "rotate": True}, BASE[:N]),
    "given four_bits rabitq": ({"encoding": "four_bits", "estimator": "rabitq", "rotate": False}, BASE[:N]),
    # what is chosen of these is the name
    "chosen one_bit sign": ({}, points(N, 96, 25)),
    "chosen one_bit rabitq": ({}, points(N, 96, 25, shift=3)),
    "chosen two_bits rabitq": ({"distance": "dot"}, points(N, 32, 40, shift=3, seed=1)),
    "chosen four_bits rabitq": ({}, np.random.default_rng(0).standard_normal((N, 6)).astype(np.float32)),
    "asked for later": ("requantize", BASE[:N]),
}
SETTLED = list(MADE)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folders of all kinds, made once."""
    patch = pytest.MonkeyPatch()
    settle_early(patch, ENOUGH)
    folders = {}
    for name, (settings, vectors) in MADE.items():
        folders[name] = tmp_path_factory.mktemp("made") / "store"
        with opened(folders[name], **({} if settings == "requantize" else settings)) as col:
            col.add(vectors, named_ids(0, len(vectors)))
            if settings == "requantize":
                col.requantize(encoding="two_bits", estimator="rabitq")
            if name.startswith("chosen"):
                assert col.info().choice is not None and way_of(col)[:2] == tuple(name.split()[1:])
    for name, n in (("untrained", 100), ("empty", 0)):
        folders[name] = tmp_path_factory.mktemp("made") / "store"
        with opened(folders[name]) as col:
            col.add(BASE[:n], named_ids(0, n))
    patch.undo()
    return folders


@pytest.fixture
def stored(made, tmp_path):
    """A copy of one of them."""

    def copy(name):
        shutil.copytree(made[name], tmp_path / "store")
        return tmp_path / "store"

    return copy


def head_of(path):
    store = open_store(path / "default", None, None, read_only=True)
    try:
        return store.head
    finally:
        store.close()


def open_with(path, settings, how, **more):
    """The same settings in each of the forms that are taken."""
    if how == "dict":
        return bqstore.open(path, quantization=settings, **more)
    if how == "object":
        return bqstore.open(path, quantization=Quantization(**settings), **more)
    return bqstore.open_flat(path, **settings, **more)


def used_of(path):
    with bqstore.open(path, read_only=True) as col:
        return col.info().quantization, col.info().choice


def agreeing(used):
    """Every part of a quantization, alone and together."""
    whole = {name: getattr(used, name) for name in FIELDS}
    parts = [{name: value} for name, value in whole.items()]
    parts += [
        whole,
        {**whole, "query_encoding": used.query_encoding},
        {"encoding": used.encoding, "rotate": used.rotate},
    ]
    return [*parts, {"encoding": used.encoding, "estimator": used.estimator}]


# ---- settled: by what was given, or chosen


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", SETTLED)
def test_nothing_said_is_as_stored(stored, name):
    path = stored(name)
    before, head = used_of(path), head_of(path)
    for settings in (None, {}, {"encoding": "auto"}, {"estimator": "auto", "rotate": None}, Quantization()):
        for read_only in (True, False):
            with bqstore.open(path, quantization=settings, read_only=read_only) as col:
                assert (col.info().quantization, col.info().choice) == before
        assert head_of(path).settings == head.settings
    with bqstore.open_flat(path, encoding="auto", estimator=None, full_scan_threshold=0) as col:
        col.add(MADE[name][1][:3], ["a", "b", "c"])
        assert (col.info().quantization, col.info().choice) == before
        assert col.info().generation == head.generation
        check_codes(col)


@pytest.mark.sampled(6)
@pytest.mark.parametrize("name", SETTLED)
@pytest.mark.parametrize("how", ["dict", "object", "flat"])
def test_what_agrees_changes_nothing_now_or_later(stored, name, how):
    """Named in part, "two_bits" was taken for Qdrant's; the next add made all codes of "rabitq" anew as such."""
    path = stored(name)
    before, head = used_of(path), head_of(path)
    for number, settings in enumerate(agreeing(before[0])):
        with open_with(path, settings, how, read_only=True) as col:
            assert (col.info().quantization, col.info().choice) == before
        with open_with(path, settings, how) as col:
            assert (col.info().quantization, col.info().choice) == before
            col.add(MADE[name][1][:1], [f"e{number}"])
            assert (col.info().quantization, col.info().choice) == before, settings
            assert col.info().generation == head.generation
        assert head_of(path).settings == head.settings
    with bqstore.open(path) as col:
        assert (col.info().quantization, col.info().choice) == before
        check_codes(col)
        col.add(MADE[name][1][:1], ["last"])
        assert col.info().generation == head.generation


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", SETTLED)
def test_what_contradicts_is_refused_and_both_are_named(stored, name):
    path = stored(name)
    (used, choice), head = used_of(path), head_of(path)
    files = {file: file.stat().st_size for file in path.rglob("*.bin")}
    for field, values in FIELDS.items():
        has = getattr(used, field)
        for value in values:
            if value == has:
                continue
            for how in ("dict", "object", "flat"):
                for read_only in (True, False):
                    with pytest.raises(SettingsConflictError, match=r"requantize\(\)") as told:
                        open_with(path, {field: value}, how, read_only=read_only)
                    assert f"{field}={value!r}" in str(told.value) and f"{field}={has!r}" in str(told.value)
    for settings in ({"encoding": "two_bit"}, {"encoding": "four_bits", "estimator": "sign"}, {"rotate": "no"}):
        with pytest.raises(bqstore.InvalidInputError):
            bqstore.open(path, quantization=settings)
    assert head_of(path) == head and used_of(path) == (used, choice)
    assert {file: file.stat().st_size for file in path.rglob("*.bin")} == files


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", SETTLED)
def test_the_query_encoding_may_differ_each_time_and_is_not_stored(stored, name):
    path = stored(name)
    (used, _), head, query = used_of(path), head_of(path), MADE[name][1][0]
    best = query @ query if "distance" in MADE[name][0] else 1
    for wanted in ("binary", "scalar4bits", "scalar8bits"):
        for read_only in (True, False):
            with bqstore.open_flat(path, query_encoding=wanted, read_only=read_only, full_scan_threshold=0) as col:
                assert col.info().quantization == replace(used, query_encoding=wanted)
                hits = col.search(query, 5, explain=True)
                assert (
                    hits.explanation.query_encoding == wanted
                    and hits[0].score >= (0.9 if wanted == "binary" else 0.99) * best
                )
                if not read_only:
                    col.add(MADE[name][1][:1], ["e"])
                    assert col.info().quantization == replace(used, query_encoding=wanted)
        assert head_of(path).settings == head.settings
    assert used_of(path)[0] == used


def test_the_query_encoding_that_was_given_first_stays(tmp_path):
    for encoding in ("one_bit", "two_bits", None):
        path = tmp_path / str(encoding)
        with opened(path, encoding=encoding, query_encoding="scalar8bits") as col:
            col.add(BASE[:N])
            assert col.info().quantization.query_encoding == "scalar8bits"
        with opened(path, query_encoding="binary") as col:
            assert col.info().quantization.query_encoding == "binary"
            col.clear()
            col.add(BASE[:N])
            assert col.info().quantization.query_encoding == "binary"
        with opened(path) as col:
            assert col.info().quantization.query_encoding == "scalar8bits"


# ---- open: signs, until there are more vectors


def ways_to_ask():
    out = [{"encoding": encoding} for encoding in FIELDS["encoding"]]
    out += [{"encoding": bits, "estimator": "rabitq"} for bits in ("one_bit", "two_bits", "four_bits")]
    return [*out, {"encoding": "two_bits", "estimator": "rabitq", "rotate": True}]


@pytest.mark.sampled(5)
@pytest.mark.parametrize("name", ["untrained", "empty"])
@pytest.mark.parametrize("settings", ways_to_ask(), ids=str)
def test_what_is_asked_of_an_open_one_is_what_it_becomes(stored, name, settings):
    """The second opening, with the same words, was refused: codes were still signs."""
    path = stored(name)
    count = 100 if name == "untrained" else 0
    for _ in range(2):
        with opened(path, **settings) as col:
            assert len(col) == count
    with opened(path) as col:
        assert len(col.search(QUERIES[0], 200)) == count
    with opened(path, **settings) as col:
        col.add(BASE[100:110], named_ids(100, 110))
        made = dict(zip(("encoding", "estimator", "rotate"), way_of(col), strict=True))
        assert made.items() >= settings.items()
        if "estimator" not in settings and settings["encoding"] != "four_bits":
            assert made["estimator"] == "sign"
        check_codes(col)
        used = col.info().quantization
    for again in (settings, {}):
        with opened(path, **again) as col:
            assert way_of(col)[:2] == (used.encoding, used.estimator) and len(col) >= count + 10
            col.add(BASE[110:600], named_ids(110, 600))
            check_codes(col)
            assert col.info().quantization.encoding == settings["encoding"]
    other = "two_bits" if settings["encoding"] != "two_bits" else "one_bit"
    with pytest.raises(
        SettingsConflictError, match=f"encoding='{other}'.*encoding='{settings['encoding']}'.*requantize"
    ):
        opened(path, encoding=other)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("settings", ways_to_ask()[1:], ids=str)
def test_a_reader_of_an_open_one_changes_nothing(stored, settings):
    path = stored("untrained")
    head = head_of(path)
    with opened(path, read_only=True, **settings) as col:
        assert len(col.search(QUERIES[0], 200)) == 100 and col.info().quantization.encoding == "one_bit"
    assert head_of(path) == head
    with opened(path) as col:
        col.add(BASE[100:N], named_ids(100, N))
        assert col.info().choice is not None


def test_an_open_one_is_chosen_when_it_has_grown_whoever_looked_at_it(stored):
    path = stored("untrained")
    for settings in ({}, {"encoding": "auto"}, {"query_encoding": "binary"}):
        with opened(path, **settings) as col:
            assert way_of(col) == ("one_bit", "sign", False) and col.info().choice is None
    with opened(path) as col:
        assert col.info().quantization == SIGNS
        col.add(BASE[100:N], named_ids(100, N))
        assert col.info().choice is not None and col.info().generation == 1
        check_codes(col)
        used = col.info().quantization
    assert used_of(path)[0] == used


@pytest.mark.sampled(3)
@pytest.mark.parametrize("settings", ways_to_ask()[1:], ids=str)
def test_without_originals_signs_cannot_become_anything_else(tmp_path, settings):
    """They were said to become it, and never did; the opening after that was refused."""
    with opened(tmp_path, originals="none") as col:
        col.add(BASE[:100], named_ids(0, 100))
    head = head_of(tmp_path)
    for _ in range(2):
        with pytest.raises(SettingsConflictError, match=r"encoding|estimator"):
            opened(tmp_path, **settings)
    assert head_of(tmp_path).settings == head.settings
    for agree in ({}, {"encoding": "one_bit"}, {"encoding": "one_bit", "estimator": "sign"}, {"rotate": False}):
        with opened(tmp_path, **agree) as col:
            col.add(BASE[100:600], named_ids(100, 600))
            assert col.info().quantization == SIGNS and col.info().generation == 0


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"encoding": "two_bits"}, {"encoding": "one_bit"}),
        ({"encoding": "four_bits"}, {"encoding": "one_bit"}),
        ({"encoding": "one_bit", "estimator": "rabitq"}, {"estimator": "sign"}),
        ({"estimator": "rabitq"}, {"estimator": "sign"}),
        ({"rotate": True}, {"rotate": False}),
    ],
    ids=str,
)
def test_what_was_asked_for_before_there_are_vectors_stands(tmp_path, first, second):
    opened(tmp_path, **first).close()
    with pytest.raises(SettingsConflictError, match="requantize") as told:
        opened(tmp_path, **second)
    (name,) = second
    assert f"{name}={second[name]!r}" in str(told.value) and f"{name}={first[name]!r}" in str(told.value)
    with opened(tmp_path, **first) as col:
        col.requantize(**{**second, "encoding": "one_bit"})
    opened(tmp_path, **second).close()


def test_what_cannot_go_together_over_two_openings_is_refused(tmp_path):
    for number, (first, second) in enumerate(
        (
            ({"encoding": "four_bits"}, {"estimator": "sign"}),
            ({"estimator": "sign"}, {"encoding": "four_bits"}),
            ({"estimator": "sign"}, {"rotate": True}),
            ({"encoding": "one_and_half_bits"}, {"estimator": "rabitq"}),
        )
    ):
        path = tmp_path / str(number)
        opened(path, **first).close()
        head = head_of(path)
        with pytest.raises(bqstore.InvalidInputError):
            opened(path, **second)
        assert head_of(path) == head
        opened(path, **first).close()


def test_a_new_one_keeps_all_that_was_said(tmp_path):
    whole = Quantization("two_bits", "scalar8bits", "rabitq", True)
    for number, given in enumerate((whole, asdict(whole))):
        with bqstore.open(tmp_path / str(number), quantization=given) as col:
            col.add(BASE[:50])
            assert col.info().quantization == whole
        assert used_of(tmp_path / str(number))[0] == whole


# ---- of the release before there was a choice


@pytest.fixture(params=[100, N])
def before(request, tmp_path):
    """A folder whose settings are as that release wrote them."""
    with opened(tmp_path, encoding="one_bit") as col:
        col.add(BASE[: request.param], named_ids(0, request.param))
        expected = col.search_ids(QUERIES, 10, rescore=False)
    store = open_store(tmp_path / "default", None, None, read_only=False)
    store.start_writing()
    settings = {name: value for name, value in store.head.settings.items() if name not in ("coding", "choice")}
    settings["quantization"] = {"encoding": "one_bit", "query_encoding": "binary", "estimator": "sign"}
    store.put_settings(settings, DIM)
    store.close()
    assert head_of(tmp_path).format_version == 1
    return tmp_path, request.param, expected


AS_IT_WAS = [
    {},
    {"encoding": "auto"},
    {"encoding": "one_bit"},
    {"encoding": "one_bit", "query_encoding": "binary", "estimator": "sign"},
    {"estimator": "sign", "rotate": False},
    {"query_encoding": "scalar4bits"},
]


@pytest.mark.sampled(6)
@pytest.mark.parametrize("settings", AS_IT_WAS, ids=str)
@pytest.mark.parametrize("read_only", [True, False])
def test_a_collection_of_the_previous_release_stays_signs(before, settings, read_only):
    path, n, expected = before
    head = head_of(path)
    with opened(path, read_only=read_only, **settings) as col:
        used = col.info().quantization
        assert used == replace(SIGNS, query_encoding=settings.get("query_encoding", "binary"))
        assert (col.info().choice, col.info().linked) == (None, n if n > ENOUGH else 0)
        if "scalar4bits" not in settings.values():
            found = col.search_ids(QUERIES, 10, rescore=False)
            assert found[0].tolist() == expected[0].tolist() and found[1].tolist() == expected[1].tolist()
        assert col.verify().ok
        if not read_only:
            col.add(BASE[n : n + 700], named_ids(n, n + 700))
            assert (way_of(col), col.info().choice, col.info().generation) == (("one_bit", "sign", False), None, 0)
            check_codes(col)
    if read_only:
        assert head_of(path) == head
    with bqstore.open(path, hnsw=BITS) as col:
        assert col.info().quantization == SIGNS and col.info().format_version == 1


def test_a_collection_of_the_previous_release_refuses_what_it_is_not(before):
    path, n, _ = before
    for field, value in (
        ("encoding", "two_bits"),
        ("estimator", "rabitq"),
        ("rotate", True),
        ("encoding", "four_bits"),
    ):
        with pytest.raises(SettingsConflictError, match="requantize") as told:
            opened(path, **{field: value})
        was = {"encoding": "one_bit", "estimator": "sign", "rotate": False}[field]
        assert f"{field}={value!r}" in str(told.value) and f"{field}={was!r}" in str(told.value)
    with opened(path) as col:
        used = col.requantize()
        assert (col.info().choice is not None) == (n >= ENOUGH) and len(col) == n
        check_codes(col)
    assert used_of(path)[0] == used
    with opened(path) as col:
        col.clear()
        col.requantize(**asked(("two_bits", "rabitq", False)))
        col.add(BASE[:10])
        assert way_of(col) == ("two_bits", "rabitq", False)
