"""`bqstore plan`: what a collection will need on one machine, the limits of one machine, and the cluster beyond."""

import math
import os
import re
from dataclasses import asdict
from typing import Annotated, Any

import typer

import bqstore
from bqstore import sizing

from . import tables
from .console import emit, errors_reported, show
from .formatting import size
from .options import Json, app

_FACTORS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_LISTED = (8 * 10**9, 24 * 10**9, 64 * 10**9)  # memory sizes for which the largest collection is shown


@app.command()
def plan(
    vectors: Annotated[str, typer.Option(metavar="NUMBER", help="How many, such as 50e6 or 50,000,000.")],
    dim: Annotated[int, typer.Option(metavar="NUMBER", min=1, help="Dimensions of a vector.")],
    qps: Annotated[float, typer.Option(metavar="NUMBER", min=0.0, help="Queries per second needed.")] = 0,
    encoding: Annotated[
        str, typer.Option(metavar="NAME", help="one_bit, one_and_half_bits, two_bits or four_bits.")
    ] = "one_bit",
    originals: Annotated[str, typer.Option(metavar="NAME", help="float32, float16, int8 or none.")] = "float32",
    m: Annotated[int, typer.Option("-m", metavar="NUMBER", help="Links of a node of the graph.")] = 16,
    document: Annotated[str, typer.Option(metavar="SIZE", help="Average text and metadata of a document.")] = "1kB",
    machine: Annotated[
        str | None,
        typer.Option("--memory", metavar="SIZE", help="Memory of a machine, such as 24GB; else the least needed."),
    ] = None,
    cores: Annotated[
        int | None, typer.Option(metavar="NUMBER", min=1, help="Cores of a machine; else those of this one.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Estimate what a collection will need: memory, disk, time, and whether one machine is enough.

    docs/scaling.md says which figures were measured, and which are estimated from them.
    """
    with errors_reported():
        if not math.isfinite(qps):
            raise bqstore.InvalidInputError(f"--qps is {qps}; expected a number of queries a second, such as 200")
        text = _bytes("--document", document)
        setup = sizing.Setup(_count(vectors), dim, encoding, originals, m, document_bytes=text)
        given = None if machine is None else _bytes("--memory", machine)
        found = planned(setup, qps, given, cores or os.cpu_count() or 1)
        if as_json:
            emit(found)
        else:
            show(*tables.plan(setup, found, qps))


def planned(setup: sizing.Setup, qps: float, machine: int | None, cores: int) -> dict[str, Any]:
    """All figures for the given machine, or for the smallest usual one that holds the collection."""
    smallest = sizing.smallest_machine(setup)
    taken = machine or smallest or sizing.MACHINES[-1]
    answered, missed = sizing.queries_per_second(setup, taken, cores)
    found: dict[str, Any] = {
        **asdict(setup),
        "code_bytes": 8 * sizing.code_words(setup),
        "memory": sizing.memory(setup),
        "memory_while": sizing.memory_while(setup),
        "disk": sizing.disk(setup),
        "machine": {
            "memory": taken,
            "cores": cores,
            "fits": sizing.fits(setup, taken),
            "build_seconds": sizing.build_seconds(setup, cores),
            "query_seconds": sizing.query_seconds(setup),
            "queries_per_second": answered,
            "originals_not_cached": missed,
            "disk_reads_per_second": sizing.DISK_READS,
        },
        "smallest_machine": smallest,
        "largest": {each: sizing.largest(setup, each) for each in sorted({*_LISTED, taken})},
        "measured": sizing.MEASURED,
    }
    one = found["machine"]
    found["one_machine"] = one["fits"] and one["queries_per_second"] >= qps
    return found | {"cluster": asdict(sizing.cluster(setup, qps, taken, cores))}


def _count(given: str) -> int:
    try:
        number = float(given.replace(",", "").replace("_", ""))
        if number == int(number):
            return int(number)
    except (ValueError, OverflowError):
        pass
    raise bqstore.InvalidInputError(f"--vectors is {given!r}; expected a whole number, such as 50e6 or 50,000,000")


def _bytes(option: str, given: str) -> int:
    """A size such as 24GB, 24 GiB or 1000; decimal units are powers of 1,000."""
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]*)\s*", given)
    unit = "" if found is None else found[2].lower().removesuffix("b") + ("b" if found[2] and found[2] != "b" else "")
    if found is None or unit not in _FACTORS:
        raise bqstore.InvalidInputError(f"{option} is {given!r}; expected a size, such as {size(24e9)} or 512MB")
    return int(float(found[1]) * _FACTORS[unit])
