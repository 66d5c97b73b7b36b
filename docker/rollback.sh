#!/usr/bin/env bash
# Puts an earlier image in place of the one that runs, with the database of that time.
set -Eeuo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

usage() {
  cat <<'TEXT'
Usage: rollback.sh --image IMAGE [--backup FILE] [--dry-run]
       rollback.sh --pod ID --image IMAGE [--dry-run]

  --image   The earlier image, by version or digest; it must be here or be had.
  --backup  The backup made before the upgrade (steadydancer db backup), as the container sees it
            (such as /data/gateway/backups/before.db). Needed where the upgrade changed the
            database: an older gateway refuses a newer one. Jobs made since are not in it.
  --pod     A RunPod pod: its image is replaced (runpodctl pod update); what is not on its volume
            is lost. Where the upgrade changed the database, say in the pod's terminal first which
            backup the earlier gateway shall start from:
            echo FILE >/workspace/steadydancer/gateway/restore-at-start

The image is looked for before anything is stopped. COMPOSE_FILE: default docker-compose.zr4.yml
beside this script. READY_SECONDS (default 120): patience afterwards.

Exit codes: 0 the earlier image runs and answers; 1 not; 2 wrong usage.
TEXT
}

DRY_RUN=false image='' backup='' pod=''
while (($#)); do
  case $1 in
    --dry-run) DRY_RUN=true ;;
    --image | --backup | --pod)
      (($# >= 2)) || { usage >&2; exit "$EXIT_USAGE"; }
      printf -v "${1#--}" '%s' "$2"
      shift
      ;;
    -h | --help) usage; exit "$EXIT_OK" ;;
    *) usage >&2; exit "$EXIT_USAGE" ;;
  esac
  shift
done
[[ -n $image ]] || { usage >&2; exit "$EXIT_USAGE"; }

if [[ -n $pod ]]; then
  [[ -z $backup ]] || die "$EXIT_USAGE" "name the backup in the pod, in gateway/restore-at-start: see --help"
  $DRY_RUN || need runpodctl
  run runpodctl pod update "$pod" --image "$image"
  exit "$EXIT_OK"
fi

$DRY_RUN || need docker curl
file=${COMPOSE_FILE:-$(cd "$(dirname "$0")" && pwd)/docker-compose.zr4.yml}
compose=(docker compose -f "$file")
export IMAGE=$image
if ! $DRY_RUN && ! docker image inspect "$image" >/dev/null 2>&1; then
  docker pull "$image" || die "$EXIT_FAILED" "no image $image; nothing was changed"
fi
run "${compose[@]}" stop
if [[ -n $backup ]]; then
  run "${compose[@]}" run --rm --no-deps --entrypoint steadydancer gateway db restore "$backup" ||
    die "$EXIT_FAILED" "the backup was not restored; the gateway stays stopped"
fi
run "${compose[@]}" up -d --no-build
if $DRY_RUN; then exit "$EXIT_OK"; fi
url=${STEADYDANCER_URL:-http://127.0.0.1:8000}
if ! wait_for "$url/healthz" "${READY_SECONDS:-120}"; then
  "${compose[@]}" logs --tail 40 gateway >&2 || true
  die "$EXIT_FAILED" "the gateway does not answer"
fi
say "$image runs. It stays the one that is started only if docker/.env says IMAGE=$image"
