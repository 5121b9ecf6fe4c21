#!/usr/bin/env bash
# A CUDA toolkit from PyPI's NVIDIA packages, for machines that have none: nvcc, runtime, cuBLAS, cuDNN with its
# frontend, NCCL and compute-sanitizer, about 1.9 GB, in a virtual environment outside the tree. Needs Python 3 with
# venv, and at run time NVIDIA's driver 580 or newer. CUDA 13 is the oldest supported, because CUDA 12's packages lack
# the compiler.
#
#   scripts/setup_cuda.sh [FOLDER]     default: $XDG_CACHE_HOME/patrain/cuda, where CMake looks first
#   scripts/setup_cuda.sh --frontend   only cuDNN's frontend, 3 MB of headers, for a toolkit with cuDNN; CMake finds it
#
# Prints FOLDER/toolkit, laid out as an installed toolkit is. For another FOLDER:
#   cmake --preset default -DPA_CUDA_ROOT=FOLDER/toolkit
set -euo pipefail
frontend='nvidia-cudnn-frontend==1.32.*' cache=${XDG_CACHE_HOME:-$HOME/.cache}/patrain only_frontend=false
case ${1:-} in
  -h | --help) sed -n '2,/^set /s/^# \{0,1\}//p' "$0"; exit 0 ;;
  --frontend) only_frontend=true dir=$cache/cudnn ;;
  *) dir=$(realpath -m "${1:-$cache/cuda}") ;;
esac

fail() { echo "setup_cuda.sh: $*" >&2; exit 1; }
machine=$(uname -sm)
[[ $machine == "Linux x86_64" || $machine == "Linux aarch64" ]] ||
  fail "expected Linux on x86_64 or aarch64, found $machine"
[[ -x $dir/bin/pip ]] || python3 -m venv "$dir" || fail "expected Python 3 with venv (Debian: python3-venv)"
site() { "$dir/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])'; }
if $only_frontend; then
  "$dir/bin/pip" install --quiet --disable-pip-version-check --no-deps "$frontend" >&2 ||
    fail "pip could not install $frontend; its message is above"
  ln -sfn "$(site)/include" "$dir/frontend"
  echo "$dir/frontend"
  exit 0
fi
# --no-deps: each package is named here, and the frontend's Python part needs a gigabyte that its headers don't.
"$dir/bin/pip" install --quiet --disable-pip-version-check --no-deps \
  'nvidia-cuda-nvcc==13.0.*' 'nvidia-cuda-crt==13.0.*' 'nvidia-nvvm==13.0.*' 'nvidia-cuda-runtime==13.0.*' \
  'nvidia-cuda-cccl==13.0.*' 'nvidia-cublas==13.0.*' 'nvidia-cuda-nvrtc==13.0.*' \
  'nvidia-cuda-sanitizer-api==13.0.*' 'nvidia-cuda-cuobjdump==13.2.*' 'nvidia-cudnn-cu13==9.19.*' "$frontend" 'nvidia-nccl-cu13==2.28.*' >&2 ||
  fail "pip could not install NVIDIA's packages; its message is above"

packages=$(site)
toolkit=$packages/nvidia/cu13
[[ -x $toolkit/bin/nvcc ]] || fail "expected nvcc in $toolkit/bin, found none"
# One tree: the headers of cuDNN, NCCL and the frontend beside CUDA's, and unversioned library names for linkers.
ln -sf "$packages"/nvidia/cudnn/include/* "$packages"/nvidia/nccl/include/* "$packages"/include/cudnn_* \
  "$toolkit/include/"
ln -sf "$packages"/nvidia/cudnn/lib/*.so.* "$packages"/nvidia/nccl/lib/*.so.* "$toolkit/lib/"
for lib in "$toolkit"/lib/*.so.*; do
  ln -sf "$(basename "$lib")" "${lib%%.so.*}.so"
done
ln -sfn lib "$toolkit/lib64"
ln -sfn "${toolkit#"$dir"/}" "$dir/toolkit"
echo "setup_cuda.sh: $("$toolkit/bin/nvcc" --version | grep release)" >&2
echo "$dir/toolkit"
