#!/usr/bin/env bash
# csrc under AddressSanitizer + UndefinedBehaviorSanitizer, and under ThreadSanitizer, for every instruction set this processor
# has; with --pytest also tests/test_native.py on an instrumented build of the extension. Usage: csrc/sanitize.sh [--pytest]
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

driver() {  # name, sanitizer flags
  csrc/tests/build.sh "$work/$1" -O1 -g -fno-omit-frame-pointer "${@:2}"
  for set in baseline avx2 avx512; do
    echo "== $1, at most $set"
    SPECTRAL_SAMPLER_CPU=$set UBSAN_OPTIONS=print_stacktrace=1 "$work/$1"
  done
}

driver address+undefined -fsanitize=address,undefined -fno-sanitize-recover=all
driver thread -fsanitize=thread

if [ "${1:-}" = --pytest ]; then
  echo "== tests/test_native.py on an instrumented extension"
  mkdir -p "$work/tree" && cp -r setup.py pyproject.toml README.md LICENSE csrc spectral_sampler tests "$work/tree/"
  rm -f "$work"/tree/spectral_sampler/_C*.so
  cd "$work/tree"
  SPECTRAL_SAMPLER_SANITIZE=address,undefined SPECTRAL_SAMPLER_REQUIRE_EXT=1 "$PYTHON" setup.py -q build_ext --inplace
  # The interpreter itself leaks on purpose, and memory is measured by the un-instrumented tests.
  LD_PRELOAD="$(${CXX:-g++} -print-file-name=libasan.so) $(${CXX:-g++} -print-file-name=libubsan.so)" \
    ASAN_OPTIONS=detect_leaks=0 PYTHONPATH="$PWD" \
    "$PYTHON" -m pytest -q tests/test_native.py -m "not slow" -k "not memory and not opcheck and not lesser"
fi
