#!/bin/sh
# Writes the control plane's generated Go: OpenAPI definitions of every type that the API server serves.
# Reproducible: same module versions in, same bytes out. Run by `make generate`, from anywhere.
set -eu
cd "$(dirname "$0")/.."

header=$(mktemp)
trap 'rm -f "$header"' EXIT
: >"$header"

# Every group and version served: the GA ones of the release, and the machinery's own types.
packages="
k8s.io/api/admissionregistration/v1
k8s.io/api/apps/v1
k8s.io/api/authentication/v1
k8s.io/api/authorization/v1
k8s.io/api/autoscaling/v1
k8s.io/api/autoscaling/v2
k8s.io/api/batch/v1
k8s.io/api/certificates/v1
k8s.io/api/coordination/v1
k8s.io/api/core/v1
k8s.io/api/discovery/v1
k8s.io/api/events/v1
k8s.io/api/flowcontrol/v1
k8s.io/api/networking/v1
k8s.io/api/node/v1
k8s.io/api/policy/v1
k8s.io/api/rbac/v1
k8s.io/api/resource/v1
k8s.io/api/scheduling/v1
k8s.io/api/storage/v1
k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1
k8s.io/apimachinery/pkg/api/resource
k8s.io/apimachinery/pkg/apis/meta/v1
k8s.io/apimachinery/pkg/runtime
k8s.io/apimachinery/pkg/util/intstr
k8s.io/apimachinery/pkg/version
k8s.io/kube-aggregator/pkg/apis/apiregistration/v1
"

# The linter's findings are upstream's own field names; they are reported to nowhere on purpose.
# shellcheck disable=SC2086
go tool openapi-gen \
	--go-header-file "$header" \
	--output-dir controlplane/openapi \
	--output-pkg github.com/reevehq/reeve/controlplane/openapi \
	--output-file zz_generated.openapi.go \
	--report-filename /dev/null \
	$packages
