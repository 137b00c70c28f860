"""Formats numbers and settings, alike on the terminal and on pages."""

import re
import shlex
from collections.abc import Iterable

from bqstore import Quantization, RecallPoint, RecallReport, SearchParams

_BITS = {"one_bit": "1 bit", "one_and_half_bits": "1.5 bits", "two_bits": "2 bits", "four_bits": "4 bits"}
SEARCHES = {  # by `RecallPoint.way` and `CollectionInfo.way`
    "exact": "exact: every original vector is scored",
    "scan": "scan of all codes",
    "walk": "walk of the graph",
}
_UNITS = (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
_TIMES = (("days", 86_400), ("h", 3600), ("min", 60), ("s", 1))
EXACT = "exact search"
ENOUGH = 0.95  # the recall from which a verdict finds nothing to do
_STEP = re.compile(r"Next step: (requantize\([^)]*\)|[^;.,]+)")


def printable(text: str) -> str:
    """Escape control characters, which a terminal would interpret."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def command(name: str, path: str, collection: str, *more: str) -> str:
    """A `bqstore` command to be copied into a shell."""
    which = [] if collection == "default" else ["--collection", collection]
    return shlex.join(["bqstore", name, path, *which, *more])


def next_step(verdict: str) -> str:
    """The next step in a verdict; empty if there is none."""
    found = _STEP.search(verdict)
    return found[1] if found else ""


def to_do(report: RecallReport, path: str, collection: str) -> tuple[str, str]:
    """The recommendation of a recall report, and the command or code for it; or that there is nothing to do."""
    step = next_step(report.verdict)
    if step.startswith("tune("):
        tune = command("tune", path, collection, "--target", "0.95")
        return "What to do: store faster or better settings by", tune
    if step.startswith("requantize("):
        return "What to do, in Python:", f"bqstore.open({path!r}, {collection!r}).{step}"
    if step or report.recall < ENOUGH:
        return f"What to do: {step or 'see the table for settings that find more'}", ""
    return "What to do: nothing. Keep the settings as they are.", ""


def size(n: float) -> str:
    """Bytes in decimal units."""
    name, factor = unit(n)
    return f"{n / factor:.1f} {name}" if factor > 1 else f"{n:.0f} {name}"


def unit(n: float) -> tuple[str, float]:
    """The largest unit of at most n bytes, and its bytes."""
    return next(((name, factor) for name, factor in _UNITS if n >= factor), ("B", 1.0))


def duration(seconds: float) -> str:
    """An estimated time, in the largest unit of which it has at least one."""
    name, factor = next(((name, n) for name, n in _TIMES if seconds >= n), _TIMES[-1])
    return f"{seconds / factor:.1f} {name}" if factor > 1 else f"{seconds:.0f} {name}"


def milliseconds(n: float) -> str:
    """A time with three digits: measurements are no more precise."""
    return f"{n:,.0f}" if n >= 100 else f"{n:#.3g}".rstrip(".")


def interval(low: float, high: float) -> str:
    """A confidence interval of a recall."""
    return f"{low:.3f}-{high:.3f}"


def times_less(part: float, whole: float) -> str:
    """How many times smaller a part is than the whole; empty if it is not smaller."""
    return f"{whole / part:.1f} times less" if 0 < part < whole else ""


def encoding(quantization: Quantization) -> str:
    """An encoding: bits, estimator, rotation, truncation."""
    estimator = "RaBitQ" if quantization.estimator == "rabitq" else quantization.estimator
    rotated = ", rotated" if quantization.rotate else ""
    part = "" if quantization.truncate_dim is None else f", first {quantization.truncate_dim:,} values"
    return f"{_BITS[quantization.encoding]}, {estimator}{rotated}{part}"


def oversampling(point: RecallPoint) -> str:
    """The setting oversampling, which only applies if candidates are rescored."""
    if point.way == "exact":
        return "-"
    return f"{point.oversampling:g}" if point.rescore else "off"


def hnsw_ef(point: RecallPoint) -> str:
    """The setting hnsw_ef, which only applies to walks of the graph."""
    if point.way != "walk":
        return "-"
    return "default" if point.hnsw_ef is None else f"{point.hnsw_ef:,}"


def search(way: str, params: RecallPoint | SearchParams) -> str:
    """The kind of search, with the settings that apply to it."""
    return SEARCHES[way] if way == "exact" else f"{SEARCHES[way]}, {settings(params)}"


def settings(params: RecallPoint | SearchParams) -> str:
    """The settings of a search of codes, as keywords."""
    rescored = f"oversampling={params.oversampling:g}" if params.rescore else "rescore=False"
    return rescored if params.hnsw_ef is None else f"{rescored}, hnsw_ef={params.hnsw_ef}"


def nearest_sought(report: RecallReport) -> int:
    """How many documents each query should find: k, or all others in a smaller collection."""
    return min(report.k, report.documents - report.held_out)


def walks_and_scans(report: RecallReport) -> bool:
    """Whether some points were timed on walks of the graph and others on scans: their times are not comparable."""
    return {"walk", "scan"} <= {point.way for point in report.points}


def exact_search_note(report: RecallReport) -> str:
    """A note for collections that are searched exactly; empty for others."""
    if report.current.way != "exact":
        return ""
    return "The collection is small, so its searches are exact. The other settings show what it may need when it grows."


def status(report: RecallReport, point: RecallPoint) -> str:
    """Whether a point was measured with the setting in use, other settings, or codes made for the report."""
    if point == report.current:
        return "in use"
    return "stored" if point.stored else "trial"


def by_encoding(points: Iterable[RecallPoint]) -> dict[str, list[RecallPoint]]:
    """The points grouped by encoding, cheapest first; stored encodings come first, exact search last.

    A group's name contains the query encoding only where it distinguishes two groups.
    """
    points = sorted(points, key=lambda p: (p.way == "exact", not p.stored, *_cost(p)))
    pairs = {(encoding(p.quantization), p.quantization.query_encoding) for p in points if p.way != "exact"}
    ambiguous = {name for name, _ in pairs if sum(name == other for other, _ in pairs) > 1}
    groups: dict[str, list[RecallPoint]] = {}
    for point in points:
        name = EXACT if point.way == "exact" else encoding(point.quantization)
        if name in ambiguous:
            name += f" ({point.quantization.query_encoding})"
        groups.setdefault(name, []).append(point)
    return groups


def _cost(point: RecallPoint) -> tuple[object, ...]:
    q = point.quantization
    of_codes = list(_BITS).index(q.encoding), q.truncate_dim or 1 << 30, q.estimator, bool(q.rotate), q.query_encoding
    return (*of_codes, point.rescore, point.oversampling, point.hnsw_ef or 0)


def memory_by_encoding(report: RecallReport) -> dict[str, int]:
    """Bytes of the codes and links of all documents for each encoding, after those of the float32 vectors."""
    out = {"float32, no codes": report.documents * report.dim * 4}
    for point in sorted(report.points, key=lambda p: p.memory_bytes):
        used = " (in use)" if encoding(point.quantization) == encoding(report.current.quantization) else ""
        out[encoding(point.quantization) + used] = point.memory_bytes
    return out
