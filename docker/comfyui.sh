#!/usr/bin/env bash
# The engine, as the gateway starts it: becomes ComfyUI, or in the cpu image the stand-in.
set -Eeuo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

usage() {
  cat <<'TEXT'
Usage: comfyui.sh [--print] HOST PORT

Starts ComfyUI with the arguments of comfyui-arguments.txt. start.sh sets what it reads:
DATA_DIR, IMAGE_KIND (gpu or cpu), LOW_VRAM (true or false), COMFYUI_EXTRA_ARGS.

  --print   Print the command, one word a line, and start nothing.

Exit codes: 2 wrong usage; otherwise ComfyUI's own.
TEXT
}

print=false
case ${1-} in
  -h | --help) usage; exit "$EXIT_OK" ;;
  --print) print=true; shift ;;
esac
(($# == 2)) || { usage >&2; exit "$EXIT_USAGE"; }
host=$1 port=$2
data=${DATA_DIR:?set by start.sh}
home=${IMAGE_HOME:-/opt/gateway}

if [[ ${IMAGE_KIND:-gpu} == cpu ]]; then
  command=("$home/venv/bin/python" -m app.standin --listen "$host" --port "$port"
    --directory "$data/comfyui" --version 0.10.0)
else
  command=(/opt/comfyui/venv/bin/python main.py)
  while IFS= read -r line; do
    [[ -z $line || $line == \#* ]] && continue
    line=${line//\{host\}/$host}
    line=${line//\{port\}/$port}
    line=${line//\{data\}/$data}
    line=${line//\{etc\}/$data/gateway/etc}
    command+=("$line")
  done <"${COMFYUI_ARGUMENTS:-$home/etc/comfyui-arguments.txt}"
  if [[ ${LOW_VRAM:-false} == true ]]; then command+=(--lowvram); fi
  read -ra extra <<<"${COMFYUI_EXTRA_ARGS-}"
  command+=("${extra[@]}")
fi

if $print; then
  printf '%s\n' "${command[@]}"
  exit "$EXIT_OK"
fi
[[ ${IMAGE_KIND:-gpu} == cpu ]] || cd /opt/comfyui/app
exec "${command[@]}"
