//go:build tools

// Package critools keeps critest's and crictl's needs in this module's go.mod.
package critools

import (
	_ "github.com/onsi/ginkgo/v2/ginkgo" // the parallel runner that critest -parallel starts
	_ "sigs.k8s.io/cri-tools/pkg/benchmark"
	_ "sigs.k8s.io/cri-tools/pkg/validate"
)
