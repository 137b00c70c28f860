"""Vectors in whatever holds numbers: taken without loss, else an error that says what they are."""

import collections
import fractions
import math
import types
from decimal import Decimal

import numpy as np
import pytest

import bqstore
from bqstore import InvalidInputError

ROWS = [[1.0, 2.5, -3.0], [0.0, 0.5, 4.0]]


def kept(given):
    with bqstore.open() as col:
        col.add(given, ["a", "b"])
        return [record.vector.tolist() for record in col.get(["a", "b"], with_vectors=True)]


def objects(rows):
    out = np.empty(len(rows), object)
    out[:] = rows
    return out


@pytest.mark.parametrize(
    "given",
    [
        tuple(map(tuple, ROWS)),
        (row for row in ROWS),
        collections.deque(ROWS),
        {0: ROWS[0], 1: ROWS[1]}.values(),
        [[Decimal(str(value)) for value in row] for row in ROWS],
        [[fractions.Fraction(value) for value in row] for row in ROWS],
        np.array(ROWS, object),
        objects([np.array(row) for row in ROWS]),
        objects(ROWS),
        [np.array(row, np.float16) for row in ROWS],
        np.array(ROWS, np.longdouble),
        np.array(ROWS, ">f4"),
        np.asfortranarray(ROWS),
    ],
)
def test_numbers_of_python_and_numpy(given):
    assert kept(given) == ROWS


def test_columns_and_frames_of_pandas():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(ROWS)
    assert kept(frame) == kept(pandas.DataFrame(ROWS, dtype="Float32")) == kept(frame.astype(object)) == ROWS
    assert kept(pandas.Series(ROWS)) == kept(pandas.Series([np.array(row) for row in ROWS])) == ROWS
    with bqstore.open() as col:
        assert kept(pandas.DataFrame({"embedding": ROWS})) == ROWS
        col.add(frame, ["a", "b"])
        assert col.search(pandas.Series(ROWS[1]), 1)[0].id == "b"
        with pytest.raises(InvalidInputError, match="NAType"):
            col.add(pandas.DataFrame([[1.0, None, 2.0]], dtype="Float32"))


def test_columns_and_frames_of_polars():
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame(ROWS, orient="row")
    assert (
        kept(frame)
        == kept(polars.Series(ROWS))
        == kept(polars.Series(ROWS, dtype=polars.Array(polars.Float32, 3)))
        == kept(polars.DataFrame({"embedding": ROWS}))
        == ROWS
    )


def test_columns_of_arrow():
    arrow = pytest.importorskip("pyarrow")
    fixed = arrow.array(ROWS, arrow.list_(arrow.float32(), 3))
    assert kept(fixed) == kept(arrow.array(ROWS)) == kept(arrow.chunked_array([fixed[:1], fixed[1:]])) == ROWS
    assert kept(fixed[1:].take([0, 0])) == [ROWS[1], ROWS[1]]
    table = arrow.table({"v": fixed})
    assert kept(table.column("v")) == kept(table) == kept(arrow.table({"v": arrow.array(ROWS)})) == ROWS
    columns = {str(i): column for i, column in enumerate(np.transpose(ROWS))}
    assert kept(arrow.table(columns)) == kept(arrow.record_batch(columns)) == ROWS


def test_small_floats():
    small = pytest.importorskip("ml_dtypes")
    assert kept(np.array(ROWS, small.bfloat16)) == kept(np.array(ROWS, small.float8_e4m3fn)) == ROWS
    assert kept([np.array(row, small.bfloat16) for row in ROWS]) == ROWS
    assert kept(np.array([[1, -2], [3, 0]], small.int4)) == [[1.0, -2.0], [3.0, 0.0]]
    with bqstore.open() as col:
        row = np.array(ROWS[0], small.bfloat16)
        col.add([row], ["a"], metadatas=[{"x": row[1], "row": row}])
        assert col.get(["a"])[0].metadata == {"x": 2.5, "row": ROWS[0]}


