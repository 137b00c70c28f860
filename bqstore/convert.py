"""Vectors in whatever holds numbers, as numpy arrays: tensors, frames, columns of lists, generators, sparse matrices.

No library is imported for it: a value is recognized by its methods.
"""

from collections.abc import Iterator, Mapping
from decimal import Decimal
from fractions import Fraction
from numbers import Number
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_SMALL: Final = ("bfloat16", "float8", "float6", "float4", "int4", "int2", "uint4", "uint2")  # of ml_dtypes and JAX


def as_array(given: Any) -> NDArray[Any]:
    """A value as an array, of whatever type. Raises ValueError or TypeError if it cannot be one."""
    if isinstance(given, (Iterator, range)) or type(given).__name__ in ("deque", "dict_values"):
        given = list(given)
    if isinstance(given, (list, tuple)):
        if given and _is_foreign(given[0]):
            given = [_plain(each) for each in given]
        wide = np.asarray(given)
    elif isinstance(given, Mapping):
        raise TypeError("a dict has no order that is meant; pass its values as a list")
    else:
        wide = np.asarray(_plain(given))
    if wide.dtype.kind == "V" and wide.dtype.names is None and wide.dtype.name.startswith(_SMALL):
        return wide.astype(np.float32)
    if wide.dtype.kind == "O" and wide.shape[1:] == (1,) and len(wide) and isinstance(wide[0, 0], (np.ndarray, list)):
        wide = wide[:, 0]  # a frame whose one column holds vectors
    return _of_objects(wide) if wide.dtype.kind == "O" else wide


def _is_foreign(value: object) -> bool:
    return not isinstance(value, (list, tuple, float, int, np.ndarray, str))


def _plain(value: Any) -> Any:
    """A tensor, sparse matrix or array of another device as what numpy reads."""
    if hasattr(value, "detach") and hasattr(value, "cpu"):  # torch
        value = value.detach().cpu()
        if "parse" in str(getattr(value, "layout", "")) or getattr(value, "is_sparse", False):  # CSR is not
            value = value.to_dense()
        return value.float().numpy() if getattr(value.dtype, "is_floating_point", False) else value.numpy()
    if hasattr(value, "toarray") and hasattr(value, "nnz"):  # scipy.sparse
        return value.toarray()
    if hasattr(value, "__cuda_array_interface__") and hasattr(value, "get"):  # cupy
        return value.get()
    if hasattr(value, "as_py"):  # arrow: one row of a column
        return value.as_py()
    if hasattr(value, "to_pylist"):  # arrow: a column of lists, or a table
        if not hasattr(value, "column_names"):
            return _of_arrow(value)
        columns = [_of_arrow(value.column(i)) for i in range(len(value.column_names))]
        return columns[0] if len(columns) == 1 else np.column_stack([np.asarray(each) for each in columns])
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise ValueError("it is masked in places; fill() puts values there")
    if hasattr(value, "to_list") and hasattr(value, "dtype"):  # a column of pandas or polars
        return value.to_list() if str(value.dtype).startswith(("object", "List", "Array", "Object", "list")) else value
    return value


def _of_arrow(value: Any) -> Any:
    """A column of lists of one length, converted as a whole; any other as Python's lists."""
    if hasattr(value, "combine_chunks"):
        value = value.combine_chunks()
        if hasattr(value, "num_chunks"):  # of chunks that are too large to be one
            return value.to_pylist()
    size = getattr(value.type, "list_size", None)
    if size is None or value.null_count:
        return value.to_pylist()
    return np.asarray(value.flatten()).reshape(len(value), size)


def _of_objects(wide: NDArray[Any]) -> NDArray[Any]:
    """An array of arrays, or of Python's own kinds of numbers, as numbers; unchanged if it holds anything else.

    Raises ValueError or TypeError where rows differ in length.
    """
    if wide.ndim == 1 and len(wide) and not isinstance(wide[0], (Number, str, bytes)) and wide[0] is not None:
        rows = [np.asarray(_plain(row)) for row in wide]
        if all(row.ndim == 1 for row in rows) and len({len(row) for row in rows}) == 1:
            inner = np.stack(rows)
            return _of_objects(inner) if inner.dtype.kind == "O" else inner
        return wide
    if not all(isinstance(value, (float, int, Decimal, Fraction, np.number)) for value in wide.flat):
        return wide
    if any(isinstance(value, (bool, complex)) for value in wide.flat):
        return wide
    try:
        return np.array([float(value) for value in wide.flat]).reshape(wide.shape)
    except OverflowError:
        return wide
