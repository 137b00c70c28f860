"""Sweeps and hypothesis tests at two depths: a sample in the quick run, all of it in the slow one."""

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy

PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # no test fails on a busy machine


def depths(argument: str, quick: object, full: object) -> pytest.MarkDecorator:
    """Run a test twice: with one value of an argument, and, marked ``slow``, with another."""
    return pytest.mark.parametrize(
        argument, [pytest.param(quick, id="sample"), pytest.param(full, id="full", marks=pytest.mark.slow)]
    )


examples = depths("n", 20, 300)


def for_all(n: int, *strategies: SearchStrategy[object]) -> Callable[[Callable[..., None]], None]:
    """Decorates a property: checks it at once, on n examples."""

    def check(holds: Callable[..., None]) -> None:
        settings(PATIENT, max_examples=n)(given(*strategies)(holds))()

    return check
