#!/usr/bin/env bash
# Everything that can be asked of a deployment, in order; nothing is assumed from a name.
set -Eeuo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"
leave_root "$@"

usage() {
  cat <<'TEXT'
Usage: final-verification.sh [--container NAME] [--smoke-only]

Runs runtime-validate.sh, `steadydancer models verify` (in the container), functional-test.sh.
--smoke-only leaves SteadyDancer out (a machine without models), and says so at the end.

STEADYDANCER_URL, STEADYDANCER_KEY: which gateway, which key.

Exit codes: 0 everything passed; 1 something did not; 2 wrong usage.
TEXT
}

container='' smoke_only=false
while (($#)); do
  case $1 in
    --container)
      (($# >= 2)) || { usage >&2; exit "$EXIT_USAGE"; }
      container=$2
      shift
      ;;
    --smoke-only) smoke_only=true ;;
    -h | --help) usage; exit "$EXIT_OK" ;;
    *) usage >&2; exit "$EXIT_USAGE" ;;
  esac
  shift
done
here=$(cd "$(dirname "$0")" && pwd)

passed=0 failed=0
step() { # WORDS COMMAND...
  local words=$1
  shift
  say "--- $words"
  if "$@"; then passed=$((passed + 1)); else
    say "--- $words: FAILED"
    failed=$((failed + 1))
  fi
}

step "the deployment is in order" "$here/runtime-validate.sh" ${container:+--container "$container"}
if ! $smoke_only && [[ -n $container ]]; then
  step "every model file is whole" docker exec "$container" steadydancer models verify
fi
if $smoke_only; then
  step "a job without models" "$here/functional-test.sh" --smoke-only
else
  step "a job of each workflow" "$here/functional-test.sh" --steadydancer
fi

say "$passed passed, $failed failed"
if $smoke_only; then say "SteadyDancer itself was not tried."; fi
((failed == 0))