def test_tensors():
    torch = pytest.importorskip("torch")
    for tensor in (
        torch.tensor(ROWS, requires_grad=True),
        torch.tensor(ROWS, dtype=torch.bfloat16),
        torch.tensor(ROWS).to(torch.float8_e4m3fn),
        torch.tensor(ROWS).to_sparse(),
        torch.nn.Parameter(torch.tensor(ROWS)),
        torch.tensor(ROWS, dtype=torch.float64),
        list(torch.tensor(ROWS, requires_grad=True)),
    ):
        assert kept(tensor) == ROWS
        with bqstore.open() as col:
            col.add(tensor, ["a", "b"], metadatas=[{"x": tensor[0][1].to_dense(), "row": tensor[0].to_dense()}, {}])
            assert col.search(tensor[1], 1)[0].id == "b"
            assert [hit.metadata for hit in col.search(tensor[0], 2, filter={"x": 2.5})] == [{"x": 2.5, "row": ROWS[0]}]


@pytest.mark.filterwarnings("ignore:Sparse CSR:UserWarning")
def test_tensors_of_sparse_rows():
    torch = pytest.importorskip("torch")
    assert kept(torch.tensor(ROWS).to_sparse_csr()) == ROWS


def test_arrays_of_jax():
    jax = pytest.importorskip("jax.numpy")
    for array in (
        jax.array(ROWS),
        jax.array(ROWS, jax.bfloat16),
        jax.array(ROWS, jax.float8_e4m3fn),
        [jax.array(row) for row in ROWS],
    ):
        assert kept(array) == ROWS
        with bqstore.open() as col:
            col.add(array, ["a", "b"], metadatas=[{"x": array[0][1], "row": array[0]}, {}])
            assert col.search(array[1], 1)[0].id == "b"
            assert [hit.metadata for hit in col.search(array[0], 2, filter={"x": 2.5})] == [{"x": 2.5, "row": ROWS[0]}]


class Tensor:
    """What torch documents of a tensor: numpy gets it only detached, on the processor, and of a type that it knows."""

    def __init__(self, rows, *, kind="float32", held=True, remote=True, is_sparse=False):
        self.rows, self.held, self.remote, self.is_sparse = rows, held, remote, is_sparse
        self.kind = kind
        self.dtype = types.SimpleNamespace(is_floating_point="float" in kind)
        self.shape = np.shape(rows)

    def _as(self, **changes):
        given = {"kind": self.kind, "held": self.held, "remote": self.remote, "is_sparse": self.is_sparse}
        return Tensor(self.rows, **{**given, **changes})

    def detach(self):
        return self._as(held=False)

    def cpu(self):
        return self._as(remote=False)

    def to_dense(self):
        return self._as(is_sparse=False)

    def float(self):
        return self._as(kind="float32")

    def numpy(self):
        if self.held or self.remote or self.is_sparse or self.kind == "bfloat16":
            raise TypeError("torch cannot give this to numpy")
        return np.array(self.rows, self.kind)

    def __array__(self, dtype=None, copy=None):
        return self.numpy()

    def tolist(self):
        if self.is_sparse:
            raise NotImplementedError("Cannot access storage of SparseTensorImpl")
        return self.rows


@pytest.mark.parametrize("options", [{}, {"kind": "bfloat16"}])
def test_tensors_are_queries_and_in_metadata(options):
    with bqstore.open() as col:
        given = {"score": Tensor(1.5, **options), "row": Tensor(ROWS[0], **options)}
        col.add(Tensor(ROWS, **options), ["a", "b"], metadatas=[given, {}])
        assert col.search(Tensor(ROWS[1], **options), 1)[0].id == "b"
        assert col.search_ids(Tensor(ROWS, **options), 1)[0][:, 0].tolist() == ["a", "b"]
        assert col.get(["a"])[0].metadata == {"score": 1.5, "row": ROWS[0]}
        assert [hit.id for hit in col.search(ROWS[1], 2, filter={"score": 1.5})] == ["a"]
        with pytest.raises(InvalidInputError, match=r"'score': a Tensor cannot be listed .* use \.item"):
            col.add([ROWS[0]], ["c"], metadatas=[{"score": Tensor(1.5, is_sparse=True)}])


