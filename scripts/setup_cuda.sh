#!/usr/bin/env bash
# A CUDA toolkit from PyPI's NVIDIA packages, for machines that have none: compiler, runtime and cuBLAS, about 1 GB, in a virtual
# environment outside the tree. Prints the CMake settings that find it. Needs Python 3 with venv, and at run time NVIDIA's driver 580 or
# newer: CUDA 12's packages lack the compiler, so CUDA 13 is the floor.
#     scripts/setup_cuda.sh [FOLDER]          default: $XDG_CACHE_HOME/patrain/cuda
set -euo pipefail
dir=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/patrain/cuda}

[ -x "$dir/bin/pip" ] || python3 -m venv "$dir"
"$dir/bin/pip" install --quiet --disable-pip-version-check 'nvidia-cuda-nvcc==13.0.*' 'nvidia-cuda-crt==13.0.*' 'nvidia-nvvm==13.0.*' \
  'nvidia-cuda-runtime==13.0.*' 'nvidia-cuda-cccl==13.0.*' 'nvidia-cublas==13.0.*' >&2

toolkit=$(echo "$dir"/lib/python3*/site-packages/nvidia/cu13)
[ -x "$toolkit/bin/nvcc" ] || { echo "setup_cuda.sh: expected nvcc in $toolkit/bin, found none" >&2; exit 1; }
# Names that linkers look for; the packages carry only the versioned ones.
for lib in "$toolkit"/lib/*.so.*; do
  name=${lib%%.so.*}.so
  [ -e "$name" ] || ln -s "$(basename "$lib")" "$name"
done
[ -e "$toolkit/lib64" ] || ln -s lib "$toolkit/lib64"
echo "setup_cuda.sh: $("$toolkit/bin/nvcc" --version | grep release)" >&2
echo "-DCMAKE_CUDA_COMPILER=$toolkit/bin/nvcc -DCUDAToolkit_ROOT=$toolkit"
