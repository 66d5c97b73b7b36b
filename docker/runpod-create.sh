#!/usr/bin/env bash
# Makes a RunPod pod from an image that is named by version or digest.
set -Eeuo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

usage() {
  cat <<'TEXT'
Usage: runpod-create.sh --image IMAGE [option...]

  --image IMAGE            ghcr.io/OWNER/NAME@sha256:... or :VERSION; never :latest
  --name NAME              Default steadydancer.
  --gpu NAME               RunPod's id of the card; default "NVIDIA GeForce RTX 4080 SUPER".
  --volume-gb N            Volume for models and results; default 80.
  --network-volume ID      A network volume instead (chosen now or never).
  --container-disk-gb N    Scratch space beside the image; default 20.
  --cloud SECURE|COMMUNITY Default SECURE.
  --min-cuda VERSION       Lowest CUDA of the host's driver; default 12.4 (12.8 for target modern).
  --registry-auth ID       For a private image: runpodctl registry list.
  --env NAME=VALUE         Repeatable. Secrets: NAME={{ RUNPOD_SECRET_name }}
  --dry-run                Print the command; make nothing.

Needs jq and a runpodctl 2 that knows the options above. Ports 8000 (gateway) and 8188 (ComfyUI's page, admin keys only) get
public URLs; the first admin key is in the pod's log, once.

Exit codes: 0 made; 1 refused; 2 wrong usage.
TEXT
}

DRY_RUN=false
image='' name=steadydancer gpu='NVIDIA GeForce RTX 4080 SUPER' volume_gb=80 network_volume=''
container_disk_gb=20 cloud=SECURE min_cuda=12.4 registry_auth=''
environment=()
while (($#)); do
  case $1 in
    --dry-run) DRY_RUN=true ;;
    -h | --help) usage; exit "$EXIT_OK" ;;
    --image | --name | --gpu | --volume-gb | --network-volume | --container-disk-gb | --cloud | \
      --min-cuda | --registry-auth)
      (($# >= 2)) || { usage >&2; exit "$EXIT_USAGE"; }
      variable=${1#--}
      printf -v "${variable//-/_}" '%s' "$2"
      shift
      ;;
    --env)
      [[ ${2-} == ?*=* ]] || { usage >&2; exit "$EXIT_USAGE"; }
      environment+=("$2")
      shift
      ;;
    *) usage >&2; exit "$EXIT_USAGE" ;;
  esac
  shift
done

[[ -n $image ]] || die "$EXIT_USAGE" "--image is missing"
case ${image##*/} in
  *:latest) die "$EXIT_USAGE" "name a version or a digest: what :latest means changes under the pod" ;;
  *@sha256:* | *:*) ;;
  *) die "$EXIT_USAGE" "the image needs a version or a digest" ;;
esac
[[ $volume_gb =~ ^[0-9]+$ && $container_disk_gb =~ ^[0-9]+$ ]] ||
  die "$EXIT_USAGE" "sizes are whole numbers of GB"
[[ $cloud == SECURE || $cloud == COMMUNITY ]] || die "$EXIT_USAGE" "--cloud is SECURE or COMMUNITY"
need jq

variables=$(
  for one in DOWNLOAD_MODELS=true "${environment[@]}"; do
    jq -n --arg name "${one%%=*}" --arg value "${one#*=}" '{key: $name, value: $value}'
  done | jq -cs 'from_entries'
)
command=(runpodctl pod create --name "$name" --image "$image" --gpu-id "$gpu" --gpu-count 1
  --cloud-type "$cloud" --container-disk-in-gb "$container_disk_gb"
  --volume-mount-path /workspace --ports "8000/http,8188/http" --env "$variables"
  --min-cuda-version "$min_cuda")
if [[ -n $network_volume ]]; then
  command+=(--network-volume-id "$network_volume")
else
  command+=(--volume-in-gb "$volume_gb")
fi
if [[ -n $registry_auth ]]; then command+=(--registry-auth-id "$registry_auth"); fi

if ! $DRY_RUN; then
  need runpodctl
  version=$(runpodctl version 2>/dev/null || runpodctl --version 2>/dev/null || true)
  if ! [[ $version =~ v?([0-9]+)\.[0-9]+\.[0-9]+ ]] || ((BASH_REMATCH[1] < 2)); then
    die "$EXIT_FAILED" "runpodctl 2 or newer is needed; this is: ${version:-unknown}"
  fi
  # The first versions 2 lack some of these, and would make a pod without its volume.
  known=$(runpodctl pod create --help 2>&1 || true)
  for word in "${command[@]}"; do
    [[ $word == --[a-z]* ]] || continue
    [[ $known == *"$word "* ]] || die "$EXIT_FAILED" "this runpodctl ($version) has no $word: get a newer one"
  done
fi
run "${command[@]}"
