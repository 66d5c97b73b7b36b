# shellcheck shell=bash
# What the scripts share. Sourced, never run.

# shellcheck disable=SC2034 # used by the scripts that source this
readonly EXIT_OK=0 EXIT_FAILED=1 EXIT_USAGE=2

say() { printf '%s\n' "$*"; }
warn() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { # CODE WORDS...
  local code=$1
  shift
  warn "$@"
  exit "$code"
}

have() { command -v "$1" >/dev/null 2>&1; }

need() { # COMMAND...
  local one missing=()
  for one in "$@"; do have "$one" || missing+=("$one"); done
  ((${#missing[@]} == 0)) || die "$EXIT_FAILED" "not installed: ${missing[*]}"
}

# In the image, where a terminal may be root's: goes on as user 1000, whose the data is.
leave_root() { # ARGUMENT...: those of the script, which starts again
  [[ -n ${IMAGE_KIND-} && $(id -u) == 0 ]] || return 0
  export HOME=/home/gateway
  exec setpriv --reuid 1000 --regid 1000 --clear-groups --no-new-privs "$0" "$@"
}

# Runs a command, or prints it where DRY_RUN is true.
run() {
  if ${DRY_RUN:-false}; then
    printf 'would run:'
    printf ' %q' "$@"
    printf '\n'
  else
    "$@"
  fi
}

# Total memory of the smallest card in MiB; fails where there is none to read.
total_vram_mib() {
  local line smallest=
  have nvidia-smi || return 1
  while IFS= read -r line; do
    line=${line//[[:space:]]/}
    [[ $line =~ ^[0-9]+$ ]] || continue # "[N/A]" on some virtual cards
    if [[ -z $smallest ]] || ((line < smallest)); then smallest=$line; fi
  done < <(nvidia-smi --query-gpu=memory.total --format=csv,noheader,nounits 2>/dev/null)
  [[ -n $smallest ]] && ((smallest > 0)) && printf '%s\n' "$smallest"
}

# Free bytes of the file system that holds a path, or would hold it.
free_bytes() { # PATH
  local path=$1
  while [[ ! -e $path ]]; do path=$(dirname "$path"); done
  df --output=avail -B1 -- "$path" | tail -n 1 | tr -d '[:space:]'
}

# Waits until a URL answers with 2xx: 0, or 1 when the time is over.
wait_for() { # URL SECONDS [CURL-OPTION...]
  local url=$1 deadline=$((SECONDS + $2))
  shift 2
  until curl -fsS -m 5 -o /dev/null "$@" "$url" 2>/dev/null; do
    ((SECONDS < deadline)) || return 1
    sleep 0.5
  done
}
