#!/usr/bin/env bats
# The scripts of the image and its deployment, against stand-ins for what they drive.

setup() {
  DOCKER_DIR=$(cd "$BATS_TEST_DIRNAME/../../docker" && pwd)
  BIN=$BATS_TEST_TMPDIR/bin
  export CALLS=$BATS_TEST_TMPDIR/calls
  mkdir -p "$BIN"
  : >"$CALLS"
  PATH=$BIN:$PATH
  # Not root, whoever runs the tests.
  printf '#!/bin/sh\necho 1000\n' >"$BIN/id"
  chmod +x "$BIN/id"
  export READY_SECONDS=1
  unset GATEWAY_HOST GATEWAY_PORT GATEWAY_DATA_DIR GATEWAY_WORKFLOW_OVERRIDES LOW_VRAM DATA_DIR
  cd "$BATS_TEST_TMPDIR" || return 1
}

card() { # WHAT-IT-SAYS
  cp "$BATS_TEST_DIRNAME/stand_ins/nvidia-smi" "$BIN/nvidia-smi"
  export CARD=$1
}

stand_in() { # NAME [ANSWERS]
  cp "$BATS_TEST_DIRNAME/stand_ins/recorder" "$BIN/$1"
  if [[ -n ${2-} ]]; then
    printf '%s\n' "$2" >"$BATS_TEST_TMPDIR/answers_$1"
    export "ANSWERS_$1=$BATS_TEST_TMPDIR/answers_$1"
  fi
}

without() { # COMMAND...: a PATH that has everything but these
  local one folder=$BATS_TEST_TMPDIR/without
  mkdir -p "$folder"
  for one in bash env sed grep awk cat cp mkdir dirname basename df tail head tr sort id date stat \
    sleep mktemp rm timeout curl jq mountpoint seq python3; do
    [[ " $* " == *" $one "* ]] || ln -sf "$(command -v "$one")" "$folder/$one"
  done
  PATH=$BIN:$folder
}

# --- every script --------------------------------------------------------------------------------

@test "every script explains itself and refuses what it does not know" {
  for script in start comfyui download_models preflight runtime-validate functional-test \
    performance-report runpod-create rollback final-verification build-local; do
    run "$DOCKER_DIR/$script.sh" --help
    [ "$status" -eq 0 ] || { echo "$script --help: $status"; false; }
    [[ $output == Usage:* && $output == *"xit codes:"* ]] || { echo "$script: $output"; false; }
    run "$DOCKER_DIR/$script.sh" --no-such-option
    [ "$status" -eq 2 ] || { echo "$script: $status, not 2"; false; }
  done
}

# --- start.sh ------------------------------------------------------------------------------------

@test "a worker answers for its health only, and makes no keys" {
  IMAGE_KIND=cpu ROLE=worker run "$DOCKER_DIR/start.sh" --dry-run
  [ "$status" -eq 0 ]
  [[ $output == *"GATEWAY_HOST=127.0.0.1"* && $output == *"GATEWAY_MAKE_FIRST_KEY=false"* ]]
  [[ $output != *GATEWAY_PROXY_COMMAND* ]]
  IMAGE_KIND=cpu ROLE=boss run "$DOCKER_DIR/start.sh" --dry-run
  [ "$status" -eq 2 ]
}

@test "a 16 GB card, which reports 16376 MiB, is no low-VRAM card" {
  card 16376
  run "$DOCKER_DIR/start.sh" --dry-run
  [ "$status" -eq 0 ]
  [[ $output == *"LOW_VRAM=false"* && $output == *'"variant": "q4_k_m"'* ]]
}

@test "a 12 GB card swaps all blocks and decodes in tiles" {
  card 12282
  run "$DOCKER_DIR/start.sh" --dry-run
  [[ $output == *"LOW_VRAM=true"* && $output == *'"blocks_to_swap": 40'* && $output == *'"tiling": true'* ]]
}

