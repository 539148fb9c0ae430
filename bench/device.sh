#!/usr/bin/env bash
# One command for a machine with a GPU: tests/gpu, then every latency suite of bench/, within 9 minutes.
# Writes one JSON a suite into $OUT (default ./out/device) and prints a short table last.
# Without a GPU it still runs: the GPU tests skip and the suites measure the CPU path at small shapes.
set -uo pipefail
cd "$(dirname "$0")/.."

OUT="${OUT:-out/device}"
PYTHON="${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}"
BUDGET="${BUDGET:-520}" # seconds for everything
STARTED=$SECONDS
RAW="$(mktemp -d)"
trap 'rm -rf "$RAW"' EXIT
mkdir -p "$OUT"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1

# Installs nothing that is there.
for package in pytest:pytest pytest_benchmark:pytest-benchmark; do
  "$PYTHON" -c "import ${package%%:*}" 2>/dev/null || "$PYTHON" -m pip install --quiet "${package##*:}" || exit 1
done

left() { echo $((BUDGET - (SECONDS - STARTED))); }
failed=0

run() { # suite, then pytest's arguments
  local suite="$1"
  shift
  if [ "$(left)" -lt 20 ]; then
    echo "== $suite: no time left"
    failed=1
    return
  fi
  echo "== $suite"
  timeout "$(left)" "$PYTHON" -m pytest -q -p no:cacheprovider "$@" 2>&1 | tail -n 25
  local status=${PIPESTATUS[0]}
  [ "$status" -eq 0 ] || [ "$status" -eq 5 ] || failed=1
  "$PYTHON" bench/report.py write "$suite" "$RAW" "$OUT" "$status" "pytest $*"
}

run gpu_tests tests/gpu --junitxml="$RAW/gpu_tests.xml"
for file in bench/test_*.py; do
  suite="$(basename "$file" .py)"
  suite="${suite#test_}"
  run "$suite" "$file" --benchmark-quiet --benchmark-json="$RAW/$suite.json"
done

"$PYTHON" bench/report.py table "$OUT"
exit "$failed"
