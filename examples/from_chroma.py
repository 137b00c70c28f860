"""Move from Chroma: its folder is read as it is, nothing is embedded again. Needs no key.

Your own: `python from_chroma.py chroma_db my-store`, which needs bqstore alone. Without arguments chromadb makes a
small folder first.
"""

import sys
from pathlib import Path

import bqstore
from bqstore import importers


def example_folder(folder: str) -> None:
    """What a program with Chroma has left: three documents."""
    try:
        import chromadb
    except ImportError:
        sys.exit("skipped: to make a folder to move from, this example needs chromadb: pip install chromadb")
    client = chromadb.PersistentClient(folder, settings=chromadb.Settings(anonymized_telemetry=False))
    old = client.get_or_create_collection("docs", configuration={"hnsw": {"space": "cosine"}}, embedding_function=None)
    old.upsert(
        ids=["a", "b", "c"],
        embeddings=[[1, 0, 0.1], [0, 1, 0], [0.9, 0.1, 0]],
        documents=["one", "two", "three"],
        metadatas=[{"lang": "en"}, {"lang": "de"}, {"lang": "en"}],
    )


if len(sys.argv) > 2:
    source, store = sys.argv[1:3]
else:
    source, store = "chroma-folder", "moved-store"
    if not Path(source).exists():
        example_folder(source)

report = importers.import_from(source, store)  # streamed; run again after a break, it goes on
print(f"{report.compared} of {report.documents} documents were read back and are the same: {report.ok}")
with bqstore.open(store) as col:
    vector = col.get(col.ids()[:1], with_vectors=True)[0].vector
    for hit in col.search(vector, k=2, filter={"lang": "en"}):  # Chroma's where
        print(f"{hit.score:.2f} {hit.id}: {hit.text}")
