#!/usr/bin/env bash
# What a GPU has to say, in under 8 minutes on one: the tests that skip without it, then GRAM's step in every form.
#
#   benchmarks/device.sh          # on a machine with a CUDA GPU: benchmarks/results/device.csv and a verdict
#   benchmarks/device.sh --cpu    # dry run: small sizes on the CPU, Triton in its interpreter, nothing written over
#
# Needs a python3 with torch, triton, numpy, safetensors, pytest and hypothesis, and no network. PYTHON names another
# interpreter, OUT another folder for the figures.
set -u
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
python=${PYTHON:-python3}
dry=()
out=${OUT:-benchmarks/results}
if [ "${1:-}" = --cpu ]; then
  dry=(--cpu)
  out=${OUT:-$(mktemp -d)}
  export CUDA_VISIBLE_DEVICES="" TRITON_INTERPRET=1
fi
mkdir -p "$out"

echo "== 1. machine"
$python - <<'PYTHON' || exit 1
import importlib.util, sys
import torch
missing = [name for name in ("triton", "numpy", "safetensors", "pytest", "hypothesis") if importlib.util.find_spec(name) is None]
print(f"python {sys.version.split()[0]}, torch {torch.__version__}, CUDA {torch.version.cuda}")
print(torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA GPU", "| missing:", ", ".join(missing) or "nothing")
PYTHON

echo "== 2. tests"
# Without the plugins and options of pyproject.toml, so that pytest alone will do.
timeout 240 $python -m pytest -q -c /dev/null --rootdir tests -p no:cacheprovider --maxfail 5 \
  tests/test_fused.py tests/test_cuda.py 2>&1 | tail -n 25
tests=${PIPESTATUS[0]}

echo "== 3. figures"
timeout 200 $python benchmarks/device.py --output "$out/device.csv" "${dry[@]}"
figures=$?

echo "== summary: tests $([ "$tests" = 0 ] && echo passed || echo "FAILED (exit $tests)"), figures $([ "$figures" = 0 ] && echo complete || echo "INCOMPLETE (exit $figures)"): $out/device.csv"
[ "$tests" = 0 ] && [ "$figures" = 0 ]
