#!/usr/bin/env bash
# Decoding steps under Nsight Systems or Nsight Compute; docs/profiling.md says what to look at.
#
#   bench/profile.sh nsys [arguments of python -m bench.profiling decode]    a timeline, and its tables
#   bench/profile.sh ncu  [arguments of python -m bench.profiling decode]    each kernel's counters
#
# OUT=... for the folder (out/profile). ncu takes KERNELS=REGEX for the kernels to look at (all) and COUNT=N for how many
# launches (60: one layer has ten); it runs each launch several times over, and needs permission to read the counters.
set -euo pipefail
cd "$(dirname "$0")/.."

TOOL="${1:-}"
[ "$#" -eq 0 ] || shift
OUT="${OUT:-out/profile}"
PYTHON="${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1

case "$TOOL" in
  nsys | ncu) ;;
  *)
    sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
command -v "$TOOL" >/dev/null || {
  echo "profile.sh: $TOOL is not on the PATH: install Nsight $([ "$TOOL" = nsys ] && echo Systems || echo Compute)," \
    "or take a trace with 'genarm bench --trace FILE'" >&2
  exit 1
}
mkdir -p "$OUT"

if [ "$TOOL" = nsys ]; then
  # node: the kernels inside a replayed graph, not the replay as one block.
  nsys profile --trace=cuda,nvtx --cuda-graph-trace=node --sample=none --cpuctxsw=none \
    --capture-range=cudaProfilerApi --capture-range-end=stop --force-overwrite=true --output="$OUT/decode" \
    "$PYTHON" -m bench.profiling decode "$@"
  nsys stats --force-export=true --report cuda_gpu_kern_sum,nvtx_pushpop_sum,cuda_api_sum "$OUT/decode.nsys-rep" |
    tee "$OUT/decode-nsys.txt"
else
  ncu --set full --profile-from-start off --graph-profiling node --clock-control none \
    --kernel-name "regex:${KERNELS:-.*}" --launch-count "${COUNT:-60}" --force-overwrite --export "$OUT/decode" \
    "$PYTHON" -m bench.profiling decode "$@"
  ncu --import "$OUT/decode.ncu-rep" --page details --print-summary per-kernel | tee "$OUT/decode-ncu.txt"
fi
