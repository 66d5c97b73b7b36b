#!/usr/bin/env bash
# Brings the model files that the workflows need: `steadydancer models download`, tried again.
set -Eeuo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"
leave_root "$@"

usage() {
  cat <<'TEXT'
Usage: download_models.sh [--dry-run] [--verify] [--variant NAME] [--models-dir FOLDER]

Resumed, in parallel, checked by size and SHA-256, put in place whole, disk space first; all of
that is done by `steadydancer models download`.

  --dry-run     Say what would be brought; bring nothing.
  --verify      Read every file afterwards and check it again.
  --variant     Another variant than the one in force: q4_k_m, q5_k_m, q6_k, q8_0, fp8_scaled, fp16.

TRIES (default 3) and PAUSE_SECONDS (default 30): how often the whole is tried.
HF_TOKEN: for files that need an account. HF_ENDPOINT: a mirror.

Exit codes: 0 everything is there; 1 something is missing; 2 wrong usage; 130 broken off.
TEXT
}

verify=false
options=()
check=()
while (($#)); do
  case $1 in
    --dry-run) options+=(--dry-run) ;;
    --verify) verify=true ;;
    --variant | --models-dir)
      (($# >= 2)) || { usage >&2; exit "$EXIT_USAGE"; }
      options+=("$1" "$2")
      check+=("$1" "$2")
      shift
      ;;
    -h | --help) usage; exit "$EXIT_OK" ;;
    *) usage >&2; exit "$EXIT_USAGE" ;;
  esac
  shift
done
cli=${STEADYDANCER:-steadydancer}
need "$cli"

tries=${TRIES:-3}
for ((try = 1; ; try++)); do
  code=0
  "$cli" models download "${options[@]}" || code=$?
  ((code != 0)) || break
  # 2: wrong usage, 130: broken off. Neither is better the second time.
  if ((code == 2 || code == 130 || try >= tries)); then
    warn "models are missing (exit code $code). Run download_models.sh again: it goes on where it stopped."
    exit "$code"
  fi
  warn "try $try of $tries failed; again in ${PAUSE_SECONDS:-30} s"
  sleep "${PAUSE_SECONDS:-30}"
done
if $verify; then exec "$cli" models verify "${check[@]}"; fi
