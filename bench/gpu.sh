#!/usr/bin/env bash
# Everything that only a GPU can show, in one run of under nine minutes: tests, compute-sanitizer, pabench, training and generation beside
# PyTorch, the T4's path. Run it in the folder that scripts/bundle.sh made; it writes results.md there. bench/gpu.sh --help says more.
set -euo pipefail
exec "${PA_PYTHON:-python3}" "$(dirname "$0")/gpu.py" "$@"
