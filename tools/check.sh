#!/usr/bin/env bash
# The checks of the project, the same on a desk and in CI. BIN is the environment's bin folder.
#   check.sh lint | quick | test | all
set -euo pipefail
cd "$(dirname "$0")/.."
BIN=${BIN:-.venv/bin}
MODE=${1:-test}
[ $# -eq 0 ] || shift

# By file, which keeps what a file has set up. Half of a worker's time is waiting: for syncs, and for other processes.
cores=$(getconf _NPROCESSORS_ONLN)
spread=(-n "${JOBS:-$(((3 * cores + 1) / 2))}" --maxprocesses 6 --dist loadfile)

# A test that hangs tells where all its threads are, and fails, after a time that no slow machine needs for one test.
hangs=(-o faulthandler_timeout=900 -o faulthandler_exit_on_timeout=true)

# Workers and some two hundred children import the same modules: compiled once, whatever a machine has set. All cores are
# taken by workers; threads of BLAS beside them would only wait for each other.
unset PYTHONDONTWRITEBYTECODE
export OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1

step() { printf '\n== %s\n' "$*"; }

lint() {
    step "ruff check"; "$BIN/ruff" check .
    step "ruff format"; "$BIN/ruff" format --check .
    step "mypy --strict"; "$BIN/mypy" ${CI:+--cache-dir=/dev/null}  # CI would write it for nobody
    step "lint-imports"; "$BIN/lint-imports" --no-cache
}

warm_up() { "$BIN/python" -c "import bqstore; bqstore.warm_up()"; }

# Bytecode of all tests, and of all that they import, which each worker would make for itself. The tests' own runs tell
# of errors.
collect() { "$BIN/python" -m pytest --collect-only -q > /dev/null 2>&1 || true; }

interpreted() { NUMBA_DISABLE_JIT=1 "$BIN/python" -m pytest tests/kernels "$@"; }

bounds_checked() {  # a cache of its own: numba's does not tell such kernels from others
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
collect &
collecting=$!
lint
if [ "$MODE" = all ]; then
    export BQSTORE_FULL=1
    selected="not torture"
    of_kernels=(-m "$selected")
    of_interpreted=("${of_kernels[@]}" "${spread[@]}")
    of_all=("${spread[@]}" -m "$selected")
else
    of_kernels=(-m representative --one "${hangs[@]}")
    of_interpreted=("${of_kernels[@]}")
    of_all=("${spread[@]}" --max-worker-restart 0 -m "not torture and not slow" --kernels-apart "${hangs[@]}")
fi
wait "$collecting"
wait "$compiling"
apart() {  # beside the others; few of them in one process, as are those with bounds checks: most of it is compiling
    step "kernels, interpreted"; interpreted "${of_interpreted[@]}" && passed=0 || passed=$?
    step "kernels, with bounds checks"; bounds_checked "${of_kernels[@]}" && checked=0 || checked=$?
    return $((passed || checked))
}
apart > "$NUMBA_CACHE_DIR/apart.log" 2>&1 &
apart=$!
step "pytest"
"$BIN/python" -m pytest "${of_all[@]}" "$@" && passed=0 || passed=$?
wait "$apart" && checked=0 || checked=$?
cat "$NUMBA_CACHE_DIR/apart.log"
exit $((passed || checked))
