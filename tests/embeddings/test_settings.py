"""Settings that are out of range or of another type are named."""

import numpy as np
import pytest

from bqstore.errors import InvalidInputError

from .fake_server import DIM, vector_of


@pytest.mark.parametrize(
    "settings",
    [
        {"model": ""},
        {"dimensions": 0},
        {"max_concurrency": 0},
        {"max_retries": -1},
        {"timeout": 0},
        {"timeout": float("nan")},
    ],
)
def test_settings_out_of_range(make, settings):
    with pytest.raises(InvalidInputError):
        make(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"dimensions": "512"},
        {"dimensions": 8.0},
        {"dimensions": True},
        {"max_concurrency": "8"},
        {"max_concurrency": 2.5},
        {"max_retries": None},
        {"timeout": None},
        {"timeout": float("inf")},
        {"deadline": "3"},
        {"price": "0.02"},
        {"cache": None},
        {"cache": ""},
        {"max_cache_bytes": "1GB"},
        {"max_input_tokens": "5"},
        {"max_request_texts": 2.5},
        {"progress": "yes"},
        {"base_url": 5},
    ],
)
def test_a_setting_of_another_type_is_named(make, settings):
    (name,) = settings
    with pytest.raises(InvalidInputError, match=f"^{name} is "):
        make(**settings)


def test_a_dimension_of_numpys_is_a_number(make):
    np.testing.assert_array_equal(make(dimensions=np.int64(DIM)).embed_query("a"), vector_of("a"))