@pytest.mark.parametrize("options", [{}, {"kind": "bfloat16"}, {"is_sparse": True}, {"kind": "float64"}])
def test_what_torch_keeps_from_numpy_is_asked_for_as_torch_has_it(options):
    assert kept(Tensor(ROWS, **options)) == ROWS
    assert kept([Tensor(row, **options) for row in ROWS]) == ROWS
    assert kept(Tensor([[1, 2], [3, 4]], kind="int64")) == [[1, 2], [3, 4]]


def test_sparse_rows_of_torch_do_not_say_that_they_are_sparse():
    tensor = Tensor(ROWS)
    tensor.layout = "torch.sparse_csr"
    tensor.detach = tensor.cpu = lambda: tensor
    tensor.numpy, tensor.to_dense = None, lambda: Tensor(ROWS, held=False, remote=False)
    assert kept(tensor) == ROWS


def test_arrays_of_a_graphics_processor():
    class Array:
        """As cupy: it is copied by `get`, never in silence."""

        @property
        def __cuda_array_interface__(self):
            return {"shape": (2, 3), "typestr": "<f4", "version": 3, "data": (1 << 40, False)}

        def get(self):
            return np.array(ROWS)

        def __array__(self, dtype=None, copy=None):
            raise TypeError("implicit conversion to a numpy array is not allowed")

    assert kept(Array()) == ROWS


class Arrow:
    """A column of lists as pyarrow documents it, in chunks or whole, of one length or of any."""

    def __init__(self, rows, *, size=None, null_count=0, chunks=1):
        self.rows, self.null_count = rows, null_count
        self.type = types.SimpleNamespace(**({} if size is None else {"list_size": size}))
        if chunks != 1:  # what is one array has neither
            self.num_chunks, self.chunks = chunks, chunks
            self.combine_chunks = lambda: self if chunks == 0 else Arrow(rows, size=size, null_count=null_count)

    def __len__(self):
        return len(self.rows)

    def to_pylist(self):
        return self.rows

    def __iter__(self):
        """Scalars of Arrow's own, which are no numbers."""
        return iter([[object() for _ in row or ()] for row in self.rows])

    def flatten(self):
        assert self.null_count == 0, "flatten() leaves out the rows that are null"
        return np.concatenate(self.rows)


@pytest.mark.parametrize(
    "options", [{}, {"size": 3}, {"size": 3, "chunks": 2}, {"size": 3, "chunks": 0}, {"chunks": 2}]
)
def test_columns_in_the_form_of_arrow(options):
    assert kept(Arrow(ROWS, **options)) == ROWS
    with pytest.raises(InvalidInputError, match="vectors cannot be read as an array of numbers: vector 1 is None"):
        kept(Arrow([ROWS[0], None], **{**options, "null_count": 1}))


class OfArrow(Arrow):
    """One row of a column."""

    def as_py(self):
        return self.rows


class OfPandas(np.ndarray):
    """A column of pandas, in which NaN is what is missing."""

    def notna(self):
        return np.array([isinstance(each, str) for each in self])

    def where(self, there, other):
        return np.where(there, self, other)


def test_what_is_missing_in_a_column_of_pandas_was_refused_as_a_number():
    column = np.array(["one", np.nan], object).view(OfPandas)
    with bqstore.open() as col:
        col.add(ROWS, ["a", "b"], texts=column)
        assert [record.text for record in col.get(["a", "b"])] == ["one", None]


def test_one_row_of_a_column_of_arrow_was_no_query():
    assert kept([OfArrow(row) for row in ROWS]) == ROWS
    with bqstore.open() as col:
        col.add(ROWS, ["a", "b"])
        assert col.search(OfArrow(ROWS[1]), k=1)[0].id == "b"


def test_ids_texts_and_metadata_were_not_taken_from_columns_and_frames():
    rows = [{"n": 1}, {"n": 2}]
    pandas = type("DataFrame", (list,), {"columns": ["n"], "to_dict": lambda self, orient: rows})
    polars = type("DataFrame", (list,), {"to_dicts": lambda self: rows})
    table = types.SimpleNamespace(to_pylist=lambda: rows)  # of arrow, which cannot be iterated
    for frame in (pandas(["n"]), polars([[1, 2]]), table):  # those have columns as their items
        with bqstore.open() as col:
            assert col.add(ROWS, Arrow(["a", "b"]), Arrow(["one", None]), frame) == ["a", "b"]
            assert col.get(["b", "a"]) == [bqstore.Record("b", None, rows[1]), bqstore.Record("a", "one", rows[0])]


