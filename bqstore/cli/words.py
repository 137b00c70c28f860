"""Numbers and settings in words, the same on the terminal and on the page. Knows no layout."""

from collections.abc import Iterable

from bqstore import Quantization, RecallPoint, RecallReport, SearchParams

_BITS = {"one_bit": "1 bit", "one_and_half_bits": "1.5 bits", "two_bits": "2 bits", "four_bits": "4 bits"}
_WAYS = {"exact": "exact: every original is scored", "scan": "scan of all codes", "walk": "walk of the graph"}
_UNITS = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
EXACT = "exact search"


def printable(text: str) -> str:
    """The text with what would steer a terminal written out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def size(n: float) -> str:
    """Bytes for people, in decimal units."""
    name, factor = unit(n)
    return f"{n / factor:.1f} {name}" if factor > 1 else f"{n:.0f} {name}"


def unit(n: float) -> tuple[str, float]:
    """The largest unit that is not more than so many bytes, and the bytes in it."""
    return next(((name, factor) for name, factor in _UNITS if n >= factor), ("B", 1.0))


def milliseconds(n: float) -> str:
    """Three digits are more than a measured time has."""
    return f"{n:,.0f}" if n >= 100 else f"{n:#.3g}".rstrip(".")


def interval(low: float, high: float) -> str:
    """A 95% interval of a recall."""
    return f"{low:.3f}-{high:.3f}"


def times_less(part: float, whole: float) -> str:
    """How many times less memory a part takes than the whole; empty where it is not less."""
    return f"{whole / part:.1f} times less" if 0 < part < whole else ""


def codes(quantization: Quantization) -> str:
    """How vectors become codes."""
    estimator = "RaBitQ" if quantization.estimator == "rabitq" else quantization.estimator
    rotated = ", rotated" if quantization.rotate else ""
    part = "" if quantization.truncate_dim is None else f", first {quantization.truncate_dim:,} values"
    return f"{_BITS.get(quantization.encoding, quantization.encoding)}, {estimator}{rotated}{part}"


def way(name: str) -> str:
    """How searches go."""
    return _WAYS.get(name, name)


def oversampling(point: RecallPoint) -> str:
    """The setting oversampling, which counts only where candidates are rescored."""
    if point.way == "exact":
        return "-"
    return f"{point.oversampling:g}" if point.rescore else "off"


def beam(point: RecallPoint) -> str:
    """The setting hnsw_ef, which counts only in a walk; without one it follows from the others."""
    if point.way != "walk":
        return "-"
    return "default" if point.hnsw_ef is None else f"{point.hnsw_ef:,}"


def searches(way_: str, params: RecallPoint | SearchParams) -> str:
    """How searches go, with the settings that count there, by their names."""
    return way(way_) if way_ == "exact" else f"{way(way_)}, {setting(params)}"


def setting(params: RecallPoint | SearchParams) -> str:
    """What steers a search of codes, by the names of the settings."""
    rescored = f"oversampling={params.oversampling:g}" if params.rescore else "rescore=False"
    return rescored if params.hnsw_ef is None else f"{rescored}, hnsw_ef={params.hnsw_ef}"


def wanted(report: RecallReport) -> int:
    """How many documents each query has to find: k, where there are so many."""
    return min(report.k, report.documents - report.held_out)


def small(report: RecallReport) -> str:
    """What the settings are of, where searches do not use them yet; empty where they do."""
    if report.current.way != "exact":
        return ""
    return "The collection is small, so its searches are exact. The other settings are those it may need when it grows."


def rank(report: RecallReport, point: RecallPoint) -> str:
    """What a point is to the collection."""
    if point == report.current:
        return "in use"
    return "stored" if point.stored else "trial"


def groups(points: Iterable[RecallPoint]) -> dict[str, list[RecallPoint]]:
    """The points by encoding, each under its name, in the order of cost; stored encodings first, exact search last.

    How queries are encoded is a part of the name only where it tells two groups apart.
    """
    points = sorted(points, key=lambda p: (p.way == "exact", not p.stored, *_cost(p)))
    ways = {(codes(p.quantization), p.quantization.query_encoding) for p in points if p.way != "exact"}
    several = {name for name, _ in ways if sum(name == other for other, _ in ways) > 1}
    out: dict[str, list[RecallPoint]] = {}
    for point in points:
        name = EXACT if point.way == "exact" else codes(point.quantization)
        if name in several:
            name += f" ({point.quantization.query_encoding})"
        out.setdefault(name, []).append(point)
    return out


def _cost(point: RecallPoint) -> tuple[object, ...]:
    q = point.quantization
    order = list(_BITS).index(q.encoding) if q.encoding in _BITS else len(_BITS)
    of_codes = order, q.truncate_dim or 1 << 30, q.estimator, bool(q.rotate), q.query_encoding
    return (*of_codes, point.rescore, point.oversampling, point.hnsw_ef or 0)


def memory(report: RecallReport) -> dict[str, int]:
    """Bytes of the codes and links of all documents, by encoding; float32 is first."""
    out = {"float32, no codes": report.documents * report.dim * 4}
    for point in sorted(report.points, key=lambda p: p.memory_bytes):
        used = " (in use)" if codes(point.quantization) == codes(report.current.quantization) else ""
        out[codes(point.quantization) + used] = point.memory_bytes
    return out
