"""Cut a release out of the changelog: what is under "Unreleased" gets a version and a date; `_version.py` the version.

    python tools/cut_changelog.py 0.2.0            shows what would change
    python tools/cut_changelog.py 0.2.0 --write    changes it

Without a version it is the one of `bqstore/_version.py`, the first time.
"""

import argparse
import difflib
import re
import sys
from datetime import datetime, timezone
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CHANGELOG, VERSION = Path("CHANGELOG.md"), Path("bqstore/_version.py")
UNRELEASED = "## [Unreleased]\n"
# a release, or a candidate of one: 1.2.3, 1.2.3rc1
_FORM = re.compile(r"(\d+)\.(\d+)\.(\d+)(?:(a|b|rc)(\d+))?")
_CUT = re.compile(r"^## \[(.+?)\]", re.MULTILINE)
_LINE = re.compile(r'^__version__ = "(.+)"$', re.MULTILINE)


class RefusedError(Exception):
    """Why nothing was cut, and what to do."""


def order(version: str) -> tuple[int | str, ...]:
    """A key that sorts versions; candidates come before their release."""
    parts = _FORM.fullmatch(version)
    if parts is None:
        raise RefusedError(f"{version!r} is no version; give three numbers, as 0.2.0, or a candidate, as 0.2.0rc1")
    major, minor, patch, stage, number = parts.groups()
    return (int(major), int(minor), int(patch), stage or "z", int(number or 0))


def cut(changelog: str, source: str, version: str | None, date: str) -> tuple[str, str]:
    """The changelog and `_version.py` of a release; RefusedError where there can be none."""
    found = _LINE.search(source)
    if found is None or UNRELEASED not in changelog:
        raise RefusedError(
            f'{VERSION} must say __version__ = "...", and {CHANGELOG} must have a line {UNRELEASED.strip()!r}'
        )
    version = version or found[1]
    released = [name for name in _CUT.findall(changelog) if name != "Unreleased"]
    after = max(map(order, [*released, found[1]]))
    if order(version) < after or version in released:
        raise RefusedError(
            f"{version} does not come after {found[1]} ({VERSION}) and {', '.join(released) or 'no release'} "
            f"({CHANGELOG}); give a later one: make release VERSION=..."
        )
    before, _, rest = changelog.partition(UNRELEASED)
    if not re.search(r"^- ", _CUT.split(rest)[0], re.MULTILINE):
        raise RefusedError(f"nothing is under {UNRELEASED.strip()!r} in {CHANGELOG}: there is nothing to release")
    return (
        f"{before}{UNRELEASED}\n## [{version}] - {date}\n{rest}",
        source.replace(found[0], f'__version__ = "{version}"'),
    )


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Show the difference, or write it; return the exit status."""
    parser = argparse.ArgumentParser(description="Cut a release out of the changelog.")
    parser.add_argument("version", nargs="?", help="default: the one of bqstore/_version.py")
    parser.add_argument("--write", action="store_true", help="change the files; without it they are only compared")
    options = parser.parse_args(arguments)
    files = (CHANGELOG, VERSION)
    old = [(root / each).read_text("utf-8") for each in files]
    try:
        new = cut(*old, options.version, f"{datetime.now(timezone.utc):%Y-%m-%d}")
    except RefusedError as error:
        print(f"nothing cut: {error}", file=sys.stderr)
        return 1
    for path, was, is_now in zip(files, old, new, strict=True):
        lines = difflib.unified_diff(was.splitlines(), is_now.splitlines(), str(path), str(path), lineterm="", n=1)
        print("\n".join(lines))
        if options.write:
            (root / path).write_text(is_now, "utf-8")
    print("written" if options.write else "nothing written: this shows what --write (make release CUT=--write) changes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
