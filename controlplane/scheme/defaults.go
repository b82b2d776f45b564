package scheme

import (
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/reevehq/reeve/controlplane/apis/defaults"
)

// addDefaults registers the defaulting functions, which run on what clients send and on what the store returns.
func addDefaults(s *runtime.Scheme) error { return defaults.AddToScheme(s) }
