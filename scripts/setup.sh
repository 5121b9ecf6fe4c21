#!/usr/bin/env bash
# Installs what patrain's build and tests need, on Debian 12. If all of it is there already, does nothing and needs no
# network.
#
#   scripts/setup.sh            everything: build, tests, sanitizers, fuzzers, format checks
#   scripts/setup.sh --build    what the build and the demo need, without the tests
#   scripts/setup.sh --list     print the packages instead of installing them
set -euo pipefail

usage() { sed -n '2,/^set /s/^# \{0,1\}//p' "$0"; }
fail() { echo "setup.sh: $*" >&2; exit 1; }

# pip downloads the demo's scores.
build=(build-essential cmake ninja-build pkg-config git python3 python3-pip ca-certificates
  libsmf-dev libinih-dev libdnnl-dev libcjson-dev libopenmpi-dev openmpi-bin
  libcairo2-dev libfluidsynth-dev libsndfile1-dev libebur128-dev libwebsockets-dev musescore-general-soundfont-small)
tests=(libcmocka-dev clang clang-format libclang-rt-14-dev libomp-dev python3-venv python3-mido shellcheck xz-utils)

packages=("${build[@]}" "${tests[@]}")
list=false
for argument in "$@"; do
  case $argument in
    --build) packages=("${build[@]}") ;;
    --list) list=true ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; echo "setup.sh: unknown argument $argument" >&2; exit 2 ;;
  esac
done
if $list; then printf '%s\n' "${packages[@]}"; exit 0; fi

if ! command -v dpkg-query > /dev/null || ! command -v apt-get > /dev/null; then
  fail "apt-get not found: this script supports Debian only.
Install the equivalents of these Debian packages, then build with: cmake --preset cpu && cmake --build --preset cpu
  ${packages[*]}"
fi

missing=()
for package in "${packages[@]}"; do
  # dpkg also knows packages that were removed, hence the state.
  state=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2> /dev/null || true)
  [[ $state == installed ]] || missing+=("$package")
done
[[ ${#missing[@]} -gt 0 ]] || exit 0

as_root=()
if [[ $(id -u) -ne 0 ]]; then
  command -v sudo > /dev/null || fail "packages are missing, and sudo was not found. As root, run:
  apt-get update && apt-get install --no-install-recommends ${missing[*]}"
  as_root=(sudo)
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 "$@" >> "$log" 2>&1
}

echo "setup.sh: installing ${missing[*]}" >&2
# The package lists of an earlier update may do, so a failed update matters only if the installation fails.
updated=true
apt update || updated=false
if ! apt install --no-install-recommends "${missing[@]}"; then
  tail -n 20 "$log" >&2
  if ! $updated; then fail "cannot download Debian's package lists: is this machine online?"; fi
  if grep -q 'Unable to locate package\|has no installation candidate' "$log"; then
    fail "the packages are Debian 12's (bookworm); this machine runs $(sed -n 's/^PRETTY_NAME=//p' /etc/os-release)"
  fi
  fail "apt-get failed to install ${missing[*]}; its last lines are above"
fi