def test_of_a_column_of_arrow_everything_was_skipped():
    with bqstore.open() as col:
        out = col.add(Arrow([ROWS[0], None, ROWS[1]], null_count=1), ["a", "b", "c"], on_error="skip")
        assert out == ["a", "c"] and [(each.index, each.id) for each in out.skipped] == [(1, "b")]
        assert out.skipped[0].reason == "vector 1 is None, not a row of numbers"
        assert [each.vector.tolist() for each in col.get(["a", "c"], with_vectors=True)] == ROWS[:2]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (None, "vector 1 is None, not a row of numbers"),
        ([1.0, 2.0], "vector 1 has 2 dimensions, vector 0 has 3"),
        ([1.0, None, 2.0], "vector 1 holds None; expected numbers"),
        (["a", "b", "c"], "vector 1 holds text; embed it first"),
        ([1.0, float("nan"), 2.0], "vector 1 holds NaN"),
    ],
)
def test_one_vector_that_is_none_among_many_was_not_named(bad, words):
    with bqstore.open() as col:
        with pytest.raises(InvalidInputError, match=rf"{words}.* \(document 'b'\)") as caught:
            col.add([ROWS[0], bad, ROWS[1]], ["a", "b", "c"])
        assert caught.value.index == 1 and len(col) == 0


class Table(Arrow):
    """Columns, each with its name."""

    def __init__(self, columns):
        super().__init__(columns)
        self.column_names = [str(i) for i in range(len(columns))]

    def column(self, i):
        return self.rows[i]


def test_a_table_of_arrow_was_asked_for_the_type_of_a_column():
    assert kept(Table([Arrow(ROWS, size=3)])) == ROWS
    assert kept(Table([Arrow(column) for column in np.transpose(ROWS).tolist()])) == ROWS


def test_a_frame_with_a_column_of_vectors_alone():
    assert kept(objects(ROWS)[:, None]) == kept(objects([np.array(row) for row in ROWS])[:, None]) == ROWS


def test_values_that_are_masked_were_stored_as_what_is_behind_the_mask():
    masked = np.ma.masked_greater(np.array(ROWS), 2)
    for given in (masked, masked.astype(np.float32)):
        with pytest.raises(InvalidInputError, match="masked in places"):
            kept(given)
    with bqstore.open() as col:
        col.add(ROWS, ["a", "b"])
        with pytest.raises(InvalidInputError, match="masked in places"):
            col.search(masked[0])
        assert col.search(np.ma.array(ROWS[1]), 1)[0].id == "b"
    assert kept(np.ma.array(ROWS)) == ROWS  # nothing is masked


@pytest.mark.parametrize("dtype", ["object", "List(Float64)", "Array(Float32, shape=(3,))", "list<item>[pyarrow]"])
def test_columns_of_lists_in_the_form_of_pandas_and_polars(dtype):
    class Column:
        def __init__(self):
            self.dtype = dtype

        def to_list(self):
            return ROWS

        def __array__(self, wanted=None, copy=None):
            return objects([None, None])  # what is not read

    assert kept(Column()) == ROWS


def test_a_column_of_numbers_is_one_query():
    class Column:
        dtype = "Float64"

        def to_list(self):
            raise AssertionError("numbers are taken as an array")

        def __array__(self, dtype=None, copy=None):
            return np.array(ROWS[1])

    with bqstore.open() as col:
        col.add(ROWS, ["a", "b"])
        assert col.search(Column(), 1)[0].id == "b"


