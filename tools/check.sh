#!/usr/bin/env bash
# Every check of the project, the same on a desk and in CI. BIN is the environment's bin folder.
set -euo pipefail
cd "$(dirname "$0")/.."
BIN=${BIN:-.venv/bin}
# an empty numba cache: what a user compiles on the first run is what is tested
cache=$(mktemp -d)
trap 'rm -rf "$cache"' EXIT
export NUMBA_CACHE_DIR=$cache

# by file, which keeps what a file has set up; more workers would wait for each other's disk and memory
spread=(-n "${JOBS:-auto}" --maxprocesses 4 --dist loadfile)

step() { printf '\n== %s\n' "$*"; }

step "ruff check"; "$BIN/ruff" check .
step "ruff format"; "$BIN/ruff" format --check .
step "mypy --strict"; "$BIN/mypy"
step "lint-imports"; "$BIN/lint-imports" --no-cache
step "kernels without compilation"; NUMBA_DISABLE_JIT=1 "$BIN/python" -m pytest "${spread[@]}" tests/kernels
step "kernels with bounds checks"
NUMBA_BOUNDSCHECK=1 NUMBA_CACHE_DIR="$cache/bounds" "$BIN/python" -m pytest "${spread[@]}" tests/kernels
step "pytest"
"$BIN/python" -c "from bqstore.index import warm_up; warm_up()"  # once, and not by each worker
"$BIN/python" -m pytest "${spread[@]}" "$@"
