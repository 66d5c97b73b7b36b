#!/usr/bin/env bash
# Can this host build and run the image? Every check is done; the exit code counts.
set -Eeuo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

usage() {
  cat <<'TEXT'
Usage: preflight.sh [--no-gpu] [--no-container]

  --no-gpu        The host has no card (cpu and gateway targets).
  --no-container  Do not start a container to see whether it gets the GPU.

NEED_BYTES (default 80 GB: image, build cache and models): free space at DATA_PATH (default .) and
at Docker's own folder. PROBE_IMAGE: image of the container check.

Exit codes: 0 all passed; 1 something failed (each line says what to do); 2 wrong usage.
TEXT
}

gpu=true
container=true
while (($#)); do
  case $1 in
    --no-gpu) gpu=false container=false ;;
    --no-container) container=false ;;
    -h | --help) usage; exit "$EXIT_OK" ;;
    *) usage >&2; exit "$EXIT_USAGE" ;;
  esac
  shift
done

failed=0
ok() { say "ok    $*"; }
bad() { say "FAIL  $*"; failed=$((failed + 1)); }

check_gpu() {
  local total driver
  if ! have nvidia-smi; then
    bad "nvidia-smi is not installed: install NVIDIA's driver (550 or newer)"
    return
  fi
  if total=$(total_vram_mib); then
    if ((total < 11000)); then
      bad "the card has $total MiB; SteadyDancer needs about 12 GB"
    else
      ok "card: $total MiB"
    fi
  else
    bad "nvidia-smi names no card with a readable size: is the driver loaded?"
  fi
  driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1 || true)
  if [[ $driver =~ ^([0-9]+)\. ]] && ((BASH_REMATCH[1] >= 550)); then
    ok "driver $driver"
  else
    bad "driver ${driver:-unknown}: CUDA 12.4 wants 550 or newer"
  fi
}

check_docker() {
  local version
  if ! have docker; then
    bad "docker is not installed"
    return
  fi
  if ! version=$(docker info --format '{{.ServerVersion}}' 2>/dev/null) || [[ -z $version ]]; then
    bad "the Docker daemon does not answer: start it, or join the group docker"
    return
  fi
  if [[ $version =~ ^([0-9]+)\. ]] && ((BASH_REMATCH[1] >= 24)); then
    ok "Docker $version"
  else
    bad "Docker $version: 24 or newer is needed"
  fi
  if docker compose version >/dev/null 2>&1; then ok "Docker Compose"; else bad "no docker compose plugin"; fi
}

check_container() {
  local image=${PROBE_IMAGE:-nvidia/cuda:12.4.1-base-ubuntu22.04}
  if docker run --rm --gpus all "$image" nvidia-smi >/dev/null 2>&1; then
    ok "a container gets the GPU"
  else
    bad "a container gets no GPU: install the NVIDIA Container Toolkit and run" \
      "nvidia-ctk runtime configure --runtime=docker, then restart Docker"
  fi
}

check_space() { # PATH
  local free need=${NEED_BYTES:-80000000000}
  free=$(free_bytes "$1")
  if ((free >= need)); then
    ok "$1: $((free / 1000000000)) GB free"
  else
    bad "$1: $((free / 1000000000)) GB free, $((need / 1000000000)) GB are needed"
  fi
}

if $gpu; then check_gpu; fi
check_docker
if $container && have docker; then check_container; fi
check_space "${DATA_PATH:-.}"
docker_root=$(docker info --format '{{.DockerRootDir}}' 2>/dev/null || true)
if [[ -n $docker_root && $docker_root != "${DATA_PATH:-.}" ]]; then check_space "$docker_root"; fi

if ((failed > 0)); then
  say "$failed checks failed"
  exit "$EXIT_FAILED"
fi
say "ready"