def test_a_frame_is_taken_by_its_rows_where_single_documents_may_be_refused():
    """Its items are the names of its columns."""

    class Frame:
        columns = ("x", "y", "z")

        def __iter__(self):
            return iter(self.columns)

        def __array__(self, dtype=None, copy=None):
            return np.array([ROWS[0], [np.nan, 0, 0]])

    with bqstore.open() as col:
        added = col.add(Frame(), ["a", "b"], on_error="skip")
        assert list(added) == ["a"] and [each.id for each in added.skipped] == ["b"]
        with pytest.raises(InvalidInputError, match="vectors"):
            col.add(5, on_error="skip")


def test_sparse_matrices():
    sparse = pytest.importorskip("scipy.sparse")
    assert kept(sparse.csr_matrix(ROWS)) == kept(sparse.coo_array(np.array(ROWS))) == ROWS


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("text", "vectors is text; embed it first; the texts go into texts="),
        (["one", "two"], "vectors holds text; embed it first"),
        (objects(["one", "two"]), "vectors holds text; embed it first"),
        ({"a": ROWS[0]}, "a dict has no order that is meant; pass its values as a list"),
        ([[1.0, None]], "vectors holds None; expected numbers"),
        ([[1.0, 2.0], None], "vector 1 is None, not a row of numbers"),
        ([5.0, [1.0, 2.0]], "vector 0 is a float, not a row of numbers"),
        ([np.array(5.0), None], "vectors holds a ndarray; expected numbers"),
        (objects([np.ones(2), np.ones(3)]), "vector 1 has 3 dimensions, vector 0 has 2"),
        ([[Decimal("NaN"), Decimal(1)]], "vector 0 holds NaN"),
        ([[True, False]], "holds booleans"),
        (np.array([[True, False]], object), "booleans|a bool"),
        (object(), "vectors is an object"),
    ],
)
def test_what_holds_no_numbers_says_what_it_holds(given, words):
    with bqstore.open() as col, pytest.raises(InvalidInputError, match=words):
        col.add(given)


# ---- zero vectors


@pytest.mark.parametrize("originals", ["float32", "float16", "int8", "none"])
@pytest.mark.parametrize("path", ["memory", "disk"])
@pytest.mark.one_place
def test_a_zero_vector_is_stored_and_has_a_cosine_of_zero_with_all(path, originals, tmp_path):
    """An empty page under TF-IDF: the whole batch was refused."""
    with bqstore.open(tmp_path if path == "disk" else None, originals=originals) as col:
        col.add([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]], ["empty", "a", "b", "empty too"])
        if originals != "none":
            hits = col.search([1.0, 0.5], 4)
            assert [hit.id for hit in hits] == ["a", "b", "empty", "empty too"]
            assert [hit.score for hit in hits[2:]] == [0.0, 0.0]
            assert not col.get(["empty"], with_vectors=True)[0].vector.any()
            assert len(col.max_marginal_relevance([1.0, 0.5], 4)) == 4
        assert len(col.search([1.0, 0.5], 4)) == 4 and col.verify().ok


@pytest.mark.parametrize("threshold", [0, 10_000], ids=["codes", "exact"])
def test_a_zero_vector_is_found_in_the_place_of_its_score_in_every_way(threshold):
    """Behind what has something in common with the query, before what points away from it, as in other stores."""
    with bqstore.open(full_scan_threshold=threshold) as col:
        vectors = [[0.0, 0.0], [-1.0, 0.2], [1.0, 0.1], [0.0, 0.0], [1.0, -1.0]]
        col.add(vectors, ["empty", "away", "near", "page", "far"], texts=["word"] * 5, metadatas=[{"n": 1}] * 5)
        query, wanted = [1.0, 0.0], ["near", "far", "empty", "page", "away"]
        ways = [
            col.search(query, 5),
            col.search(query, 5, exact=True),
            col.search(query, 5, filter={"n": 1}),
            col.search_batch([query], 5)[0],
            col.search(query, 5, score_threshold=-1.0),
            col.max_marginal_relevance(query, 5, fetch_k=5, lambda_mult=1.0),
        ]
        assert [[hit.id for hit in hits] for hits in ways] == [wanted] * len(ways)
        assert col.search_ids(query, 5)[0].tolist() == [wanted]
        assert [hit.id for hit in col.search(query, 5, score_threshold=0.0)] == wanted[:4]
        assert [hit.score for hit in ways[0][2:4]] == [0.0, 0.0] > [ways[0][4].score]


