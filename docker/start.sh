#!/usr/bin/env bash
# Command of the image: looks at the machine, lays out DATA_DIR, becomes the gateway, which owns
# ComfyUI and the reverse proxy.
set -Eeuo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

usage() {
  cat <<'TEXT'
Usage: start.sh [--dry-run]
       start.sh --exec COMMAND [ARGUMENT...]

  --dry-run   Print the settings that would be used; make and start nothing.
  --exec      Run another command under the same settings, such as `steadydancer models list`.

Reads (all optional; .env.example has more):
  MODE_TO_RUN      pod (default), or serverless: a worker of a RunPod Serverless endpoint, which
                   takes only the models from the volume.
  DATA_DIR         Where everything that must last lies. Default: a folder steadydancer on the
                   volume that RunPod mounts, if there is one, else /data.
  ROLE             serve (default), or worker: run jobs of the store that GATEWAY_DATABASE_URL names.
  LOW_VRAM         auto (default), true or false: smaller variant, all blocks swapped, tiles.
  DOWNLOAD_MODELS  true (default with a GPU) or false: bring missing models, beside the gateway.
  COMFYUI_PAGE     true (default) or false: ComfyUI's own page on PAGE_PORT for admin keys.
  PAGE_PORT        Default 8188.
  GATEWAY_*        The gateway's settings; what is set is left as it is.

Started as root (as the image is, where no user is given), it gives DATA_DIR to user 1000 and goes on
as that user. A file DATA_DIR/gateway/restore-at-start that names a backup has that put back first, once.

Exit codes: 1 this machine cannot run it (said in words); 2 wrong usage; otherwise the gateway's.
TEXT
}

DRY_RUN=false
other=()
case ${1-} in
  "") ;;
  --dry-run) DRY_RUN=true ;;
  --exec)
    shift
    (($#)) || { usage >&2; exit "$EXIT_USAGE"; }
    other=("$@")
    ;;
  -h | --help) usage; exit "$EXIT_OK" ;;
  *) usage >&2; exit "$EXIT_USAGE" ;;
esac

home=${IMAGE_HOME:-/opt/gateway}
kind=${IMAGE_KIND:-gpu}

default_data_dir() {
  local mount
  for mount in ${RUNPOD_MOUNTS:-/runpod-volume /workspace}; do
    if mountpoint -q "$mount" 2>/dev/null; then
      printf '%s/steadydancer\n' "$mount"
      return
    fi
  done
  printf '/data\n'
}

# --- VRAM: what this card can take. Decided on its total; what is free is admission's business ----

choose_variant() { # TOTAL_MIB; prints the workflow's overrides
  local total=$1
  if [[ $LOW_VRAM == true ]]; then
    printf '{"steadydancer": {"variant": "q4_k_m", "blocks_to_swap": 40, "prefetch_blocks": 0, "tiling": true}}\n'
  elif ((total >= 44000)); then
    printf '{"steadydancer": {"variant": "fp16"}}\n'
  elif ((total >= 22000)); then
    printf '{"steadydancer": {"variant": "fp8_scaled"}}\n'
  else
    printf '{"steadydancer": {"variant": "q4_k_m"}}\n'
  fi
}

