#!/usr/bin/env bash
# Builds the targets without CUDA on a machine without a Docker daemon, and runs them.
set -Eeuo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

usage() {
  cat <<'TEXT'
Usage: build-local.sh [--dry-run] [--target gateway|cpu] [--no-run] [--keep]

Root, Debian 12: needs buildah, debootstrap, util-linux, procps, curl (apt-get install them). A Debian base
made by debootstrap is the build argument SMALL_BASE, its Python 3.11 the gateway's. Then the cpu
target is started under tini in a pid namespace of its own, twice: as user 1000, and as root over a
folder that belongs to root, which is RunPod's way. Each time its gateway must run as user 1000, the
functional test must pass inside, and SIGTERM must end it within 10 s.

  --target   Build only this one. Default: both; cpu is started.
  --no-run   Build only.
  --keep     Leave images and base for the next time (WORK_DIR).
  --dry-run  Print the commands of the build.

WORK_DIR        Default /var/tmp/steadydancer-build; needs about 4 GB.
DEBIAN_MIRROR   Default: debootstrap's.
PIP_CONF, UV_TOML, CA_FILE   Files mounted into the build, where a network needs them.

Exit codes: 0 built and passed; 1 failed; 2 wrong usage.
TEXT
}

DRY_RUN=false
targets=(gateway cpu)
start=true
keep=false
while (($#)); do
  case $1 in
    --dry-run) DRY_RUN=true ;;
    --no-run) start=false ;;
    --keep) keep=true ;;
    --target)
      [[ ${2-} == gateway || ${2-} == cpu ]] || { usage >&2; exit "$EXIT_USAGE"; }
      targets=("$2")
      shift
      ;;
    -h | --help) usage; exit "$EXIT_OK" ;;
    *) usage >&2; exit "$EXIT_USAGE" ;;
  esac
  shift
done

root=$(cd "$(dirname "$0")/.." && pwd)
work=${WORK_DIR:-/var/tmp/steadydancer-build}
$DRY_RUN || need buildah debootstrap curl unshare pgrep
store=(buildah --root "$work/storage" --runroot "$work/run" --storage-driver vfs)
base=localhost/steadydancer-debian:12
inside=

clean_up() {
  # Its child is PID 1 of the namespace, which ends with it. The change of user has undone
  # --kill-child.
  if [[ -n $inside ]]; then pkill -KILL -P "$inside" || true; fi
  if ! $keep && ! $DRY_RUN && [[ -d $work/storage ]]; then
    "${store[@]}" rm --all >/dev/null 2>&1 || true
    "${store[@]}" rmi --all --force >/dev/null 2>&1 || true
    rm -rf "$work"
  fi
}
trap clean_up EXIT

make_base() {
  if ! $DRY_RUN && "${store[@]}" images --quiet "$base" >/dev/null 2>&1; then return; fi
  if [[ ! -f $work/base/rootfs.tar ]]; then
    run mkdir -p "$work/base"
    run debootstrap --variant=minbase bookworm "$work/rootfs" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"}
    run tar -C "$work/rootfs" -cf "$work/base/rootfs.tar" .
    run rm -rf "$work/rootfs"
  fi
  if ! $DRY_RUN; then printf 'FROM scratch\nADD rootfs.tar /\n' >"$work/base/Dockerfile"; fi
  run "${store[@]}" bud --isolation chroot --quiet -f "$work/base/Dockerfile" -t "$base" "$work/base"
}

mounts=()
mount_into() { # FILE TARGET
  if [[ -n $1 ]]; then mounts+=(-v "$1:$2:ro"); fi
}
mount_into "${PIP_CONF-}" /etc/pip.conf
mount_into "${UV_TOML-}" /etc/uv/uv.toml
mount_into "${CA_FILE-}" /usr/local/share/ca-certificates/host.crt

build() { # TARGET
  run "${store[@]}" bud --isolation chroot --format docker --layers=false "${mounts[@]}" \
    --ignorefile "$root/docker/Dockerfile.zr4.dockerignore" -f "$root/docker/Dockerfile.zr4" \
    --target "$1" --build-arg SMALL_BASE="$base" --build-arg GATEWAY_PYTHON=/usr/bin/python3 \
    --build-arg REVISION="$(git -C "$root" rev-parse HEAD 2>/dev/null || echo unknown)" \
    -t "localhost/steadydancer-$1" "$root"
}

free_port() { # FROM
  local port=$1
  while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 1)); done
  printf '%s\n' "$port"
}

try_cpu() { # USER OWNER-OF-THE-DATA
  local user=$1 container mount port page engine began code key tini owner
  say "--- started as user $user; the data folder belongs to user $2"
  container=$("${store[@]}" from --pull-never --isolation chroot localhost/steadydancer-cpu)
  mount=$("${store[@]}" mount "$container")
  # The namespace is one of processes: ports are the host's, and others may have taken some.
  port=$(free_port 18000) page=$(free_port $((port + 1))) engine=$(free_port $((page + 1)))
  install -d -o "$2" -g "$2" "$mount/volume"
  # The image's own entry point, command and environment, as PID 1 of its own namespace.
  unshare --pid --fork --mount --mount-proc="$mount/proc" -- \
    chroot --userspec="$user:$user" "$mount" /usr/bin/env -i PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin \
    IMAGE_KIND=cpu DATA_DIR=/volume GATEWAY_PORT="$port" PAGE_PORT="$page" HOME=/ \
    GATEWAY_COMFYUI_URLS="http://127.0.0.1:$engine" PYTHONUNBUFFERED=1 \
    /usr/bin/tini -- /opt/gateway/bin/start.sh >"$work/gateway.log" 2>&1 &
  inside=$!
  began=$SECONDS
  if ! wait_for "http://127.0.0.1:$port/healthz" 60; then
    cat "$work/gateway.log" >&2
    die "$EXIT_FAILED" "the gateway did not answer in 60 s"
  fi
  say "answers after $((SECONDS - began)) s"
  tini=$(pgrep -P "$inside" -x tini)
  owner=$(stat -c %u "/proc/$(pgrep -P "$tini")")
  [[ $owner == 1000 ]] || die "$EXIT_FAILED" "the gateway runs as user $owner"
  key=$(sed -n 's/^The first admin key.*: //p' "$work/gateway.log")
  [[ -n $key ]] || die "$EXIT_FAILED" "no first key was printed"
  chroot --userspec="$user:$user" "$mount" /usr/bin/env -i PATH=/usr/local/bin:/usr/bin:/bin HOME=/ \
    IMAGE_KIND=cpu STEADYDANCER_URL="http://127.0.0.1:$port" STEADYDANCER_KEY="$key" PAGE_URL="http://127.0.0.1:$page" \
    /opt/gateway/bin/functional-test.sh || { tail -n 40 "$work/gateway.log" >&2; exit "$EXIT_FAILED"; }
  began=$(date +%s%N)
  kill -TERM "$tini"
  code=0
  wait "$inside" || code=$?
  inside=
  say "stopped with exit code $code after $((($(date +%s%N) - began) / 1000000)) ms"
  ((($(date +%s%N) - began) < 10000000000 && code == 0)) || die "$EXIT_FAILED" "no clean stop"
  owner=$(find "$mount/volume" ! -uid 1000 | head -n 3)
  [[ -z $owner ]] || die "$EXIT_FAILED" "not user 1000's: $owner"
}

make_base
for target in "${targets[@]}"; do build "$target"; done
if $start && ! $DRY_RUN && [[ " ${targets[*]} " == *" cpu "* ]]; then
  try_cpu 1000 1000
  try_cpu 0 0
fi
