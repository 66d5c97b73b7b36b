#!/usr/bin/env bash
# Fails unless each file is there and is no stub: neither a placeholder nor a Git LFS pointer.
set -Eeuo pipefail

if [[ ${1-} == --help || $# -lt 2 ]]; then
  echo "Usage: check-files.sh FOLDER FILE..."
  [[ ${1-} == --help ]] && exit 0 || exit 2
fi
cd "$1"
shift
status=0
for file in "$@"; do
  size=$(stat -c %s -- "$file" 2>/dev/null || echo 0)
  if ((size < 100000)); then
    echo "check-files.sh: $file has $size bytes; a tokenizer has far more" >&2
    status=1
  fi
done
exit "$status"
