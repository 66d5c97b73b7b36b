#!/usr/bin/env bash
# Writes the lock files from the .in files beside it.
set -Eeuo pipefail
cd "$(dirname "$0")"

# The packages as they were when the sets were seen to run.
readonly FROZEN=2026-01-21
readonly PLATFORM=x86_64-manylinux_2_28

usage() {
  cat <<'TEXT'
Usage: lock.sh [--check]

Resolves base.in, set-a.in, set-b.in, mmcv.in and uv.in to lock files with hashes.
Needs uv (or UV=/path/to/uv) and a package index.

  --check   Resolve to a temporary folder and compare; write nothing.

Exit codes: 0 done, or equal; 1 the locks differ; 2 wrong usage.
TEXT
}

check=false
case "${1-}" in
  "") ;;
  --check) check=true ;;
  -h | --help) usage; exit 0 ;;
  *) usage >&2; exit 2 ;;
esac

uv=${UV:-uv}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -- *.in *.overrides *.lock "$work/" 2>/dev/null || true
# mmpose and its kin have sources only: reading their metadata needs setuptools with pkg_resources.
"$uv" venv --quiet "$work/env"
printf 'setuptools==80.10.1\nwheel==0.46.2\n' >"$work/build.txt"
"$uv" pip install --quiet --python "$work/env" -r "$work/build.txt"

resolve() { # NAME PYTHON OPTION...
  local name=$1 python=$2
  shift 2
  (
    cd "$work"
    UV_CUSTOM_COMPILE_COMMAND='docker/requirements/lock.sh' "$uv" pip compile --quiet --upgrade \
      --python "$work/env" --python-version "$python" --python-platform "$PLATFORM" \
      --exclude-newer "$FROZEN" --no-build-isolation --generate-hashes \
      --no-emit-index-url --no-emit-find-links "$@" "$name.in" -o "$name.lock"
  )
}

resolve set-a 3.10 --override set-a.overrides
resolve set-b 3.12 --override set-b.overrides
resolve mmcv 3.10 --no-deps
(
  cd "$work"
  UV_CUSTOM_COMPILE_COMMAND='docker/requirements/lock.sh' "$uv" pip compile --quiet \
    --python "$work/env" --generate-hashes --no-emit-index-url --no-emit-find-links \
    uv.in -o uv.lock
)

status=0
for name in set-a set-b mmcv uv; do
  if $check; then
    diff -u "$name.lock" "$work/$name.lock" || status=1
  else
    cp "$work/$name.lock" "$name.lock"
  fi
done
exit "$status"