@test "24 GB take fp8, 80 GB take fp16" {
  card 24564
  run "$DOCKER_DIR/start.sh" --dry-run
  [[ $output == *'"variant": "fp8_scaled"'* ]]
  card 81559
  run "$DOCKER_DIR/start.sh" --dry-run
  [[ $output == *'"variant": "fp16"'* ]]
}

@test "of two cards the smaller one decides" {
  card '81559\n12282'
  run "$DOCKER_DIR/start.sh" --dry-run
  [[ $output == *"LOW_VRAM=true"* ]]
}

@test "a card without a size is said to be none, in words" {
  card '[N/A]'
  run "$DOCKER_DIR/start.sh" --dry-run
  [ "$status" -eq 1 ]
  [[ $output == *"no NVIDIA card"* && $output != *"syntax error"* ]]
}

@test "without nvidia-smi a GPU image says so and ends with 1" {
  without nvidia-smi
  run "$DOCKER_DIR/start.sh" --dry-run
  [ "$status" -eq 1 ]
  [[ $output == *"no NVIDIA card"* ]]
}

@test "the cpu image asks no card and does not ask for models" {
  without nvidia-smi
  IMAGE_KIND=cpu run "$DOCKER_DIR/start.sh" --dry-run
  [ "$status" -eq 0 ]
  [[ $output == *"GATEWAY_ADMISSION=off"* && $output == *"DOWNLOAD_MODELS=false"* ]]
}

@test "the gateway image starts neither an engine nor a proxy" {
  IMAGE_KIND=gateway run "$DOCKER_DIR/start.sh" --dry-run
  [[ $output != *"GATEWAY_COMFYUI_COMMAND"* && $output != *"GATEWAY_PROXY_COMMAND"* ]]
}

@test "what the operator set is left as it is" {
  card 16376
  LOW_VRAM=true GATEWAY_PORT=9000 GATEWAY_WORKFLOW_OVERRIDES='{}' DATA_DIR=/elsewhere \
    run "$DOCKER_DIR/start.sh" --dry-run
  [[ $output == *"GATEWAY_PORT=9000"* && $output == *"GATEWAY_WORKFLOW_OVERRIDES={}"* ]]
  [[ $output == *"GATEWAY_DATA_DIR=/elsewhere/gateway"* && $output == *"LOW_VRAM=true"* ]]
}

@test "a mounted RunPod volume holds the data, an unmounted folder does not" {
  card 16376
  stand_in mountpoint '[[ $2 == /workspace ]]'
  run "$DOCKER_DIR/start.sh" --dry-run
  [[ $output == *"DATA_DIR=/workspace/steadydancer"* ]]
  stand_in mountpoint 'false'
  run "$DOCKER_DIR/start.sh" --dry-run
  [[ $output == *"DATA_DIR=/data"* ]]
}

@test "a wrong LOW_VRAM is refused" {
  card 16376
  LOW_VRAM=yes run "$DOCKER_DIR/start.sh" --dry-run
  [ "$status" -eq 2 ]
}

