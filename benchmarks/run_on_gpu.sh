#!/usr/bin/env bash
# Every GPU check and measurement, in stages: build, tests, ops, models, report.
#   benchmarks/run_on_gpu.sh [STAGE ...]     default: all of them
# PYTHON: the interpreter to build for and run with (default python3); it must have a CUDA torch.
# OUT: folder for logs and records (default runs/gpu). BUILD_ARGS: more arguments of pip install.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
out=${OUT:-runs/gpu}
stages=("$@")
[ ${#stages[@]} -gt 0 ] || stages=(build tests ops models report)
mkdir -p "$out"

say() { printf '\n== %s (%s s)\n' "$1" "$SECONDS"; }

stage_build() {
  "$python" - <<'PY'
import torch
assert torch.cuda.is_available(), f"torch {torch.__version__} sees no CUDA device"
print(torch.cuda.get_device_name(), torch.cuda.get_device_capability(), "torch", torch.__version__)
PY
  local arch
  arch=$("$python" -c 'import torch; print("%d%d" % torch.cuda.get_device_capability())')
  # shellcheck disable=SC2086
  IBNVISION_CUDA=${IBNVISION_CUDA:-1} IBNVISION_CUDA_ARCHS=${IBNVISION_CUDA_ARCHS:-$arch} \
    "$python" -m pip install --no-build-isolation --no-deps -e . ${BUILD_ARGS:-}
  "$python" -m ibnvision info
}

stage_tests() {
  "$python" -m pytest -q -m gpu tests
}

stage_ops() {
  "$python" -m ibnvision benchmark ops --op ibn_norm --device cuda --out "$out/ops.jsonl"
}

stage_models() {
  "$python" -m ibnvision benchmark models --device cuda --out "$out/models.jsonl"
}

stage_report() {
  "$python" - "$out" <<'PY'
import sys
from pathlib import Path

from ibnvision.benchmark import record, targets

print(targets.verdict(record.read_folder(Path(sys.argv[1]))))
PY
  echo "append $out/*.jsonl to the files of the same name in benchmarks/results, then: ibnvision report"
}

failed=()
for stage in "${stages[@]}"; do
  if ! declare -F "stage_$stage" >/dev/null; then
    echo "unknown stage $stage: build, tests, ops, models, report" >&2
    exit 2
  fi
  say "$stage"
  # a failing stage must not hide the measurements of the others, but it decides the exit status
  set +e
  (set -e; "stage_$stage") 2>&1 | tee "$out/$stage.log"
  status=${PIPESTATUS[0]}
  set -e
  if [ "$status" -ne 0 ]; then
    failed+=("$stage")
    [ "$stage" != build ] || break
  fi
done
say "done"
if [ ${#failed[@]} -gt 0 ]; then
  echo "failed: ${failed[*]}" >&2
  exit 1
fi
