#!/usr/bin/env bash
# Resolves requirements/*.lock anew from pyproject.toml: what images and CI install, with hashes and no addresses.
set -euo pipefail
cd "$(dirname "$0")/.."
uv=${UV:-.venv/bin/uv}
test -x "$uv" || { .venv/bin/python -m pip install --quiet uv; uv=.venv/bin/uv; }
lock() { # output, further arguments
  local out=requirements/$1.lock; shift
  echo "resolving $out"
  "$uv" pip compile --quiet --generate-hashes --no-emit-index-url --no-header --python-version 3.11 --python-platform x86_64-manylinux_2_28 -o "$out" "$@"
}
mkdir -p requirements
lock dev pyproject.toml --extra runtime --group dev
lock operator pyproject.toml -c requirements/dev.lock
lock jobs requirements/jobs.in -c requirements/dev.lock
