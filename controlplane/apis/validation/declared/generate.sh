#!/bin/sh
# Writes zz_generated.validations.go in every group's folder from the +k8s: validation markers of k8s.io/api. Run from
# anywhere; needs only the Go modules.
set -eu
cd "$(dirname "$0")"
base=github.com/reevehq/reeve/controlplane/apis/validation/declared
header=$(mktemp)
trap 'rm -f "$header"' EXIT
groups=$(for f in */doc.go; do grep -q 'k8s:validation-gen-input' "$f" && echo "$base/${f%/doc.go}"; done)
# shellcheck disable=SC2086
go tool validation-gen --go-header-file "$header" --output-file zz_generated.validations.go \
	--readonly-pkg k8s.io/apimachinery/pkg/apis/meta/v1 \
	--readonly-pkg k8s.io/apimachinery/pkg/api/resource \
	--readonly-pkg k8s.io/apimachinery/pkg/runtime \
	--readonly-pkg k8s.io/apimachinery/pkg/runtime/schema \
	--readonly-pkg k8s.io/apimachinery/pkg/types \
	--readonly-pkg k8s.io/apimachinery/pkg/util/intstr \
	--readonly-pkg time $groups
