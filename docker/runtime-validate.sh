#!/usr/bin/env bash
# Is the deployment that runs in order? Asks the gateway, and its doctor where it can be reached.
set -Eeuo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

usage() {
  cat <<'TEXT'
Usage: runtime-validate.sh [--container NAME] [--wait SECONDS]

  --container  Ask `steadydancer doctor` and nvidia-smi in this container as well.
  --wait       How long the gateway may take to be ready (default 600).

STEADYDANCER_URL (default http://127.0.0.1:8000), STEADYDANCER_KEY: which gateway, which key.

Exit codes: 0 in order; 1 not; 2 wrong usage.
TEXT
}

container=''
patience=600
while (($#)); do
  case $1 in
    --container | --wait)
      (($# >= 2)) || { usage >&2; exit "$EXIT_USAGE"; }
      if [[ $1 == --container ]]; then container=$2; else patience=$2; fi
      shift
      ;;
    -h | --help) usage; exit "$EXIT_OK" ;;
    *) usage >&2; exit "$EXIT_USAGE" ;;
  esac
  shift
done
[[ $patience =~ ^[0-9]+$ ]] || { usage >&2; exit "$EXIT_USAGE"; }
need curl
url=${STEADYDANCER_URL:-http://127.0.0.1:8000}
auth=()
if [[ -n ${STEADYDANCER_KEY-} ]]; then auth=(-H "Authorization: Bearer $STEADYDANCER_KEY"); fi

failed=0
ok() { say "ok    $*"; }
bad() { say "FAIL  $*"; failed=$((failed + 1)); }

if [[ -n $container ]]; then
  need docker
  if [[ $(docker inspect --format '{{.State.Running}}' "$container" 2>/dev/null) == true ]]; then
    ok "container $container runs"
  else
    bad "container $container does not run: docker logs $container"
  fi
fi
if wait_for "$url/healthz" "$patience"; then ok "the gateway answers"; else bad "no gateway at $url"; fi
if wait_for "$url/readyz" "$patience" "${auth[@]}"; then
  ok "it is ready"
else
  bad "it is not ready: $(curl -sS -m 10 "${auth[@]}" "$url/readyz" 2>&1 | head -c 2000)"
fi
if [[ -n $container ]] && docker inspect "$container" >/dev/null 2>&1; then
  if docker exec "$container" steadydancer doctor; then ok "doctor"; else bad "doctor has found something"; fi
  used=$(docker exec "$container" nvidia-smi --query-gpu=memory.used,memory.total \
    --format=csv,noheader,nounits 2>/dev/null | head -n 1 || true)
  if [[ -n $used ]]; then ok "GPU memory, used and total in MiB: $used"; else bad "the container sees no GPU"; fi
fi

if ((failed > 0)); then
  say "$failed checks failed"
  exit "$EXIT_FAILED"
fi
say "in order"
