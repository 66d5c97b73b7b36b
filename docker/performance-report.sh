#!/usr/bin/env bash
# What one job costs on this machine, measured by the gateway: a cold run and a warm one.
set -Eeuo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"
leave_root "$@"

usage() {
  cat <<'TEXT'
Usage: performance-report.sh [--dry-run] [--workflow NAME] [--runs N] [--image FILE] [--video FILE]
                             [--preset 480p|576p|720p] [--frames N]

Submits the same job N times (default 2: the first loads the models) with seeds of its own, and
prints a table: wait, time on the engine, time to load, seconds per step, peak VRAM, file.

STEADYDANCER_URL, STEADYDANCER_KEY: which gateway, which key.

Exit codes: 0 measured; 1 a job failed; 2 wrong usage.
TEXT
}

DRY_RUN=false workflow=steadydancer runs=2 image='' video='' preset=480p frames=''
while (($#)); do
  case $1 in
    --dry-run) DRY_RUN=true ;;
    --workflow | --runs | --image | --video | --preset | --frames)
      (($# >= 2)) || { usage >&2; exit "$EXIT_USAGE"; }
      printf -v "${1#--}" '%s' "$2"
      shift
      ;;
    -h | --help) usage; exit "$EXIT_OK" ;;
    *) usage >&2; exit "$EXIT_USAGE" ;;
  esac
  shift
done
[[ $runs =~ ^[1-9][0-9]?$ ]] || { usage >&2; exit "$EXIT_USAGE"; }
here=$(cd "$(dirname "$0")" && pwd)
samples=$here/../samples
[[ -d $samples ]] || samples=$here/../docs/samples
cli=${STEADYDANCER:-steadydancer}
need "$cli" curl python3
url=${STEADYDANCER_URL:-http://127.0.0.1:8000}
auth=()
if [[ -n ${STEADYDANCER_KEY-} ]]; then auth=(-H "Authorization: Bearer $STEADYDANCER_KEY"); fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
options=(--workflow "$workflow" --image "${image:-$samples/photo.jpg}"
  --video "${video:-$samples/dance.mp4}")
if [[ $workflow == steadydancer ]]; then
  options+=(--prompt "a person is dancing" --preset "$preset")
fi
if [[ -n $frames ]]; then options+=(--set "frames=$frames"); fi

for ((number = 1; number <= runs; number++)); do
  # Another seed each time, or ComfyUI answers from its cache.
  seed=()
  if [[ $workflow == steadydancer ]]; then seed=(--seed "$((RANDOM * 32768 + RANDOM))"); fi
  if $DRY_RUN; then
    run "$cli" submit "${options[@]}" "${seed[@]}" --output "$work/$number.mp4" --json
    continue
  fi
  "$cli" submit "${options[@]}" "${seed[@]}" --output "$work/$number.mp4" --json \
    >"$work/$number.job.json" || die "$EXIT_FAILED" "job $number did not succeed"
  id=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["id"])' "$work/$number.job.json")
  # The event stream of a finished job is its whole log, and ends.
  curl -fsS -m 30 "${auth[@]}" -H 'Accept: text/event-stream' "$url/v1/jobs/$id/events" \
    >"$work/$number.events" || true
done
if $DRY_RUN; then exit "$EXIT_OK"; fi
python3 "$here/performance_table.py" "$work"/*.job.json
