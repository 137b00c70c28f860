"""Import the folders that `writers.py` has written with another version, and compare with what that version returns.

python reading.py FOLDER        for each case by `import_from`, for the first also by the command
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import bqstore
from bqstore.importers import import_from


def told(value: Any) -> Any:
    """Metadata as JSON has it: dates are text, tuples are lists."""
    return json.loads(
        json.dumps(value, default=lambda each: each.isoformat() if hasattr(each, "isoformat") else str(each))
    )


def found_in(store: Path) -> "dict[str, list[Any]]":
    """Id -> text, metadata without our private keys, vector."""
    with bqstore.open(store) as col:
        return {
            each.id: [
                each.text,
                {k: v for k, v in told(each.metadata).items() if not k.startswith("_bq_")},
                each.vector,
            ]
            for each in col.scroll(with_vectors=True)
        }


def differences(case: "dict[str, Any]", store: Path) -> "list[str]":
    """What an import has otherwise than the other library; empty if all is the same."""
    report = import_from(case["path"], store, from_collection=case["collection"])
    wanted, found = case["rows"], found_in(store)
    out = []
    if report.distance != case["distance"]:
        out.append(f"distance {report.distance}, not {case['distance']}")
    if not report.ok or report.skipped or report.documents != len(wanted):
        out.append(f"{report}"[:600])
    for what, ids in (("lacks", wanted.keys() - found.keys()), ("has", found.keys() - wanted.keys())):
        if ids:
            out.append(f"{what} {len(ids)} documents: {sorted(ids)[:5]}")
    for place, part in enumerate(("text", "metadata")):
        ids = [id_ for id_ in wanted if id_ in found and found[id_][place] != wanted[id_][place]]
        if ids:
            got, want = found[ids[0]][place], wanted[ids[0]][place]
            out.append(f"{len(ids)} others of {part}: {ids[0]!r} has {str(got)[:300]!r}, not {str(want)[:300]!r}")
    vectors = {id_: row[2] for id_, row in wanted.items() if id_ in found and row[2] is not None}
    if case.get("unit"):  # see the writer
        for row in found.values():
            row[2] = row[2] / np.linalg.norm(row[2])
        vectors = {id_: np.array(each) / np.linalg.norm(each) for id_, each in vectors.items()}
    near = 1e-6 if case.get("unit") else case.get("near", 0)  # of what each rounds in its own way: codes, lengths
    ids = [id_ for id_, each in vectors.items() if not np.allclose(np.float32(each), found[id_][2], near, near)]
    if ids:
        off = max(float(np.abs(np.float32(vectors[id_]) - found[id_][2]).max()) for id_ in ids)
        out.append(f"{len(ids)} other vectors, by {off:.3g} at most: {ids[:5]}")
    return out


def main() -> int:
    """Print what differs; 1 if anything does."""
    cases = json.loads((Path(sys.argv[1]) / "cases.json").read_text("utf-8"))
    bad = 0
    with tempfile.TemporaryDirectory() as temporary:
        for number, case in enumerate(cases):
            store = Path(temporary) / str(number)
            try:
                out = differences(case, store)
            except bqstore.BqstoreError as error:
                out = [f"{type(error).__name__}: {error}"]
            if number == 0 and not out:
                command = [sys.executable, "-m", "bqstore.cli", "import", case["path"], str(store) + "c"]
                command += [] if case["collection"] is None else ["--from-collection", case["collection"]]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                same = found_in(Path(str(store) + "c")).keys() == case["rows"].keys() if done.returncode == 0 else False
                out = [] if same else [f"bqstore import ended with {done.returncode}: {done.stdout}{done.stderr}"]
            bad += bool(out)
            for line in out:
                print(f"{Path(case['path']).name} {case['collection'] or ''} ({len(case['rows'])} documents): {line}")
    print(f"{len(cases) - bad} of {len(cases)} cases are the same")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
