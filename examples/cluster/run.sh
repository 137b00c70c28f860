#!/bin/sh
# Starts three Qdrant nodes, runs the tests of remote collections on them, and removes them again.
# Arguments go to pytest. QDRANT_VERSION chooses the release, PYTHON the interpreter that has bqstore and its tests.
set -eu
folder=$(cd "$(dirname "$0")" && pwd)
nodes="docker compose --file $folder/compose.yaml"
trap '$nodes down --volumes' EXIT
$nodes up --detach --wait
cd "$folder/../.."
QDRANT_URL=http://127.0.0.1:6333 "${PYTHON:-python}" -m pytest -q -k server tests/remote "$@"