image_home() { # an image's folders, with a gateway that says what it got
  export IMAGE_HOME=$BATS_TEST_TMPDIR/home
  mkdir -p "$IMAGE_HOME/venv/bin" "$IMAGE_HOME/etc"
  cp "$DOCKER_DIR"/*.template "$DOCKER_DIR/comfyui-arguments.txt" "$IMAGE_HOME/etc/"
  printf '#!/bin/sh\necho "gateway pid $$: $*"\nenv | grep -cE "^(RUNPOD_API_KEY|HF_TOKEN)=" || true\n' \
    >"$IMAGE_HOME/venv/bin/steadydancer"
  chmod +x "$IMAGE_HOME/venv/bin/steadydancer"
}

@test "it lays the data out, becomes the gateway, and hands no foreign key on" {
  image_home
  card 16376
  export DATA_DIR=$BATS_TEST_TMPDIR/data DOWNLOAD_MODELS=false RUNPOD_API_KEY=secret HF_TOKEN=secret
  "$DOCKER_DIR/start.sh" >"$BATS_TEST_TMPDIR/out" &
  pid=$!
  wait "$pid"
  grep -qx "gateway pid $pid: serve" "$BATS_TEST_TMPDIR/out"
  grep -qx 0 "$BATS_TEST_TMPDIR/out"
  [ -d "$DATA_DIR/models" ] && [ -d "$DATA_DIR/comfyui/input" ] && [ -d "$DATA_DIR/gateway" ]
  grep -q "base_path: $DATA_DIR/models" "$DATA_DIR/gateway/etc/extra_model_paths.yaml"
  ! grep -q '@' "$DATA_DIR/gateway/etc/proxy.conf"
}

@test "root gives the data folder and the volumes in it away, and starts again as user 1000" {
  image_home
  card 16376
  printf '#!/bin/sh\necho 0\n' >"$BIN/id"
  stand_in stat 'echo 0'
  stand_in chown
  stand_in setpriv
  export DATA_DIR=$BATS_TEST_TMPDIR/data
  mkdir -p "$DATA_DIR/models"
  run "$DOCKER_DIR/start.sh"
  [ "$status" -eq 0 ]
  grep -qx "chown 1000:1000 $DATA_DIR" "$CALLS"
  grep -qx "chown 1000:1000 $DATA_DIR/models" "$CALLS"
  grep -qx "setpriv --reuid 1000 --regid 1000 --clear-groups --no-new-privs $DOCKER_DIR/start.sh" "$CALLS"
  [[ $output != *"gateway pid"* ]]
}

@test "root's command line becomes user 1000's too, and makes no folder" {
  printf '#!/bin/sh\necho 0\n' >"$BIN/id"
  stand_in setpriv
  IMAGE_KIND=gateway DATA_DIR=$BATS_TEST_TMPDIR/none run "$DOCKER_DIR/start.sh" --exec steadydancer models list
  [ "$status" -eq 0 ]
  grep -q "start.sh --exec steadydancer models list" "$CALLS"
  [ ! -e "$BATS_TEST_TMPDIR/none" ]
}

@test "a database is put back before the gateway starts, when a file asks for it, and once" {
  image_home
  card 16376
  export DATA_DIR=$BATS_TEST_TMPDIR/data DOWNLOAD_MODELS=false
  mkdir -p "$DATA_DIR/gateway"
  echo /v/before.db >"$DATA_DIR/gateway/restore-at-start"
  run "$DOCKER_DIR/start.sh"
  [ "$status" -eq 0 ]
  [[ $output == *"db restore /v/before.db"*": serve"* ]]
  run "$DOCKER_DIR/start.sh"
  [[ $output != *"db restore"* && $output == *": serve"* ]]
}

@test "a database that cannot be put back keeps the gateway from starting" {
  image_home
  card 16376
  export DATA_DIR=$BATS_TEST_TMPDIR/data DOWNLOAD_MODELS=false
  mkdir -p "$DATA_DIR/gateway"
  echo /v/before.db >"$DATA_DIR/gateway/restore-at-start"
  printf '#!/bin/sh\necho "$*"\nexit 1\n' >"$IMAGE_HOME/venv/bin/steadydancer"
  run "$DOCKER_DIR/start.sh"
  [ "$status" -eq 1 ]
  [[ $output == *"restore-at-start"* && $output != *serve* ]]
}

@test "a data folder that cannot be written is explained" {
  image_home
  card 16376
  DATA_DIR=/proc/nowhere run "$DOCKER_DIR/start.sh"
  [ "$status" -eq 1 ]
  [[ $output == *"cannot be written"* && $output == *"chown"* ]]
}

@test "models come beside the gateway, not before it" {
  image_home
  card 16376
  stand_in steadydancer 'sleep 3; echo late >>"$CALLS"'
  export DATA_DIR=$BATS_TEST_TMPDIR/data DOWNLOAD_MODELS=true
  began=$SECONDS
  "$DOCKER_DIR/start.sh" >/dev/null 3>&- 4>&-
  ((SECONDS - began < 3))
  for _ in $(seq 100); do grep -q late "$CALLS" && break; sleep 0.1; done
  grep -q "steadydancer models download" "$CALLS"
}

@test "another command runs under the same settings, also without a card" {
  without nvidia-smi
  DATA_DIR=/elsewhere run "$DOCKER_DIR/start.sh" --exec env
  [ "$status" -eq 0 ]
  [[ $output == *"GATEWAY_DATA_DIR=/elsewhere/gateway"* ]]
}

# --- comfyui.sh ----------------------------------------------------------------------------------

@test "the engine is told its port and keeps to loopback and the data folder" {
  DATA_DIR=/d IMAGE_HOME=/h COMFYUI_ARGUMENTS=$DOCKER_DIR/comfyui-arguments.txt \
    run "$DOCKER_DIR/comfyui.sh" --print 127.0.0.1 8189
  [ "$status" -eq 0 ]
  [[ $output == *"--listen=127.0.0.1"* && $output == *"--port=8189"* ]]
  [[ $output == *"--output-directory=/d/comfyui/output"* && $output != *"{"* ]]
}

@test "low VRAM and extra arguments reach the engine; the cpu image has the stand-in" {
  export DATA_DIR=/d COMFYUI_ARGUMENTS=$DOCKER_DIR/comfyui-arguments.txt
  LOW_VRAM=true COMFYUI_EXTRA_ARGS="--disable-metadata --reserve-vram 1" \
    run "$DOCKER_DIR/comfyui.sh" --print 127.0.0.1 8189
  [[ $output == *$'\n--lowvram\n--disable-metadata\n--reserve-vram\n1' ]]
  IMAGE_KIND=cpu run "$DOCKER_DIR/comfyui.sh" --print 127.0.0.1 8189
  [[ $output == *"app.standin"* && $output == *"/d/comfyui"* ]]
}

# --- download_models.sh --------------------------------------------------------------------------

@test "a failed download is tried again and its failure is told" {
  stand_in steadydancer 'exit 1'
  TRIES=3 PAUSE_SECONDS=0 run "$DOCKER_DIR/download_models.sh"
  [ "$status" -eq 1 ]
  [ "$(grep -c 'models download' "$CALLS")" -eq 3 ]
  [[ $output == *"goes on where it stopped"* ]]
}

@test "wrong usage and Ctrl-C are not tried again" {
  for code in 2 130; do
    : >"$CALLS"
    stand_in steadydancer "exit $code"
    TRIES=3 PAUSE_SECONDS=0 run "$DOCKER_DIR/download_models.sh"
    [ "$status" -eq "$code" ]
    [ "$(grep -c . "$CALLS")" -eq 1 ]
  done
}

@test "the dry run is passed on, and verify reads the files afterwards" {
  stand_in steadydancer
  run "$DOCKER_DIR/download_models.sh" --dry-run --variant q6_k
  [ "$status" -eq 0 ]
  grep -qx "steadydancer models download --dry-run --variant q6_k" "$CALLS"
  run "$DOCKER_DIR/download_models.sh" --verify --models-dir /m
  grep -qx "steadydancer models verify --models-dir /m" "$CALLS"
}

# --- flash-attn.sh -------------------------------------------------------------------------------

wheel_server() { # a folder with a wheel, and the address it would be served at
  mkdir -p "$BATS_TEST_TMPDIR/served"
  echo "not quite a wheel" >"$BATS_TEST_TMPDIR/served/wheel"
  export FLASH_ATTN_URL=file://$BATS_TEST_TMPDIR/served/wheel
  SHA=$(sha256sum "$BATS_TEST_TMPDIR/served/wheel" | cut -d ' ' -f 1)
}

@test "flash-attn without a hash ends the build in words, and 0 leaves it out" {
  run "$DOCKER_DIR/build/flash-attn.sh" fetch 1 "" wheels
  [ "$status" -eq 1 ]
  [[ $output == *"WITH_FLASH_ATTN=0"* ]]
  run "$DOCKER_DIR/build/flash-attn.sh" fetch 0 "" wheels
  [ "$status" -eq 0 ]
  UV=false run "$DOCKER_DIR/build/flash-attn.sh" install wheels
  [ "$status" -eq 0 ]
}

@test "the wheel's hash is printed, and what was printed is taken" {
  wheel_server
  run "$DOCKER_DIR/build/flash-attn.sh" --hash
  [ "$output" = "$SHA" ]
  run "$DOCKER_DIR/build/flash-attn.sh" fetch 1 "$SHA" wheels
  [ "$status" -eq 0 ]
  stand_in uv
  UV=uv CONSTRAINTS=c run "$DOCKER_DIR/build/flash-attn.sh" install wheels
  grep -q -- "--no-index --require-hashes --no-deps -c c -r wheels/flash-attn.lock" "$CALLS"
}

@test "another wheel than the hash's is not taken" {
  wheel_server
  run "$DOCKER_DIR/build/flash-attn.sh" fetch 1 "${SHA//[0-9]/0}" wheels
  [ "$status" -eq 1 ]
  [ ! -e wheels/flash-attn.lock ]
}

# --- preflight.sh --------------------------------------------------------------------------------

good_docker='case "$*" in
  "info --format {{.ServerVersion}}") echo 27.3.1 ;;
  "info --format {{.DockerRootDir}}") echo / ;;
esac'

@test "a good host passes" {
  card 16376
  stand_in docker "$good_docker"
  NEED_BYTES=1 run "$DOCKER_DIR/preflight.sh"
  [ "$status" -eq 0 ]
  [[ $output == *ready ]]
  grep -q 'run --rm --gpus all nvidia/cuda:12.4.1-base-ubuntu22.04 nvidia-smi' "$CALLS"
}

@test "a dead daemon, an old driver, a small card and a full disk are each told, and it ends with 1" {
  card 8192
  export DRIVER=535.183.01
  stand_in docker 'exit 1'
  NEED_BYTES=999999999999999999 run "$DOCKER_DIR/preflight.sh"
  [ "$status" -eq 1 ]
  [[ $output == *"daemon does not answer"* && $output == *"driver 535"* ]]
  [[ $output == *"8192 MiB"* && $output == *"GB are needed"* && $output != *ready* ]]
}

@test "a container that gets no GPU fails the preflight" {
  card 16376
  stand_in docker "$good_docker
[[ \$1 != run ]]"
  NEED_BYTES=1 run "$DOCKER_DIR/preflight.sh"
  [ "$status" -eq 1 ]
  [[ $output == *"Container Toolkit"* ]]
}

@test "a host without a card can be checked for the images that need none" {
  without nvidia-smi
  stand_in docker "$good_docker"
  NEED_BYTES=1 run "$DOCKER_DIR/preflight.sh" --no-gpu
  [ "$status" -eq 0 ]
}

# --- runtime-validate.sh -------------------------------------------------------------------------

@test "a gateway that does not answer is not in order" {
  STEADYDANCER_URL=http://127.0.0.1:9 run "$DOCKER_DIR/runtime-validate.sh" --wait 0
  [ "$status" -eq 1 ]
  [[ $output == *"no gateway at"* ]]
}

@test "a container in order: running, ready, doctor, memory" {
  stand_in docker 'case "$1 $2" in "inspect --format") echo true ;; esac
case "$*" in *nvidia-smi*) echo "412, 16376" ;; esac'
  stand_in curl
  run "$DOCKER_DIR/runtime-validate.sh" --container box --wait 0
  [ "$status" -eq 0 ]
  grep -q "docker exec box steadydancer doctor" "$CALLS"
  [[ $output == *"412, 16376"* ]]
}

@test "what doctor finds makes it fail" {
  stand_in docker 'case "$1 $2" in "inspect --format") echo true ;; esac
case "$*" in *doctor*) exit 1 ;; *nvidia-smi*) echo "412, 16376" ;; esac'
  stand_in curl
  run "$DOCKER_DIR/runtime-validate.sh" --container box --wait 0
  [ "$status" -eq 1 ]
}

# --- functional-test.sh, performance-report.sh ---------------------------------------------------

@test "the dry run of the functional test shows both jobs and sends none" {
  stand_in steadydancer
  run "$DOCKER_DIR/functional-test.sh" --dry-run --steadydancer
  [ "$status" -eq 0 ]
  [[ $output == *"--workflow smoke"* && $output == *"--workflow steadydancer"* ]]
  [ ! -s "$CALLS" ]
}

@test "an answer that is no mp4 fails the functional test" {
  stand_in steadydancer 'while [[ $1 != --output ]]; do shift; done; echo "<html>no</html>" >"$2"'
  stand_in curl 'echo "{\"available\": true}"'
  OUTPUT_DIR=$BATS_TEST_TMPDIR run "$DOCKER_DIR/functional-test.sh" --smoke-only
  [ "$status" -eq 1 ]
  [[ $output == *"no mp4"* ]]
}

@test "a failed job fails the functional test" {
  stand_in steadydancer 'exit 1'
  stand_in curl 'echo "{\"available\": true}"'
  run "$DOCKER_DIR/functional-test.sh" --smoke-only
  [ "$status" -eq 1 ]
  [[ $output == *"did not succeed"* ]]
}

@test "the report reads wait, load, step and memory out of job and events" {
  stand_in steadydancer 'echo "{\"id\": \"j\", \"usage\": {\"queue_seconds\": 1.5, \"gpu_seconds\": 20, \"peak_vram_mib\": 14100}, \"artifacts\": [{\"name\": \"video\", \"bytes\": 12345, \"width\": 480, \"height\": 832, \"frames\": 17}]}"'
  stand_in curl 'cat <<T
event: job.phase
data: {"at": "2026-01-01T00:00:00Z", "phase": "loading"}

data: {"at": "2026-01-01T00:00:08Z", "phase": "sampling"}
data: {"at": "2026-01-01T00:00:10Z", "progress": {"step": 1}}
data: {"at": "2026-01-01T00:00:16Z", "progress": {"step": 4}}
T'
  run "$DOCKER_DIR/performance-report.sh" --runs 1
  [ "$status" -eq 0 ]
  [[ $output == *"8.0 s"* && $output == *"2.0 s"* && $output == *"14,100 MiB"* && $output == *"12,345 bytes"* ]]
}

@test "steps faster than the event log are counted over the whole of the sampling" {
  stand_in steadydancer 'echo "{\"id\": \"j\", \"usage\": {}, \"artifacts\": []}"'
  stand_in curl 'cat <<T
data: {"type": "job.phase", "at": "2026-01-01T00:00:00Z", "data": {"phase": "sampling"}}
data: {"type": "job.progress", "at": "2026-01-01T00:00:01Z", "data": {"fraction": 0.5, "step": 2, "steps": 4}}
data: {"type": "job.phase", "at": "2026-01-01T00:00:02Z", "data": {"phase": "decoding"}}
T'
  run "$DOCKER_DIR/performance-report.sh" --runs 1
  [ "$status" -eq 0 ]
  [[ $output == *"0.5 s"* ]]
}

# --- runpod-create.sh ----------------------------------------------------------------------------

@test "an image without a version, or :latest, is refused" {
  for image in ghcr.io/o/i ghcr.io/o/i:latest; do
    run "$DOCKER_DIR/runpod-create.sh" --dry-run --image "$image"
    [ "$status" -eq 2 ]
  done
}

@test "the command has version 2's words, both ports and JSON for the environment" {
  run "$DOCKER_DIR/runpod-create.sh" --dry-run --image ghcr.io/o/i:1.2 --env 'A=b=c,d' \
    --env 'HF_TOKEN={{ RUNPOD_SECRET_hf }}'
  [ "$status" -eq 0 ]
  [[ $output == *"runpodctl pod create"* && $output == *"--gpu-id"* && $output == *"8000/http"* ]]
  [[ $output == *"--volume-mount-path /workspace"* && $output == *"--min-cuda-version 12.4"* ]]
  [[ $output == *"b=c"* ]]
}

@test "an old runpodctl is refused before anything is made" {
  stand_in runpodctl '[[ $1 == version ]] && echo "runpodctl v1.14.15"'
  run "$DOCKER_DIR/runpod-create.sh" --image ghcr.io/o/i:1.2
  [ "$status" -eq 1 ]
  ! grep -q create "$CALLS"
}

new_runpodctl='case "$*" in
  version) echo "runpodctl 2.7.2" ;;
  *--help) echo "--name --image --gpu-id --gpu-count --cloud-type --container-disk-in-gb --volume-in-gb
    --volume-mount-path --ports --env --min-cuda-version --network-volume-id --registry-auth-id " ;;
esac'

@test "an early runpodctl 2 that lacks an option makes no pod" {
  stand_in runpodctl "${new_runpodctl/--network-volume-id }"
  run "$DOCKER_DIR/runpod-create.sh" --image ghcr.io/o/i:1.2 --network-volume nv1
  [ "$status" -eq 1 ]
  [[ $output == *"--network-volume-id"* ]]
  ! grep -q "create --name" "$CALLS"
}

@test "a network volume takes the place of the volume disk" {
  stand_in runpodctl "$new_runpodctl"
  run "$DOCKER_DIR/runpod-create.sh" --image ghcr.io/o/i@sha256:abc --network-volume nv1
  [ "$status" -eq 0 ]
  grep -q -- "--network-volume-id nv1" "$CALLS"
  ! grep -q -- "--volume-in-gb" "$CALLS"
}

# --- rollback.sh, final-verification.sh ----------------------------------------------------------

@test "no earlier image, nothing stopped" {
  stand_in docker '[[ $1 == compose ]]'
  stand_in curl
  run "$DOCKER_DIR/rollback.sh" --image r/i:1
  [ "$status" -eq 1 ]
  ! grep -q stop "$CALLS"
}

@test "stop, restore, start, in this order" {
  stand_in docker
  stand_in curl
  run "$DOCKER_DIR/rollback.sh" --image r/i:1 --backup /data/gateway/b.db
  [ "$status" -eq 0 ]
  order=$(grep -oE ' (stop|db restore|up -d)' "$CALLS" | tr -d '\n')
  [ "$order" = " stop db restore up -d" ]
}

@test "a backup that is not restored leaves the gateway stopped" {
  stand_in docker '[[ $* != *restore* ]]'
  stand_in curl
  run "$DOCKER_DIR/rollback.sh" --image r/i:1 --backup /data/gateway/b.db
  [ "$status" -eq 1 ]
  ! grep -q 'up -d' "$CALLS"
}

@test "a pod is rolled back with version 2's words, and a dry run does nothing" {
  stand_in runpodctl
  run "$DOCKER_DIR/rollback.sh" --pod p1 --image r/i:1 --dry-run
  [ ! -s "$CALLS" ]
  run "$DOCKER_DIR/rollback.sh" --pod p1 --image r/i:1
  grep -qx "runpodctl pod update p1 --image r/i:1" "$CALLS"
}

@test "the final verification fails when one step does, and does the rest all the same" {
  stand_in curl
  stand_in steadydancer 'exit 1'
  run "$DOCKER_DIR/final-verification.sh" --smoke-only
  [ "$status" -eq 1 ]
  [[ $output == *"1 passed, 1 failed"* || $output == *"0 passed, 2 failed"* ]]
}
