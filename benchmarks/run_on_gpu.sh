#!/usr/bin/env bash
# Every GPU check and measurement, on a machine with a GPU and without a network; `--help` tells all.
#   benchmarks/run_on_gpu.sh [build+test | sanitize | ops | attention | models | restoration | segmentation | detector | scaling | profile | table] --out DIR --commit ID
#   benchmarks/run_on_gpu.sh --out DIR --commit ID --device cpu --quick      every stage, without one
# PYTHON: the interpreter to build for and run with (default python3); its torch must have CUDA.
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-python3}" benchmarks/gpu_run.py "$@"