look_at_the_card() {
  local total
  if [[ $kind != gpu ]]; then
    LOW_VRAM=false
    export GATEWAY_ADMISSION=${GATEWAY_ADMISSION:-off}
    return
  fi
  if ! total=$(total_vram_mib); then
    ((${#other[@]} == 0)) || return 0
    die "$EXIT_FAILED" "no NVIDIA card can be read (nvidia-smi). Start the container with a GPU" \
      "(docker run --gpus all), or use the image's cpu or gateway target."
  fi
  case ${LOW_VRAM:-auto} in
    # A 16 GB card reports a little under 16,384 MiB.
    auto) if ((total < 15000)); then LOW_VRAM=true; else LOW_VRAM=false; fi ;;
    true | false) ;;
    *) die "$EXIT_USAGE" "LOW_VRAM is auto, true or false, not $LOW_VRAM" ;;
  esac
  ((${#other[@]} == 0)) || QUIET=true
  if ((total < 11000)) && [[ -z ${QUIET-} ]]; then
    warn "the card has $total MiB; SteadyDancer needs about 12 GB. Jobs may be refused."
  fi
  export GATEWAY_WORKFLOW_OVERRIDES=${GATEWAY_WORKFLOW_OVERRIDES:-$(choose_variant "$total")}
  [[ -n ${QUIET-} ]] || warn "card: $total MiB in all, low VRAM: $LOW_VRAM"
}

# --- environment ---------------------------------------------------------------------------------

# A worker shares the volume with others, so what it writes lies on the container's disk, and does not
# stay long. Nobody reaches it but RunPod's queue.
settle_worker() {
  export GATEWAY_MODELS_DIR=${GATEWAY_MODELS_DIR:-$(default_data_dir)/models}
  export DATA_DIR=${DATA_DIR:-/data} DOWNLOAD_MODELS=${DOWNLOAD_MODELS:-false}
  export COMFYUI_PAGE=false GATEWAY_HOST=127.0.0.1 GATEWAY_MAKE_FIRST_KEY=false
  export GATEWAY_KEEP_SECONDS=${GATEWAY_KEEP_SECONDS:-600}
  export GATEWAY_UPLOAD_TTL_SECONDS=${GATEWAY_UPLOAD_TTL_SECONDS:-3600}
}

settle() {
  case ${MODE_TO_RUN:=pod} in
    pod) ;;
    serverless) settle_worker ;;
    *) die "$EXIT_USAGE" "MODE_TO_RUN is pod or serverless, not $MODE_TO_RUN" ;;
  esac
  export DATA_DIR=${DATA_DIR:-$(default_data_dir)}
  look_at_the_card
  export LOW_VRAM=${LOW_VRAM:-auto} IMAGE_KIND=$kind
  case ${ROLE:=serve} in
    serve) ;;
    worker)
      # It answers for its health only: nobody else calls it, and it makes no keys.
      export GATEWAY_HOST=${GATEWAY_HOST:-127.0.0.1}
      export GATEWAY_MAKE_FIRST_KEY=${GATEWAY_MAKE_FIRST_KEY:-false}
      COMFYUI_PAGE=false
      ;;
    *) die "$EXIT_USAGE" "ROLE is serve or worker, not $ROLE" ;;
  esac
  export GATEWAY_HOST=${GATEWAY_HOST:-0.0.0.0} GATEWAY_PORT=${GATEWAY_PORT:-8000}
  export GATEWAY_DATA_DIR=${GATEWAY_DATA_DIR:-$DATA_DIR/gateway}
  export GATEWAY_WORKFLOWS_DIR=${GATEWAY_WORKFLOWS_DIR:-$home/workflows}
  export GATEWAY_MIGRATIONS_DIR=${GATEWAY_MIGRATIONS_DIR:-$home/migrations}
  export GATEWAY_MAKE_FIRST_KEY=${GATEWAY_MAKE_FIRST_KEY:-true}
  # Docker and RunPod kill after 10 seconds.
  export GATEWAY_STOP_SECONDS=${GATEWAY_STOP_SECONDS:-3}
  if [[ $kind != gateway ]]; then
    export GATEWAY_COMFYUI_URLS=${GATEWAY_COMFYUI_URLS:-http://127.0.0.1:8189}
    export GATEWAY_COMFYUI_COMMAND="${GATEWAY_COMFYUI_COMMAND:-$home/bin/comfyui.sh {host\} {port\}}"
    export GATEWAY_COMFYUI_DIR=${GATEWAY_COMFYUI_DIR:-$DATA_DIR/comfyui}
    export GATEWAY_MODELS_DIR=${GATEWAY_MODELS_DIR:-$DATA_DIR/models}
  fi
  if [[ $kind != gateway && ${COMFYUI_PAGE:-true} == true ]]; then
    export PAGE_PORT=${PAGE_PORT:-8188}
    export GATEWAY_PROXY_COMMAND="${GATEWAY_PROXY_COMMAND:-nginx -c $GATEWAY_DATA_DIR/etc/proxy.conf}"
  fi
  export HF_HOME=${HF_HOME:-$DATA_DIR/hf}
  export DOWNLOAD_MODELS=${DOWNLOAD_MODELS:-$([[ $kind == gpu ]] && echo true || echo false)}
}

