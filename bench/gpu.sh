#!/usr/bin/env bash
# What only a GPU can show, in three calls that need 12 minutes together:
#
#   bench/gpu.sh a    at most 2 minutes: are the kernels right, what does a step consist of
#   bench/gpu.sh b    at most 5 minutes: patrain beside PyTorch, generation, all tests
#   bench/gpu.sh c    at most 5 minutes: every operation, attention's versions, the T4's path, NCCL, compute-sanitizer
#
# Run it in the folder that scripts/bundle.sh made. Each call writes out/gpu-X.md and out/gpu-X.tar.gz (logs and traces)
# after each of its parts, or into $OUT where that is set. bench/gpu.sh --help lists the options.
set -euo pipefail
exec "${PA_PYTHON:-python3}" "$(dirname "$0")/gpu.py" "$@"
