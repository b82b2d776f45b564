#!/bin/sh
# Writes zz_generated.defaults.go in every group's folder: the walk from each kind down to the SetDefaults_ functions
# here and to the +default markers of k8s.io/api. Run from anywhere; needs only the Go modules.
set -eu
cd "$(dirname "$0")"
base=github.com/reevehq/reeve/controlplane/apis/defaults
header=$(mktemp)
trap 'rm -f "$header"' EXIT
groups=$(for f in */doc.go; do grep -q 'k8s:defaulter-gen-input' "$f" && echo "$base/${f%/doc.go}"; done)
# Core is a peer of every group: pod templates and claims are defaulted by its functions.
# shellcheck disable=SC2086
go tool defaulter-gen --go-header-file "$header" --output-file zz_generated.defaults.go \
	--extra-peer-dirs "$base/core" $groups
