#!/usr/bin/env bash
# One real job through the gateway, then its mp4 is looked at: smoke first, SteadyDancer where its
# models are.
set -Eeuo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"
leave_root "$@"

usage() {
  cat <<'TEXT'
Usage: functional-test.sh [--dry-run] [--smoke-only | --steadydancer] [--image FILE] [--video FILE]

  --smoke-only     Only the workflow that needs no model.
  --steadydancer   SteadyDancer too, and a failure if it cannot run. Default: where it can run.
  --image, --video Your own files. Default: the samples of the repository or the image.

STEADYDANCER_URL (default http://127.0.0.1:8000), STEADYDANCER_KEY: which gateway, which key.
PAGE_URL: where ComfyUI's page is behind the proxy; then that is asked too, with and without key.
READY_SECONDS (default 300), JOB_SECONDS (default 3600): patience. OUTPUT_DIR: where the mp4s go.

Exit codes: 0 passed; 1 failed; 2 wrong usage.
TEXT
}

mode=auto
DRY_RUN=false
image='' video=''
while (($#)); do
  case $1 in
    --dry-run) DRY_RUN=true ;;
    --smoke-only) mode=smoke ;;
    --steadydancer) mode=steadydancer ;;
    --image | --video)
      (($# >= 2)) || { usage >&2; exit "$EXIT_USAGE"; }
      if [[ $1 == --image ]]; then image=$2; else video=$2; fi
      shift
      ;;
    -h | --help) usage; exit "$EXIT_OK" ;;
    *) usage >&2; exit "$EXIT_USAGE" ;;
  esac
  shift
done

here=$(cd "$(dirname "$0")" && pwd)
samples=$here/../samples
[[ -d $samples ]] || samples=$here/../docs/samples
image=${image:-$samples/photo.jpg} video=${video:-$samples/dance.mp4}
cli=${STEADYDANCER:-steadydancer}
url=${STEADYDANCER_URL:-http://127.0.0.1:8000}
need curl "$cli"
for file in "$image" "$video"; do
  [[ -f $file ]] || die "$EXIT_FAILED" "no file $file"
done
out=${OUTPUT_DIR:-$(mktemp -d)}
auth=()
if [[ -n ${STEADYDANCER_KEY-} ]]; then auth=(-H "Authorization: Bearer $STEADYDANCER_KEY"); fi

can_run() { # WORKFLOW
  local answer
  answer=$(curl -fsS -m 10 "${auth[@]}" "$url/v1/workflows/$1" 2>/dev/null) || return 1
  [[ ${answer//[[:space:]]/} == *'"available":true'* ]]
}

try() { # WORKFLOW [OPTION...]
  local name=$1 file="$out/$1.mp4"
  shift
  say "== $name"
  run timeout "${JOB_SECONDS:-3600}" "$cli" submit --workflow "$name" --image "$image" \
    --video "$video" --output "$file" "$@" || die "$EXIT_FAILED" "$name: the job did not succeed"
  if $DRY_RUN; then return; fi
  check_mp4 "$file"
}

# An mp4 begins with a box `ftyp`. ffprobe, where it is, decodes every frame.
check_mp4() { # FILE
  local bytes frames
  bytes=$(stat -c %s -- "$1") || die "$EXIT_FAILED" "no file came"
  [[ $(head -c 8 -- "$1" | tail -c 4) == ftyp ]] || die "$EXIT_FAILED" "$1 is no mp4"
  if have ffprobe; then
    frames=$(ffprobe -v error -count_frames -select_streams v:0 -show_entries stream=nb_read_frames \
      -of csv=p=0 "$1" | tr -dc '0-9')
    ((${frames:-0} > 0)) || die "$EXIT_FAILED" "$1 has no frame that can be decoded"
    say "$1: $bytes bytes, $frames frames"
  else
    say "$1: $bytes bytes"
  fi
}

check_page() {
  local code
  code=$(curl -s -m 10 -o /dev/null -w '%{http_code}' "$PAGE_URL/system_stats" || true)
  [[ $code == 401 ]] || die "$EXIT_FAILED" "ComfyUI's page without a key: $code, not 401"
  code=$(curl -s -m 10 -o /dev/null -w '%{http_code}' "${auth[@]}" "$PAGE_URL/system_stats" || true)
  [[ $code == 200 ]] || die "$EXIT_FAILED" "ComfyUI's page with the key: $code, not 200"
  say "ComfyUI's page: closed without a key, open with it"
}

if ! $DRY_RUN; then
  wait_for "$url/healthz" "${READY_SECONDS:-300}" || die "$EXIT_FAILED" "no gateway at $url"
  deadline=$((SECONDS + ${READY_SECONDS:-300}))
  until can_run smoke; do
    ((SECONDS < deadline)) || die "$EXIT_FAILED" "the engine is not ready, or the key may not read"
    sleep 1
  done
fi
try smoke
if [[ $mode != smoke ]]; then
  if [[ $mode == steadydancer ]] || { ! $DRY_RUN && can_run steadydancer; }; then
    try steadydancer --prompt "a person is dancing" --preset 480p --set frames=17
  else
    say "== steadydancer: its models are not here; see steadydancer models list"
  fi
fi
if [[ -n ${PAGE_URL-} ]] && ! $DRY_RUN; then check_page; fi
say "passed"
