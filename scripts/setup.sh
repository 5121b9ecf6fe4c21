#!/usr/bin/env bash
# Installs what patrain's build and tests need, on Debian 12. Does nothing, and needs no network, where all of it is there.
#
#   scripts/setup.sh            everything: build, tests, sanitizers, fuzzers, format checks
#   scripts/setup.sh --build    only what building and the demo need
#   scripts/setup.sh --list     print the packages of that set, install nothing
set -euo pipefail

usage() { sed -n '2,6s/^# \{0,1\}//p' "$0"; }
fail() { echo "setup.sh: $*" >&2; exit 1; }

# cmocka is in the first set because a configured tree always has its tests; pip fetches the demo's scores.
build=(build-essential cmake ninja-build pkg-config git python3 python3-pip ca-certificates
  libsmf-dev libinih-dev libdnnl-dev libcjson-dev libcmocka-dev libopenmpi-dev openmpi-bin)
tests=(clang clang-format libclang-rt-14-dev libomp-dev python3-venv shellcheck xz-utils)

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
  fail "this script knows Debian's packages only, and apt-get is not here.
Install what these Debian packages hold, then build with: cmake --preset cpu && cmake --build --preset cpu
  ${packages[*]}"
fi

missing=()
for package in "${packages[@]}"; do
  # A package can be known and yet removed, so ask for its state.
  state=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2> /dev/null || true)
  [[ $state == installed ]] || missing+=("$package")
done
[[ ${#missing[@]} -gt 0 ]] || exit 0

as_root=()
if [[ $(id -u) -ne 0 ]]; then
  command -v sudo > /dev/null || fail "these packages are missing and sudo is not here. As root, run:
  apt-get update && apt-get install --no-install-recommends ${missing[*]}"
  as_root=(sudo)
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 "$@" >> "$log" 2>&1; }

echo "setup.sh: installing ${missing[*]}" >&2
# A failed update is told only if the install fails too: the lists that are there may do.
updated=true
apt update || updated=false
if ! apt install --no-install-recommends "${missing[@]}"; then
  tail -n 20 "$log" >&2
  if ! $updated; then fail "could not fetch Debian's package lists: is this machine on the network?"; fi
  if grep -q 'Unable to locate package\|has no installation candidate' "$log"; then
    fail "these packages are in Debian 12 (bookworm); this machine is $(sed -n 's/^PRETTY_NAME=//p' /etc/os-release)"
  fi
  fail "apt-get could not install ${missing[*]}; its last lines are above"
fi
