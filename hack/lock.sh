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
# of what torch asks for, images leave out what only GPUs need, but for two libraries that are called on every import
mapfile -t gpu < <(grep -oP '^(nvidia-|cuda-|triton|setuptools)[a-z0-9-]*(?===)' requirements/models.lock |
  grep -vxE 'nvidia-cuda-(runtime|cupti)|tritonclient' | sed 's/^/--no-emit-package=/')
lock torch requirements/torch.in -c requirements/models.lock "${gpu[@]}"
mapfile -t torch < <(grep -oP '^[a-z0-9-]+(?===)' requirements/torch.lock | sed 's/^/--no-emit-package=/')
lock convert requirements/convert.in -c requirements/dev.lock -c requirements/models.lock "${gpu[@]}" "${torch[@]}"
lock tensorflow requirements/tensorflow.in -c requirements/dev.lock
lock triton requirements/triton.in --no-deps
lock triton-openvino requirements/triton-openvino.in --no-deps
lock router requirements/router.in --no-deps