# All that root does: RunPod's volumes are root's.
give_away() {
  local folder
  [[ $(id -u) == 0 ]] || return 0
  mkdir -p "$DATA_DIR" 2>/dev/null || true
  for folder in "$DATA_DIR" "$DATA_DIR"/{gateway,models,comfyui,hf}; do
    if [[ -d $folder && $(stat -c %u "$folder") == 0 ]]; then
      chown 1000:1000 "$folder" 2>/dev/null || warn "$folder cannot be given to user 1000"
    fi
  done
}

lay_out() {
  local folder
  mkdir -p "$DATA_DIR" 2>/dev/null || true
  for folder in "$DATA_DIR" "$DATA_DIR"/{gateway,models,comfyui,hf}; do
    [[ $folder == "$DATA_DIR" || -e $folder ]] || continue
    if ! [[ -d $folder && -w $folder ]]; then
      die "$EXIT_FAILED" "$folder cannot be written by user $(id -u). Give it to that user" \
        "(chown -R 1000:1000), name another folder with DATA_DIR, or start the container as root" \
        "(without --user), which gives it away and goes on as user 1000."
    fi
  done
  for folder in gateway/etc gateway/proxy comfyui/{input,output,user} models hf; do
    mkdir -p "$DATA_DIR/$folder"
  done
  mkdir -p "$GATEWAY_DATA_DIR/etc" "$GATEWAY_DATA_DIR/proxy"
  if [[ $kind == gpu ]]; then
    sed "s|@MODELS@|$GATEWAY_MODELS_DIR|" "$home/etc/extra_model_paths.yaml.template" \
      >"$DATA_DIR/gateway/etc/extra_model_paths.yaml"
  fi
  if [[ -n ${GATEWAY_PROXY_COMMAND-} ]]; then
    sed -e "s|@RUN@|$GATEWAY_DATA_DIR/proxy|g" -e "s|@PAGE_PORT@|$PAGE_PORT|g" \
      -e "s|@GATEWAY@|127.0.0.1:$GATEWAY_PORT|g" \
      -e "s|@ENGINE@|${GATEWAY_COMFYUI_URLS#http://}|g" \
      "$home/etc/proxy.conf.template" >"$GATEWAY_DATA_DIR/etc/proxy.conf"
  fi
}

# --- models --------------------------------------------------------------------------------------

bring_models() {
  [[ $DOWNLOAD_MODELS == true ]] || return 0
  say "models: bringing what is missing, beside the gateway"
  # Twice forked, so that it belongs to tini, and the gateway has no child that it did not start.
  ("$(dirname "$0")/download_models.sh" &)
}

# --- the database of an earlier time ---------------------------------------------------------------

# Asked for by a file, for a pod has no other moment at which its gateway does not run.
restore_if_asked() {
  local request=$GATEWAY_DATA_DIR/restore-at-start copy
  [[ -f $request ]] || return 0
  copy=$(head -n 1 "$request")
  warn "putting back $copy, as $request says"
  "$home/venv/bin/steadydancer" db restore "$copy" ||
    die "$EXIT_FAILED" "$copy was not put back. Remove $request to start without it."
  mv "$request" "$request.done"
}

settle
if $DRY_RUN; then
  env | grep -E '^(GATEWAY_|DATA_DIR|LOW_VRAM|DOWNLOAD_MODELS|PAGE_PORT|HF_HOME|IMAGE_KIND)' | sort
  exit "$EXIT_OK"
fi
if ((${#other[@]})); then
  leave_root --exec "${other[@]}"
  exec "${other[@]}"
fi
give_away
leave_root
lay_out
restore_if_asked
# A key for the pod itself, and one for the Hub: neither the gateway nor foreign node packs have any
# use for them.
unset RUNPOD_API_KEY
bring_models
unset HF_TOKEN
case $MODE_TO_RUN in
  serverless) exec "$home/venv/bin/steadydancer" serverless ;;
  *) exec "$home/venv/bin/steadydancer" "$ROLE" ;;
esac
