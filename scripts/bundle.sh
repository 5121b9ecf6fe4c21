#!/usr/bin/env bash
# Makes a folder, and an archive of it of at most 40 MB, to test and measure on another x86-64 Linux machine with a GPU:
# programs, tests, pabench, configurations, tokens of some of your music, and bench/gpu.sh, which runs everything. It contains no NVIDIA libraries; gpu.sh finds them on that machine, in a toolkit or among Python's packages.
#
#   scripts/bundle.sh OUT_DIR --midi MIDI_DIR
#
#   --build DIR      programs of this build folder (default: builds build/bundle for sm_75, sm_80, sm_90a and newer)
#   --build75 DIR    the same with compute_75 PTX only, which newer GPUs run as a T4 would (default: build/bundle-75);
#                    "" for none
#   --pieces N       at most so many pieces of music, 0: all (default: 100)
#
# The other machine needs a glibc and a libstdc++ at least as new as this machine's programs require (from Debian 12:
# Ubuntu 22.04 works). This machine's libstdc++ is left out because it requires a newer glibc. All other libraries are in
# lib/, found by a relative path.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)

usage() { sed -n '2,16s/^# \{0,1\}//p' "$root/scripts/bundle.sh"; }
refuse() { usage >&2; echo "bundle.sh: $*" >&2; exit 2; }
fail() { echo "bundle.sh: $*" >&2; exit 1; }
say() { printf '== %s\n' "$*" >&2; }

out='' midi='' pieces=100 build=$root/build/bundle build75=$root/build/bundle-75 given=false given75=false
while [[ $# -gt 0 ]]; do
  case $1 in
    -h | --help) usage; exit 0 ;;
    --midi | --build | --build75 | --pieces) [[ $# -ge 2 ]] || refuse "$1 needs a value" ;;&
    --midi) midi=$2; shift 2 ;;
    --pieces) pieces=$2; shift 2 ;;
    --build) build=$2 given=true; shift 2 ;;
    --build75) build75=$2 given75=true; shift 2 ;;
    -*) refuse "unknown argument $1" ;;
    *) [[ -z $out ]] || refuse "expected one folder, found $out and $1"; out=$1; shift ;;
  esac
done
[[ -n $out && -n $midi ]] || refuse "expected OUT_DIR and --midi MIDI_DIR"
[[ $pieces =~ ^[0-9]+$ ]] || refuse "--pieces: expected a number, found $pieces"
[[ -d $midi ]] || refuse "--midi: $midi is not a folder"
part=$out.part
[[ ! -e $out && ! -e $part && ! -e $out.tar.gz ]] || fail "$out, $part or $out.tar.gz already exists"

programs=(paprep patrain paeval pagen pabench pabench_attention
  test_cuda_ops test_cuda_attention test_golden test_gradcheck test_model test_step test_optimizer)

# make_build DIR ARCHITECTURES RUN_PATH
make_build() {
  say "Building for $2 ($1)"
  local log
  log=$(mktemp)
  # One shared library holds the kernels for all programs. RPATH, unlike RUNPATH, also applies to the libraries' own
  # dependencies.
  if ! { cmake -S "$root" -B "$1" -G Ninja -DPA_MPI=OFF -DPA_BUNDLE=ON "-DCMAKE_LIBRARY_OUTPUT_DIRECTORY=$1/lib" \
    "-DCMAKE_CUDA_ARCHITECTURES=$2" -DCMAKE_BUILD_WITH_INSTALL_RPATH=ON "-DCMAKE_INSTALL_RPATH=$3" \
    -DCMAKE_EXE_LINKER_FLAGS=-Wl,--disable-new-dtags &&
    cmake --build "$1" -j "${PA_JOBS:-$(nproc)}" --target "${programs[@]}"; } > "$log" 2>&1; then
    tail -n 40 "$log" >&2
    fail "the build failed; its last lines are above"
  fi
  rm -f "$log"
  grep -q '^PA_NVCC:FILEPATH=/' "$1/CMakeCache.txt" ||
    fail "CUDA toolkit not found (scripts/setup_cuda.sh installs one)"
  grep -q '^PA_CUDNN_FRONTEND:PATH=/' "$1/CMakeCache.txt" ||
    say "building without cuDNN: frontend not found (scripts/setup_cuda.sh installs it)"
}
# shellcheck disable=SC2016 # the loader expands $ORIGIN
$given || make_build "$build" '75-real;80-real;90a-real;90-virtual' '$ORIGIN/../lib'
# shellcheck disable=SC2016
$given75 || make_build "$build75" 75-virtual '$ORIGIN/../lib-75;$ORIGIN/../lib'

