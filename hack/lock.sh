#!/usr/bin/env bash
# Resolves requirements/*.lock anew: what images, CI and the development environment install, with hashes and without
# addresses. The images' locks hold the versions of the development environment, so what is tested is what runs.
set -euo pipefail
cd "$(dirname "$0")/.."
uv=${UV:-.venv/bin/uv}
test -x "$uv" || { .venv/bin/python -m pip install --quiet uv; uv=.venv/bin/uv; }

lock() { # name, sources and options
  local out=requirements/$1.lock
  shift
  echo "resolving $out"
  "$uv" pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
    --no-header --no-annotate -c requirements/constraints.txt -o "$out" "$@"
}

lock dev pyproject.toml --extra runtime --group dev
lock operator pyproject.toml -c requirements/dev.lock
lock models --group models -c requirements/dev.lock
lock jobs requirements/jobs.in -c requirements/dev.lock
lock triton requirements/triton.in --no-deps
lock triton-openvino requirements/triton-openvino.in --no-deps
lock router requirements/router.in --no-deps
