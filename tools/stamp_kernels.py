"""Rewrite KERNELS_STAMP in bqstore/kernels/api.py: a hash of the text of the other kernel files.

numba's cache looks at the file of a cached function only. Without the stamp, an edited leaf would leave users
with the old machine code, even after an upgrade. Run it after every change in ``bqstore/kernels``; a test
fails when it is stale.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

KERNELS = Path(__file__).resolve().parent.parent / "bqstore" / "kernels"
STAMP = re.compile(r'^KERNELS_STAMP = "[0-9a-f]*"$', re.MULTILINE)


def stamp(folder: Path = KERNELS) -> str:
    """Return the hash of every kernel file but api.py, by name and text; line ends do not count."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        if path.name != "api.py":
            digest.update(f"{path.name}\0{path.read_text(encoding='utf-8')}\0".encode())
    return digest.hexdigest()[:16]


def main() -> None:
    """Write the stamp, if it changed."""
    api = KERNELS / "api.py"
    text = api.read_text(encoding="utf-8")
    fresh, found = STAMP.subn(f'KERNELS_STAMP = "{stamp()}"', text)
    if found != 1:
        raise SystemExit(f"{api}: expected one line KERNELS_STAMP, found {found}")
    if fresh != text:
        api.write_text(fresh, encoding="utf-8")
        print(f"{api}: stamped")


if __name__ == "__main__":
    main()
