#!/usr/bin/env bash
# Installs what is missing, and only that: need.sh COMMAND=PACKAGE… where COMMAND is looked for in PATH (sbin included),
# or is an absolute path of a file.
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin"
missing=()
for pair in "$@"; do
  command=${pair%%=*} package=${pair#*=}
  case $command in
    /*) [ -e "$command" ] && continue ;;
    *) command -v "$command" >/dev/null && continue ;;
  esac
  missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0
echo "Installing: ${missing[*]}"
if ! command -v apt-get >/dev/null; then
  echo "need.sh: no apt-get here; install the equivalent of: ${missing[*]}" >&2
  exit 1
fi
sudo=()
[ "$(id -u)" -eq 0 ] || sudo=(sudo)
export DEBIAN_FRONTEND=noninteractive
"${sudo[@]}" apt-get update -qq
"${sudo[@]}" apt-get install -y -qq --no-remove --no-install-recommends "${missing[@]}"