def test_a_zero_query_finds_what_matches_in_the_order_of_insertion():
    with bqstore.open() as col:
        col.add([[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]], ["b", "a", "z"], metadatas=[{"n": 0}, {"n": 1}, {"n": 1}])
        assert [(hit.id, hit.score) for hit in col.search([0.0, 0.0])] == [("b", 0.0), ("a", 0.0), ("z", 0.0)]
        assert [hit.id for hit in col.search(np.zeros(2, np.float32), 1, filter={"n": 1})] == ["a"]
        col.delete(["b"])
        ids, scores = col.search_ids(np.array([[0, 0], [1, 0.1], [0, 0]], np.float32), 3)
        assert ids.tolist() == [["a", "z", None], ["a", "z", None], ["a", "z", None]]
        assert scores[0, :2].tolist() == [0, 0] and scores[1, 0] > 0.9 and np.isnan(scores[:, 2]).all()
        assert col.search([0, 0], score_threshold=0.1) == [] and len(col.search([0, 0], score_threshold=-1)) == 2
        assert col.search([0, 0], explain=True).explanation.way == "exact"
        with pytest.raises(InvalidInputError, match="NaN"):
            col.search_ids([[0, 0], [np.nan, 1]])


def test_zero_vectors_among_many_do_not_change_what_is_found(tmp_path):
    """With codes and a graph; the encoding is chosen by measuring, and recall is measured, among them."""
    random = np.random.default_rng(0)
    base = random.standard_normal((2600, 32)).astype(np.float32) + 0.5
    base[::10] = 0
    with bqstore.open(tmp_path, full_scan_threshold=0) as col:
        col.add(base, [f"{i}" for i in range(len(base))])
        assert col.info().linked == 2600 and col.info().choice is not None
        queries = base[1:2600:100]
        found, scores = col.search_ids(queries, 5)
        assert found[:, 0].tolist() == [f"{i}" for i in range(1, 2600, 100)] and np.isfinite(scores).all()
        exact = col.search_ids(queries[:3], 2600, exact=True)
        zero = {f"{i}" for i in range(0, 2600, 10)}
        for ids, values in zip(*exact, strict=True):
            assert {id_ for id_, value in zip(ids, values, strict=True) if value == 0} >= zero
        assert 0 < col.recall(k=5, sample=50).recall <= 1
        with pytest.raises(InvalidInputError, match="zero"):
            col.recall(queries=np.zeros((1, 32)))


def test_a_collection_of_zero_vectors_alone():
    with bqstore.open() as col:
        col.add(np.zeros((2100, 4)))
        assert len(col.search([1.0, 0, 0, 0], 3)) == 3 and col.search([1.0, 0, 0, 0], 1)[0].score == 0


@pytest.mark.parametrize(
    "given", [[0.1, 0.2, -0.3], [1.5, 2, True], [0.1, np.float64(2), 1e-40], [1.0, fractions.Fraction(1, 3), 0]]
)
def test_a_list_of_numbers_is_searched_with_as_the_array_of_them(given):
    with bqstore.open() as col:
        col.add(np.random.default_rng(0).standard_normal((20, 3)))
        expected = col.search_ids(np.array([float(value) for value in given], np.float32))
        for found in (col.search_ids(given), col.search_ids(tuple(given)), col.search_ids([given])):
            assert found[0].tolist() == expected[0].tolist() and found[1].tobytes() == expected[1].tobytes()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "bad",
    [np.array([0.5]), np.array([[0.5]]), [0.5], "0.5", None, 0.5j, math.nan, 1e300, pytest.param(10**400, id="huge")],
    ids=repr,
)
def test_a_list_of_floats_with_something_else_at_its_end_is_refused_as_ever(bad):
    with bqstore.open() as col:
        col.add(np.eye(3))
        with pytest.raises(InvalidInputError) as expected:
            col.search_ids((0.5, 0.5, bad))
        with pytest.raises(InvalidInputError) as caught:
            col.search_ids([0.5, 0.5, bad])
        assert str(caught.value) == str(expected.value)
