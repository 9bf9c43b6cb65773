#!/usr/bin/env bash
# csrc/cpu and its driver as one program, by $CXX. Usage: csrc/tests/build.sh PROGRAM [flags of the compiler ...]
set -euo pipefail
cd "$(dirname "$0")/../.."
program=$1 && shift
CXX=${CXX:-g++}
numerics=(-fno-math-errno -fno-trapping-math -ffp-contract=fast)
for source in csrc/cpu/*.cpp csrc/tests/driver.cpp; do
  own=()
  case "$("$CXX" -dumpmachine) $source" in  # as in setup.py
    x86_64*avx2.cpp) own=(-mavx2 -mfma -mf16c) ;;
    x86_64*avx512.cpp) own=(-mavx2 -mfma -mf16c -mavx512f -mavx512vl -mavx512bw -mavx512dq) ;;
  esac
  "$CXX" -std=c++20 "${numerics[@]}" -Wno-psabi "${own[@]}" "$@" -c "$source" -o "$program-$(basename "$source" .cpp).o"
done
"$CXX" "$@" "$program"-*.o -pthread -o "$program"
