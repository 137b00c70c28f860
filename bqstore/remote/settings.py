"""Settings of `open` as those of a Qdrant collection, and back; what has no counterpart is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from ..arguments import shown
from ..config import AUTO, HnswConfig, Quantization, SearchParams, as_settings
from ..errors import InvalidInputError, SettingsConflictError
from . import words as words_of_texts
from .library import model, models
from .points import Layout

MARK: Final = "bqstore"  # the key in the metadata of a collection under which ours are
VECTOR: Final = "vector"
_TURBO: Final = {"one_bit": "bits1", "two_bits": "bits2", "four_bits": "bits4"}
_DISTANCES: Final = {"cosine": "Cosine", "dot": "Dot", "euclid": "Euclid"}
_OURS: Final = {value: name for name, value in _DISTANCES.items()}
_DATATYPES: Final = {"float32": "float32", "float16": "float16", "none": "turbo4"}
_CODES_ALONE: Final = (1, 19)  # 1.18 has the name turbo4, and fails in making one
NO_COUNTERPART: Final = {  # keywords of folders, and what to do
    "truncate_dim": "cut the vectors before they are added",
    "target_recall": "give oversampling= or hnsw_ef=; recall() measures what they find",
    "threads": "the server has its own",
    "lock_timeout": "its timeout= is for a whole call",
    "exclusive": "a server has many clients",
    "mode": "it is for folders",
}


@dataclass(frozen=True)
class Settings:
    """The settings of a remote collection.

    Parameters
    ----------
    quantization : Quantization     nothing in it is "auto"
    layout : Layout                 how its points are made
    cleared : bool                  whether vectors of another dimension and model may follow
    exists : bool                   whether there is a collection on the server yet
    tokenize : str or None          how texts are split, where they are indexed
    mean_words : float              of the first texts, by which lengths are compared; 0.0 before there are any
    """

    dim: int | None = None
    distance: str = "cosine"
    originals: str = "float32"
    embedding_model: str | None = None
    quantization: Quantization = field(default_factory=lambda: resolved({}))
    hnsw: HnswConfig = field(default_factory=HnswConfig)
    search: SearchParams = field(default_factory=SearchParams)
    layout: Layout = field(default_factory=Layout)
    cleared: bool = False
    exists: bool = False
    tokenize: str | None = None
    mean_words: float = 0.0

    def stored(self) -> dict[str, Any]:
        """What of it goes into the metadata of the collection."""
        return {
            "version": 1,
            "originals": self.originals,
            "embedding_model": self.embedding_model,
            "quantization": as_settings(self.quantization),
            "hnsw": asdict(self.hnsw),
            "search": asdict(self.search),
            "cleared": self.cleared,
            **({"text_index": {"tokenize": self.tokenize, "mean_words": self.mean_words}} if self.tokenize else {}),
        }


def resolved(given: Mapping[str, Any]) -> Quantization:
    """The quantization that is asked for, with nothing left "auto": one bit, as Qdrant has no trial of encodings."""
    asked = Quantization(**given)
    turbo = asked.estimator == "rabitq" or asked.encoding == "four_bits" or bool(asked.rotate)
    if turbo and asked.rotate is False:
        raise InvalidInputError("rotate=False has no counterpart: Qdrant's TurboQuant always rotates; leave it out")
    if turbo and asked.query_encoding not in (AUTO, "scalar8bits"):
        raise InvalidInputError(
            f"query_encoding={asked.query_encoding!r} has no counterpart beside estimator='rabitq': Qdrant's "
            "TurboQuant encodes queries in its own way; leave it out"
        )
    encoding = "one_bit" if asked.encoding == AUTO else asked.encoding
    query = ("scalar8bits" if turbo else "scalar4bits") if asked.query_encoding == AUTO else asked.query_encoding
    return Quantization(encoding, query, "rabitq" if turbo else "sign", turbo)


def refuse_without_counterpart(given: Mapping[str, Any]) -> None:
    """Raise InvalidInputError for a setting that a server has not; None, False and {} are not given."""
    for name, hint in NO_COUNTERPART.items():
        value = given.get(name)
        if value or (name == "target_recall" and value is not None and value != 0):
            raise InvalidInputError(f"{name}={shown(value)} has no counterpart on a Qdrant server: {hint}")
    if given.get("originals") == "int8":
        raise InvalidInputError(
            "originals='int8' has no counterpart on a Qdrant server, whose uint8 is for values from 0 to 255; use "
            "'float16', or 'none'"
        )


def asked_for(given: Mapping[str, Any]) -> Settings:
    """The settings of a new collection."""
    return Settings(
        dim=given["dim"],
        distance=given["distance"] or "cosine",
        originals=given["originals"] or "float32",
        embedding_model=given["embedding_model"],
        quantization=resolved(given["quantization"]),
        hnsw=HnswConfig(**given["hnsw"]),
        search=SearchParams(**given["search"]),
        tokenize=(given["text_index"] or {}).get("tokenize"),
    )


def merged(stored: Settings, given: Mapping[str, Any]) -> Settings:
    """The stored settings with those given over them. Raises SettingsConflictError where they contradict."""

    def agree(name: str, has: Any, wants: Any) -> None:
        if wants is not None and has is not None and has != wants:
            raise SettingsConflictError(
                f"{name}={wants!r} contradicts what this collection was made with, {name}={has!r}; leave {name} out, "
                "or make another collection"
            )

    if not stored.cleared:
        agree("dim", stored.dim, given["dim"])
        agree("embedding_model", stored.embedding_model, given["embedding_model"])
    agree("distance", stored.distance, given["distance"])
    agree("originals", stored.originals, given["originals"])
    for name, value in given["hnsw"].items():
        agree(name, getattr(stored.hnsw, name), value)
    words = given["text_index"]
    if words is not None and words.get("tokenize") != stored.tokenize:
        has = {"tokenize": stored.tokenize} if stored.tokenize else False
        raise SettingsConflictError(
            f"text_index={words or False!r} contradicts what this collection was made with, text_index={has!r}; leave "
            "text_index out, or copy it into another: bqstore.copy(SRC, ..., to=DST, to_settings={'text_index': ...})"
        )
    asked = {name: value for name, value in given["quantization"].items() if value not in (AUTO, None)}
    if asked:
        resolved(given["quantization"])
    for name, value in asked.items():
        agree(name, getattr(stored.quantization, name), value)
    return replace(
        stored,
        embedding_model=stored.embedding_model or given["embedding_model"],
        search=replace(stored.search, **given["search"]),
    )


def of_server(config: Any, layout: Layout, space: Any) -> Settings:
    """The settings of a collection that exists; ``space`` describes its vectors."""
    own = (getattr(config, "metadata", None) or {}).get(MARK)
    distance = _OURS.get(str(getattr(space.distance, "value", space.distance)))
    if distance is None:
        raise InvalidInputError(
            f"the collection has the distance {space.distance}; bqstore has {', '.join(_DISTANCES)}"
        )
    hnsw = config.hnsw_config
    found = Settings(dim=space.size, distance=distance, layout=layout, exists=True)
    if isinstance(own, Mapping):
        return replace(
            found,
            originals=own["originals"],
            embedding_model=own["embedding_model"],
            quantization=Quantization(**own["quantization"]),
            hnsw=HnswConfig(**own["hnsw"]),
            search=SearchParams(**own["search"]),
            cleared=bool(own.get("cleared")),
            tokenize=own.get("text_index", {}).get("tokenize"),
            mean_words=own.get("text_index", {}).get("mean_words", 0.0),
        )
    found = replace(
        found,
        originals=str(getattr(space.datatype, "value", space.datatype or "float32")),
        hnsw=HnswConfig(max(2, hnsw.m), max(4, hnsw.ef_construct), hnsw.full_scan_threshold),
    )
    # without quantization, oversampling means nothing
    return found if _binary(config, space) else replace(found, search=SearchParams(oversampling=1.0))


def _binary(config: Any, space: Any) -> bool:
    return (getattr(space, "quantization_config", None) or config.quantization_config) is not None


def creation(settings: Settings, cluster: Mapping[str, Any], version: tuple[int, ...]) -> dict[str, Any]:
    """The arguments that make the collection on a server: codes in memory, original vectors on disk."""
    m = models()
    assert settings.dim is not None
    q, hnsw = settings.quantization, asdict(settings.hnsw)  # Qdrant takes 10 KB and more
    quantization: Any
    if q.estimator == "rabitq":
        config = model("TurboQuantQuantizationConfig", "estimator='rabitq'")
        bits = model("TurboQuantBitSize", "estimator='rabitq'")(_TURBO[q.encoding])
        quantization = m.TurboQuantization(turbo=config(always_ram=True, bits=bits))
    else:
        encoding = m.BinaryQuantizationEncoding(q.encoding)
        query = m.BinaryQuantizationQueryEncoding(q.query_encoding)
        quantization = m.BinaryQuantization(
            binary=m.BinaryQuantizationConfig(always_ram=True, encoding=encoding, query_encoding=query)
        )
    datatype = _DATATYPES[settings.originals]
    if datatype == "turbo4" and "turbo4" not in {each.value for each in m.Datatype}:
        raise InvalidInputError("originals='none' needs a newer qdrant-client: pip install -U qdrant-client")
    if datatype == "turbo4" and version < _CODES_ALONE:
        raise InvalidInputError(
            f"originals='none' needs Qdrant 1.19 or newer, and this server is {'.'.join(map(str, version))}: upgrade "
            "it, or use 'float16'"
        )
    space = m.VectorParams(
        size=settings.dim,
        distance=m.Distance(_DISTANCES[settings.distance]),
        on_disk=True,
        datatype=None if datatype == "float32" else m.Datatype(datatype),
    )
    words = {words_of_texts.VECTOR: m.SparseVectorParams(modifier=m.Modifier.IDF)} if settings.tokenize else None
    return {
        "vectors_config": {VECTOR: space},
        **({"sparse_vectors_config": words} if words else {}),
        "hnsw_config": m.HnswConfigDiff(**{**hnsw, "full_scan_threshold": max(10, settings.hnsw.full_scan_threshold)}),
        "quantization_config": quantization,
        "metadata": {MARK: settings.stored()},
        **{name: value for name, value in cluster.items() if value is not None},
    }


def search_params(params: SearchParams, exact: bool, ignore: bool, filtered: bool) -> Any:
    """`models.SearchParams` of a search; under a filter with ACORN, which the server uses where it is narrow."""
    m = models()
    quantization = m.QuantizationSearchParams(
        ignore=ignore, rescore=params.rescore, oversampling=max(1.0, params.oversampling)
    )
    acorn = getattr(m, "AcornSearchParams", None)
    narrow = {"acorn": acorn(enable=True)} if acorn is not None and filtered and not exact else {}
    return m.SearchParams(hnsw_ef=params.hnsw_ef, exact=exact, quantization=quantization, **narrow)
