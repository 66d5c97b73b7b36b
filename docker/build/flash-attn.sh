#!/usr/bin/env bash
# Brings and installs the published flash-attn wheel for Python 3.10, torch 2.5, CUDA 12, old C++ ABI.
set -Eeuo pipefail

readonly NAME=flash_attn-2.7.4.post1+cu12torch2.5cxx11abiFALSE-cp310-cp310-linux_x86_64.whl
readonly URL=${FLASH_ATTN_URL:-https://github.com/Dao-AILab/flash-attention/releases/download/v2.7.4.post1/$NAME}

usage() {
  cat <<'TEXT'
Usage: flash-attn.sh --hash                    download the wheel and print its SHA-256
       flash-attn.sh fetch 1|0 SHA256 FOLDER   bring it into FOLDER and check it; 0 makes FOLDER only
       flash-attn.sh install FOLDER            install what fetch has brought, if anything

FLASH_ATTN_URL: a mirror of the wheel.
Exit codes: 0 done; 1 not; 2 wrong usage.
TEXT
}

fetch() { # 1|0 SHA256 FOLDER
  mkdir -p "$3"
  [[ $1 == 1 ]] || return 0
  if ! [[ $2 =~ ^[0-9a-f]{64}$ ]]; then
    cat >&2 <<TEXT
flash-attn.sh: the wheel is installed by hash, and FLASH_ATTN_SHA256 is not one. Either
  --build-arg FLASH_ATTN_SHA256=\$(docker/build/flash-attn.sh --hash)
after comparing it with what the release page shows, or leave flash-attn out (the default graph
uses sdpa):
  --build-arg WITH_FLASH_ATTN=0
TEXT
    exit 1
  fi
  curl -fsSL --retry 3 -o "$3/$NAME" "$URL"
  if ! printf '%s  %s\n' "$2" "$3/$NAME" | sha256sum --check --quiet >&2; then
    echo "flash-attn.sh: what came from $URL is not the wheel of that hash" >&2
    exit 1
  fi
  printf 'flash-attn @ file://%s --hash=sha256:%s\n' "$(realpath "$3")/$NAME" "$2" >"$3/flash-attn.lock"
}

install() { # FOLDER
  [[ -e $1/flash-attn.lock ]] || return 0
  "${UV:-/opt/uv/bin/uv}" pip install --no-cache --no-index --require-hashes --no-deps \
    -c "${CONSTRAINTS:-/requirements/set-a.lock}" -r "$1/flash-attn.lock"
}

case ${1-}/$# in
  -h/1 | --help/1) usage ;;
  --hash/1) curl -fsSL --retry 3 "$URL" | sha256sum | cut -d ' ' -f 1 ;;
  fetch/4) if [[ $2 == [01] ]]; then fetch "$2" "$3" "$4"; else usage >&2; exit 2; fi ;;
  install/2) install "$2" ;;
  *) usage >&2; exit 2 ;;
esac
