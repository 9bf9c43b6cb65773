#!/usr/bin/env bash
# csrc/cpu under every compiler it is written for that is here, warnings as errors, and its driver run: GCC, the oldest Clang
# from 14 on, and GCC for 64-bit ARM (under QEMU, where that is installed). Usage: csrc/compilers.sh
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

check() {  # compiler, instruction sets, what runs its programs
  local program="$work/$1"
  echo "== $("$1" --version | head -n 1)"
  CXX=$1 csrc/tests/build.sh "$program" -O2 -Wall -Wextra -Werror
  for set in $2; do
    SPECTRAL_SAMPLER_CPU=$set "${@:3}" "$program"
  done
}

check g++ "baseline avx2 avx512"
for version in 14 15 16 17 18; do
  if command -v "clang++-$version" >/dev/null; then
    check "clang++-$version" "baseline avx2 avx512"
    break
  fi
done
arm=aarch64-linux-gnu
if command -v "$arm-g++" >/dev/null; then
  if command -v qemu-aarch64 >/dev/null; then check "$arm-g++" baseline qemu-aarch64 -L "/usr/$arm"; else check "$arm-g++" ""; fi
fi