say "Tokens of $midi"
trap 'rm -rf "$part"' EXIT
mkdir -p "$part"/{bench/peers,tests/golden,midi}
find -L "$midi" -type f \( -iname '*.mid' -o -iname '*.midi' \) | LC_ALL=C sort > "$part/midi.txt"
every=$((pieces ? ($(wc -l < "$part/midi.txt") + pieces - 1) / pieces : 1))
if [[ $every -gt 1 ]]; then # every n-th piece
  awk -v every="$every" 'NR % every == 0' "$part/midi.txt" | while IFS= read -r piece; do cp "$piece" "$part/midi/"; done
  midi=$part/midi
fi
"$build/bin/paprep" "$midi" "$part/data"
rm -r "$part/midi" "$part/midi.txt"

say "Programs and their libraries"
copy_programs() { # FROM SUFFIX
  mkdir -p "$part/bin$2" "$part/lib$2"
  for p in "${programs[@]}"; do
    [[ -x $1/bin/$p ]] || fail "$1/bin/$p not found"
    strip -o "$part/bin$2/$p" "$1/bin/$p"
  done
  [[ ! -e $1/lib/libpa.so ]] || strip -o "$part/lib$2/libpa.so" "$1/lib/libpa.so"
}
copy_programs "$build" ''
[[ -z $build75 ]] || copy_programs "$build75" -75
for p in "${programs[@]}"; do ldd "$build/bin/$p"; done | awk '/not found/ { next } $2 == "=>" { print $3 }' | sort -u |
  grep -Ev '/(libc|libm|libdl|librt|libpthread|libstdc\+\+|libgcc_s|libpa)\.so' |
  grep -Ev '/(libcuda|libcublas|libcublasLt|libcudnn[a-z_]*|libnccl)\.so' |
  while IFS= read -r library; do strip -o "$part/lib/$(basename "$library")" "$library"; done

cp -r "$root/configs" "$root/models" "$part/"
cp "$root/tests/golden/golden.safetensors" "$part/tests/golden/"
cp "$root"/bench/gpu*.py "$root/bench/gpu.sh" "$root/bench/train_on_gpu.sh" "$part/bench/"
cp "$root/bench/peers/torch_worker.py" "$part/bench/peers/"
{ git -C "$root" describe --always --dirty 2> /dev/null || echo unknown; } > "$part/VERSION"
python3 -m pip install --quiet --disable-pip-version-check --no-deps --no-compile --target "$part/python" \
  perceiver-ar-pytorch==0.0.10 2> /dev/null ||
  say "cannot download perceiver_ar_pytorch: gpu.sh will skip PyTorch"
mv "$part" "$out"
tar -C "$(dirname "$out")" -c "$(basename "$out")" | gzip -9 > "$out.tar.gz"
[[ $(stat -c %s "$out.tar.gz") -le 40000000 ]] || say "the archive is larger than 40 MB, which may be too large to carry"
say "$out ($(du -sh "$out" | cut -f1)) and $out.tar.gz ($(du -h "$out.tar.gz" | cut -f1)); there: $(basename "$out")/bench/gpu.sh"
