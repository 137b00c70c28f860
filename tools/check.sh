#!/usr/bin/env bash
# The checks of the project, the same on a desk and in CI. BIN is the environment's bin folder.
#   check.sh lint | quick | test | all
set -euo pipefail
cd "$(dirname "$0")/.."
BIN=${BIN:-.venv/bin}
MODE=${1:-test}
[ $# -eq 0 ] || shift

# by file, which keeps what a file has set up; more workers would wait for each other's disk and memory
spread=(-n "${JOBS:-auto}" --maxprocesses 4 --dist loadfile)

step() { printf '\n== %s\n' "$*"; }

lint() {
    step "ruff check"; "$BIN/ruff" check .
    step "ruff format"; "$BIN/ruff" format --check .
    step "mypy --strict"; "$BIN/mypy"
    step "lint-imports"; "$BIN/lint-imports" --no-cache
}

warm_up() { "$BIN/python" -c "import bqstore; bqstore.warm_up()"; }

kernels() {  # kernels ARGS...: the kernel tests interpreted, which coverage can see, and with bounds checks
    step "kernels, interpreted"; NUMBA_DISABLE_JIT=1 "$BIN/python" -m pytest "${spread[@]}" tests/kernels "$@"
    step "kernels, with bounds checks"
    NUMBA_BOUNDSCHECK=1 NUMBA_CACHE_DIR="$NUMBA_CACHE_DIR/bounds" "$BIN/python" -m pytest tests/kernels "$@"
}

if [ "$MODE" = lint ] || [ "$MODE" = quick ]; then
    lint
    [ "$MODE" = lint ] && exit 0
    step "one test of everything"
    warm_up
    exec "$BIN/python" -m pytest "${spread[@]}" --quick "$@"
fi

# an empty numba cache: what a user compiles on the first run is what is tested
NUMBA_CACHE_DIR=$(mktemp -d)
export NUMBA_CACHE_DIR
trap 'rm -rf "$NUMBA_CACHE_DIR"' EXIT
warm_up &  # once, beside the first checks, and not by each worker of pytest
compiling=$!
lint
if [ "$MODE" = all ]; then
    export BQSTORE_FULL=1
    kernels
    selected="not torture"
else
    kernels -m representative
    selected="not torture and not slow"
fi
wait "$compiling"
step "pytest"
"$BIN/python" -m pytest "${spread[@]}" -m "$selected" "$@"
