#!/usr/bin/env bash
# One command for a machine with a GPU: the tests that need one, then every latency suite of bench/, within 9 minutes.
# Writes one JSON per suite into $OUT (default ./out/device) and prints a short digest last. A suite that fails or is
# stopped at the end of its time still leaves the rows it finished. FULL=1 with a larger BUDGET runs the whole grid.
# SUITES="decode linear" runs those and no tests.
# Without a GPU it still runs: the GPU tests skip and the suites measure the CPU path at small shapes.
set -uo pipefail
cd "$(dirname "$0")/.."

OUT="${OUT:-out/device}"
PYTHON="${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}"
BUDGET="${BUDGET:-520}" # seconds for everything
RESERVE=40              # seconds of them that a suite leaves to each one after it
SELECT="not full"
[ -z "${FULL:-}" ] || SELECT=""
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

run() { # suite, how many come after it, then pytest's arguments
  local suite="$1" limit=$(($(left) - RESERVE * $2))
  shift 2
  if [ "$limit" -lt 20 ]; then
    echo "== $suite: no time left"
    failed=1
    return
  fi
  echo "== $suite"
  BENCH_ROWS="$RAW/$suite.jsonl" timeout -k 10 "$limit" "$PYTHON" -m pytest -q -p no:cacheprovider \
    --junitxml="$RAW/$suite.xml" "$@" 2>&1 | tail -n 25
  local status=${PIPESTATUS[0]}
  [ "$status" -eq 0 ] || [ "$status" -eq 5 ] || failed=1
  "$PYTHON" -m bench.report write "$suite" "$RAW" "$OUT" "$status" "pytest $*"
  echo "== $suite took until second $((SECONDS - STARTED))"
}

suites=(decode) # whole steps first: what the rest measures is part of them
ASIDE="soak"    # eight files at most come back, and the GPU tests soak too: SUITES=soak measures it
for file in bench/test_*.py; do
  suite="$(basename "$file" .py)"
  suite="${suite#test_}"
  [ "$suite" = decode ] || [ "$suite" = "$ASIDE" ] || suites+=("$suite")
done
if [ -n "${SUITES:-}" ]; then
  read -ra suites <<<"$SUITES"
else
  run gpu_tests "${#suites[@]}" tests/genarm_kernels tests/gpu -m device
fi
for index in "${!suites[@]}"; do
  suite="${suites[$index]}"
  run "$suite" $((${#suites[@]} - index - 1)) "bench/test_$suite.py" -m "$SELECT" --benchmark-quiet
done

"$PYTHON" -m bench.report digest "$OUT"
exit "$failed"
