#!/usr/bin/env bash
# Installs the published flash-attn wheel for Python 3.10, torch 2.5, CUDA 12, old C++ ABI.
set -Eeuo pipefail

readonly URL=https://github.com/Dao-AILab/flash-attention/releases/download/v2.7.4.post1/flash_attn-2.7.4.post1+cu12torch2.5cxx11abiFALSE-cp310-cp310-linux_x86_64.whl

if [[ ${1-} == --help || $# -lt 1 ]]; then
  echo "Usage: flash-attn.sh 1|0 SHA256       install, or leave out"
  echo "       flash-attn.sh --hash           download the wheel and print its SHA-256"
  [[ ${1-} == --help ]] && exit 0 || exit 2
fi
case $1 in
  0) exit 0 ;;
  --hash)
    curl -fsSL --retry 3 "$URL" | sha256sum | cut -d ' ' -f 1
    exit 0
    ;;
  1) ;;
  *) exec "$0" ;;
esac
if ! [[ ${2-} =~ ^[0-9a-f]{64}$ ]]; then
  cat >&2 <<TEXT
flash-attn.sh: the wheel is installed by hash, and FLASH_ATTN_SHA256 is not one. Either
  --build-arg FLASH_ATTN_SHA256=\$(docker/build/flash-attn.sh --hash)
after comparing it with what the release page shows, or leave flash-attn out (the default graph
uses sdpa):
  --build-arg WITH_FLASH_ATTN=0
TEXT
  exit 1
fi
lock=$(mktemp)
printf 'flash-attn @ %s --hash=sha256:%s\n' "$URL" "$2" >"$lock"
/opt/uv/bin/uv pip install --no-cache --require-hashes --no-deps -c /requirements/set-a.lock -r "$lock"
rm -f "$lock"
