#!/usr/bin/env bash
# Everything that only a GPU can show, in one run of under nine minutes: tests, training, generation, the T4's path, compute-sanitizer, pabench,
# and PyTorch's training in what time is left. Run it in the folder that scripts/bundle.sh made; it writes results.md there. bench/gpu.sh
# --help says more.
set -euo pipefail
exec "${PA_PYTHON:-python3}" "$(dirname "$0")/gpu.py" "$@"
