#!/usr/bin/env bash
# Brings one commit of a repository, and proves that it is that commit.
set -Eeuo pipefail

if [[ ${1-} == --help || $# -lt 3 ]]; then
  echo "Usage: checkout.sh URL FOLDER COMMIT [REF]"
  echo "REF is asked for where the server does not give a commit by its (shortened) name."
  [[ ${1-} == --help ]] && exit 0 || exit 2
fi
url=$1 folder=$2 commit=$3 ref=${4:-$3}

git init --quiet "$folder"
git -C "$folder" fetch --quiet --depth 1 "$url" "$ref"
git -C "$folder" checkout --quiet --detach FETCH_HEAD
have=$(git -C "$folder" rev-parse HEAD)
if [[ $have != "$commit"* || ${#commit} -lt 8 ]]; then
  echo "checkout.sh: $url $ref is $have, not $commit" >&2
  exit 1
fi
rm -rf "$folder/.git"
printf '%s\n' "$have" >"$folder/.commit"
