#!/usr/bin/env bash
# `make native-check`: builds the compiled core twice in build/, where any warning is an error and with AddressSanitizer, and
# runs the tests of its classes and sockets on the second.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$PWD/.venv/bin/python

build() { # a copy of the package in build/$1, its core built with the flags $2
  rm -rf "build/$1"
  mkdir -p "build/$1"
  cp -r setup.py pyproject.toml README.md LICENSE src "build/$1/"
  rm -f "build/$1"/src/gatelink/_core.c "build/$1"/src/gatelink/_core*.so
  (cd "build/$1" && GATELINK_NATIVE=1 GATELINK_CFLAGS="$2" "$python" setup.py -q build_ext --inplace)
}

# Cython's own code has functions and parameters that this core does not use.
build strict "-O2 -g0 -Wall -Wextra -Werror -Wno-unused-function -Wno-unused-parameter -Wno-missing-field-initializers"
echo "native-check: no warnings"

build asan "-O1 -g -fsanitize=address -fno-omit-frame-pointer -UNDEBUG"
asan=$("${CC:-cc}" -print-file-name=libasan.so)
export GATELINK_NATIVE=1 PYTHONPATH=$PWD/build/asan/src PYTHONMALLOC=malloc
# Python's own leaks at its end are no news, and some tests use much memory on purpose.
export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1
LD_PRELOAD=$asan "$python" -c 'from gatelink import _native; assert "asan" in _native.core.__file__, _native.core'
LD_PRELOAD=$asan GATELINK_TIME_SCALE=4 "$python" -m pytest -q -n "${TEST_WORKERS:-2}" -p no:cacheprovider "$@"
