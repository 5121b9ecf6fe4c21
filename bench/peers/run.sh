#!/usr/bin/env bash
# Times patrain beside PyTorch and the original project's model on this machine: installs PyTorch (newest on PyPI),
# perceiver_ar_pytorch 0.0.10 and pretty_midi into a virtual environment outside the tree, then runs compare.py with the
# arguments given (compare.py --help).
#
#   bench/peers/run.sh --tokens data/maestro/train.safetensors
#
# PA_PEERS_VENV   where the environment is or is made (default: ~/.cache/patrain/peers); gigabytes
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
venv=${PA_PEERS_VENV:-${XDG_CACHE_HOME:-$HOME/.cache}/patrain/peers}
if ! "$venv/bin/python" -c 'import torch, perceiver_ar_pytorch, pretty_midi, safetensors, numpy' 2> /dev/null; then
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet torch perceiver-ar-pytorch==0.0.10 safetensors numpy pretty_midi
fi
grep -m1 'model name' /proc/cpuinfo || true
"$venv/bin/python" -c 'import platform, torch; print("Python", platform.python_version(), "PyTorch", torch.__version__,
  "threads", torch.get_num_threads())'
exec "$venv/bin/python" "$here/compare.py" "$@"
