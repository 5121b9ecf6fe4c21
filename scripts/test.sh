#!/usr/bin/env bash
# Runs all checks of the project and stops at the first failure. Ends with ctest's summary of the plain build.
#
#   scripts/test.sh             everything: format, sanitizers, fuzzers, clang, emulator, all tests of the plain build
#   scripts/test.sh --quick     only the plain build and its tests
#   scripts/test.sh --long      everything, with 100 kills in the crash test, every failed call and power cut, and ten
#                               minutes per fuzzer
#
# PA_FUZZ_SECONDS   seconds per fuzzer (default: 30 if CI is set, else 5)
# PA_JOBS           parallel jobs (default: all cores)
#
# Logs are in build/logs/.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() { sed -n '2,12s/^# \{0,1\}//p' scripts/test.sh; }
quick=false
limit=900 # seconds that a test may take, unless it has a limit of its own
for argument in "$@"; do
  case $argument in
    --quick) quick=true ;;
    --long) limit=14400; export PA_CRASHES=100 PA_FUZZ_SECONDS=600 PA_FAULTS=all ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; echo "test.sh: unknown argument $argument" >&2; exit 2 ;;
  esac
done

jobs=${PA_JOBS:-$(nproc)}
fuzz_seconds=${PA_FUZZ_SECONDS:-$([[ -n ${CI:-} ]] && echo 30 || echo 5)}
logs=build/logs
mkdir -p "$logs"
# Tests share the cores, so waiting threads must not spin.
export OMP_WAIT_POLICY=passive UBSAN_OPTIONS=print_stacktrace=1

# check NAME COMMAND...: runs it with its output in the log NAME and prints the result; on failure also the end of the
# log.
check() {
  local name=$1 log=$logs/$1.log started=$SECONDS
  shift
  if "$@" > "$log" 2>&1; then
    echo "ok      $name ($((SECONDS - started)) s)"
  else
    local status=$?
    tail -n 200 "$log"
    echo "FAILED  $name: '$*' ended with status $status; the end of $log is above"
    exit 1
  fi
}

tree() { git status --porcelain --untracked-files=all 2> /dev/null || true; }

configure() { cmake --preset "$@" -DPA_WERROR=ON -DBUILD_TESTING=ON; }
# build PRESET [TARGET...]
build() { configure "$1" && cmake --build --preset "$1" -j "$jobs" ${2:+--target "${@:2}"}; }

# Tests labelled maestro need the whole of MAESTRO; .ci/run runs them. Some tests wait more than they compute: hence one
# more at a time.
run_ctest() {
  ctest --test-dir "build/$1" --output-on-failure --no-tests=error -j $((jobs + 1)) --timeout $limit \
    -LE "maestro${once:-}" "${@:2}"
}

tracked() { git ls-files -z -- "$@"; }

formatted() {
  tracked '*.c' '*.h' '*.cu' '*.cuh' '*.cpp' | xargs -0 -r clang-format --dry-run -Werror ||
    { echo "run clang-format -i on these files"; false; }
}

scripts_checked() {
  tracked '*.sh' .ci/run | xargs -0 -r shellcheck &&
    tracked '*.py' |
      xargs -0 -r -n 1 python3 -c 'import ast, sys; ast.parse(open(sys.argv[1], "rb").read(), sys.argv[1])'
}

# has_tests PRESET ARGUMENT...: whether ctest's arguments select any test of that preset.
has_tests() { [[ $(ctest --test-dir "build/$1" -N "${@:2}") != *"Total Tests: 0"* ]]; }

before=$(tree)
scripts/setup.sh
if ! $quick; then
  check clang-format formatted
  check scripts scripts_checked

  check asan-build build asan
  # Without those that look for wrong numbers in what other tests run too, or at pages in a browser.
  check asan-tests run_ctest asan -E '^(gradcheck|counts|page_browser|duet)$'

  check tsan-configure configure tsan
  check clang-configure configure clang -DCMAKE_BUILD_TYPE=Debug
  if has_tests tsan -L threads; then
    check tsan-build build tsan threads
    check tsan-tests run_ctest tsan -L threads & # which mostly wait
    waiting=$!
  fi
  check clang-build build clang # for its warnings; tsan and fuzz run clang's optimised code
  [[ -z ${waiting:-} ]] || wait "$waiting"

  # Under the address sanitizer: every kernel, one whole training step, one generated token. What passes there is not
  # run again without.
  check emulator-asan-build build emulator-asan \
    test_emulator test_cuda_ops test_cuda_attention test_cuda_backend test_attend pabench
  check emulator-asan-tests run_ctest emulator-asan -R '^(emulator|cuda_ops|cuda_attention|cuda_backend|attend)$'
  check emulator-asan-pabench build/emulator-asan/bin/pabench --device cuda --quick \
    --filter '^v1 (layernorm|head_norm|rotary|cast)'
  check emulator-build build emulator emulated
  check emulator-tests run_ctest emulator -L emulator -E '^(emulator|cuda_ops|cuda_backend|attend)$'

  check cuda-configure configure nvcc
  if has_tests nvcc -L cuda; then
    targets=(patrain paeval pagen)
    # The toolkit may have cuDNN without its frontend.
    if ! has_tests nvcc -R '^cudnn$' && grep -q '^PA_CUDNN_INCLUDE:PATH=/' build/nvcc/CMakeCache.txt &&
      scripts/setup_cuda.sh --frontend > "$logs/cudnn-frontend.log" 2>&1; then
      check cudnn-configure configure nvcc
    fi
    if has_tests nvcc -R '^cudnn$'; then
      targets+=(test_cudnn)
    else
      echo "skipped cudnn: cuDNN or its frontend not found (scripts/setup_cuda.sh --frontend installs the frontend)"
    fi
    check cuda-build build nvcc "${targets[@]}"
    check cuda-tests run_ctest nvcc -L cuda
  else
    echo "skipped nvcc: no CUDA toolkit found (scripts/setup_cuda.sh installs one)"
  fi

  check fuzz-configure configure fuzz "-DPA_FUZZ_SECONDS=$fuzz_seconds"
  if has_tests fuzz -R '^fuzz_'; then
    check fuzz-build build fuzz fuzzers
    check fuzz run_ctest fuzz -R '^fuzz_'
  fi
  once='|^once$' # these have passed under the address sanitizer
fi

check build build cpu
run_ctest cpu

after=$(tree)
if [[ $before != "$after" ]]; then
  diff <(echo "$before") <(echo "$after") || true
  echo "FAILED  the checks changed or left files in the tree (git status before and after is above)"
  exit 1
fi
