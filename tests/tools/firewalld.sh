#!/usr/bin/env bash
# Unpacks firewalld into a folder, unless it is there: tests run it in a network namespace. It is not installed, since that
# starts it on the machine itself and at every boot.
set -euo pipefail
into=$1
[ -x "$into/usr/sbin/firewalld" ] && exit 0
if ! command -v apt-get >/dev/null; then
  echo "firewalld.sh: no apt-get here; unpack a firewalld into $into (usr/sbin/firewalld, usr/lib/firewalld, its Python modules)" >&2
  exit 1
fi
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
chmod 755 "$dir"
cd "$dir"
download() { apt-get download -qq -o APT::Sandbox::User=root firewalld python3-firewall; }
download || {
  if [ "$(id -u)" -eq 0 ]; then apt-get update -qq; else sudo apt-get update -qq; fi
  download
}
mkdir tree
for deb in *.deb; do dpkg-deb -x "$deb" tree; done
cd - >/dev/null
rm -rf "$into"
mkdir -p "$(dirname "$into")"
mv "$dir/tree" "$into"
